// Package router is the role that carries captured traffic: it serves the captured ports by the controller's table, holds
// the laptops' tunnels, and watches the other routers.
package router

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/identity"
	"dayfly.dev/dayfly/internal/intercept"
	"dayfly.dev/dayfly/internal/tunnel"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/client-go/kubernetes"
)

// Options configure a router. All are required but the last two.
type Options struct {
	Name       string // of this pod
	Namespace  string // of dayfly
	Version    string
	TokenFile  string // a service account token for control.Audience
	Controller string // host:port to enrol at
	Kubernetes kubernetes.Interface
	Logger     *slog.Logger

	Traces trace.TracerProvider // nil: none are made
	At     func(point string)   // told what happens next, or has happened; default: nobody is told
}

// Router is one router.
type Router struct {
	opts    Options
	log     *slog.Logger
	certs   identity.Holder
	origins *origins
	data    *intercept.Router
	tunnels *tunnel.Server
	marker  *marker
	peers   *peers
	flows   *flows
	metrics *metrics

	mu        sync.Mutex
	table     control.Table
	lingering []intercept.Listener      // served on although the table leaves them out
	heard     time.Time                 // when a controller that leads was heard last
	keys      map[string]bool           // public keys of sessions
	byID      map[string]control.Laptop // sessions
	seq       int64
	changed   chan struct{}
	leaving   bool
}

// New returns a router that does nothing yet.
func New(opts Options) (*Router, error) {
	if opts.At == nil {
		opts.At = func(string) {}
	}
	r := &Router{opts: opts, log: opts.Logger, changed: make(chan struct{}), keys: map[string]bool{}, byID: map[string]control.Laptop{}, flows: newFlows()}
	r.metrics = newMetrics(r)
	r.origins = newOrigins(opts.Kubernetes, r.touch)
	r.marker = newMarker(opts.Logger)
	r.peers = newPeers(r)
	r.tunnels = tunnel.NewServer(tunnel.ServerOptions{
		Name: opts.Name, Version: opts.Version, Logger: opts.Logger, Changed: r.touch,
		TLS:    r.certs.TunnelTLS(r.knownKey),
		HasKey: r.hasKey, Allowed: r.allowed,
	})
	var observe func(intercept.Exchange)
	if opts.Traces != nil {
		observe = tracer(opts.Traces)
	}
	data, err := intercept.New(intercept.Options{
		Endpoints: r.origins.lately, Logger: opts.Logger, Dial: r.metrics.dial, DialTunnel: r.dialLaptop, Observe: observe,
	})
	if err != nil {
		return nil, err
	}
	r.data = data
	return r, nil
}

// dialLaptop opens a stream to the process that answers a route.
func (r *Router) dialLaptop(ctx context.Context, route intercept.Route, client net.Addr) (net.Conn, error) {
	session, name := splitRoute(route.ID)
	start := time.Now()
	if route.Datagrams {
		stream, err := r.tunnels.DialDatagrams(ctx, session, name, client)
		r.metrics.dialled("laptop", start, err)
		if err != nil {
			return nil, err
		}
		return tunnel.Datagrams(r.flows.count(route.ID, stream)), nil
	}
	stream, err := r.tunnels.DialEarly(ctx, session, name, client)
	if err != nil {
		r.metrics.dialled("laptop", start, err)
		return nil, err
	}
	return &earlyStream{r.flows.count(route.ID, stream), stream, func(err error) { r.metrics.dialled("laptop", start, err) }}, nil
}

// earlyStream is a stream that the laptop's process may not have accepted yet.
type earlyStream struct {
	*countedStream
	stream  *tunnel.Stream
	dialled func(error)
}

// Accepted and Quiet are what the engine asks of a stream besides (see intercept.Options.DialTunnel).
func (s *earlyStream) Accepted() error {
	err := s.stream.Accepted()
	s.dialled(err)
	return err
}

func (s *earlyStream) Quiet() bool { return s.stream.Quiet() }

// splitRoute takes a route's ID apart: session ID / route.
func splitRoute(id string) (session, route string) {
	for i := range len(id) {
		if id[i] == '/' {
			return id[:i], id[i+1:]
		}
	}
	return id, ""
}

