package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// closeTimeout is the time that requests in flight have once the listener is closed.
const closeTimeout = 10 * time.Second

// serve runs one service until ctx is done, then drains it.
func serve(ctx context.Context, cfg config, log *slog.Logger) error {
	main, err := net.Listen("tcp", net.JoinHostPort(cfg.Host, cfg.Port))
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	var admin net.Listener
	if cfg.AdminPort != "" {
		if admin, err = net.Listen("tcp", net.JoinHostPort(cfg.Host, cfg.AdminPort)); err != nil {
			main.Close()
			return fmt.Errorf("listening on the admin port (ADMIN_PORT=off does without): %w", err)
		}
	}
	return serveOn(ctx, cfg, log, main, admin)
}

// serveOn serves on listeners that are open, and closes them. admin may be nil. It returns when all it started is gone.
func serveOn(ctx context.Context, cfg config, log *slog.Logger, main, admin net.Listener) error {
	s := newService(cfg, log)
	defer s.client.CloseIdleConnections()
	if cfg.DatabaseURL != "" {
		d, err := openDatabase(cfg.DatabaseURL)
		if err != nil {
			main.Close() // orders has no admin port
			return err
		}
		defer d.pool.Close()
		s.kept = d
	}
	servers := []*http.Server{s.server(s.handler())}
	listeners := []net.Listener{main}
	if admin != nil {
		servers, listeners = append(servers, s.server(s.adminHandler())), append(listeners, admin)
	}
	ended := make(chan error, len(servers))
	for i, srv := range servers {
		log.Info("listening", "address", listeners[i].Addr().String())
		go func() { ended <- srv.Serve(listeners[i]) }()
	}

	var failure error
	running := len(servers)
	select {
	case failure = <-ended:
		running--
	case <-ctx.Done():
		s.drain()
	}
	failure = errors.Join(failure, shutdown(ctx, servers))
	for range running {
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			failure = errors.Join(failure, err)
		}
	}
	log.Info("stopped", "requests", s.requests.Load())
	return failure
}

// drain fails readiness and goes on serving, until those who send requests here have noticed.
func (s *service) drain() {
	s.draining.Store(true)
	s.log.Info("draining", "for", s.cfg.Drain.String())
	time.Sleep(s.cfg.Drain)
}

// shutdown closes the listeners, waits for requests in flight, and cuts those that take longer than closeTimeout.
func shutdown(ctx context.Context, servers []*http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	var failure error
	for _, srv := range servers {
		if err := srv.Shutdown(ctx); err != nil {
			failure = errors.Join(failure, fmt.Errorf("cutting requests in flight: %w", err), srv.Close())
		}
	}
	return failure
}

func (s *service) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       75 * time.Second, // longer than callers keep theirs, so that the caller closes first
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}