func (r *Router) knownKey(publicKey string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys[publicKey]
}

func (r *Router) hasKey(session, publicKey string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.byID[session]
	return ok && l.PublicKey == publicKey
}

func (r *Router) allowed(session, route string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.byID[session].Routes, route)
}

const (
	leaveSlices = 14 * time.Second // for being taken out of the slices: the last one in a slice cannot do it itself
	leaveTime   = 3 * time.Second  // after that, the nodes have surely stopped sending new connections
	drainTime   = 20 * time.Second // for connections that are open when the router goes
)

// Run serves until ctx ends, then leaves in order: it takes itself out of the slices, goes on serving while the nodes
// follow, and lets open connections drain.
func (r *Router) Run(ctx context.Context) error {
	serving, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	var wg sync.WaitGroup
	run := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(serving); err != nil && serving.Err() == nil {
				stop(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	run("health", r.serveHealth)
	run("certificates", r.keepEnrolled)
	run("origins", r.origins.run)
	run("marker", r.marker.run)
	run("control", r.serveControl)
	run("laptops", r.serveLaptops)
	run("peers", r.peers.run)
	run("drains", r.watchDrains)
	select {
	case <-ctx.Done():
		r.leave()
	case <-serving.Done():
	}
	stop(nil)
	wg.Wait()
	if err := context.Cause(serving); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (r *Router) leave() {
	r.log.Info("leaving")
	r.mu.Lock()
	r.leaving = true
	r.mu.Unlock()
	r.tunnels.Leave()
	r.touch()
	r.awaitOut()
	time.Sleep(leaveTime)
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	r.data.Close(ctx)
}

// awaitOut takes this router out of the slices, and returns when it is in none.
func (r *Router) awaitOut() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveSlices)
	defer cancel()
	own := r.ownAddresses()
	for {
		offered, err := r.peers.prune(ctx, r.opts.Name, own)
		if err == nil && offered == 0 {
			return
		}
		select {
		case <-ctx.Done():
			r.log.Warn("leaving although nodes may still send connections", "slices", offered, "reason", err)
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (r *Router) isLeaving() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leaving
}

func (r *Router) ownAddresses() []netip.Addr {
	var out []netip.Addr
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
			out = append(out, p.Addr())
		}
	}
	return out
}

// keepEnrolled gets this router's certificate and renews it at half of its life.
func (r *Router) keepEnrolled(ctx context.Context) error {
	pause := 200 * time.Millisecond
	for {
		next := pause
		if err := r.enrol(ctx); err != nil {
			r.log.Warn("could not enrol", "reason", err)
			pause = min(pause*2, 2*time.Second)
		} else {
			pause = 200 * time.Millisecond
			next = r.certs.Get().RenewIn()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

// Ready says whether laptops and the controller can be served: there is a certificate, and the origins are known.
func (r *Router) ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.leaving:
		return errors.New("leaving")
	case r.certs.Get() == nil:
		return errors.New("no certificate yet")
	case !r.origins.synced():
		return errors.New("endpoints are not known yet")
	}
	return nil
}

func (r *Router) serveHealth(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := r.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", r.metrics.handler())
	return serve(ctx, control.HealthPort, nil, mux, r.log)
}

func (r *Router) serveControl(ctx context.Context) error {
	return serve(ctx, control.ControlPort, r.certs.ServerTLS(identity.RoleController, identity.RoleRouter), control.RouterHandler(r, r.log), r.log)
}

// How many connections one of a router's own ports holds that are HTTP, and how many of them from one address.
const maxConns, maxConnsFrom = 2048, 512

// serve answers HTTP on a port until ctx ends.
func serve(ctx context.Context, port int, cfg *tls.Config, h http.Handler, log *slog.Logger) error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return err
	}
	if cfg != nil {
		l = tls.NewListener(l, cfg)
	}
	s := &http.Server{
		Handler: h, ConnState: newCrowd(maxConns, maxConnsFrom).track(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return ctx },
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
