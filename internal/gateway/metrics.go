package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics of one gateway. Environments are counted, never named.
type metrics struct {
	registry *prometheus.Registry
	held     prometheus.Counter
	wait     prometheus.Histogram
	failed   *prometheus.CounterVec
}

func newMetrics(t *table) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		held:     prometheus.NewCounter(prometheus.CounterOpts{Name: "dayfly_gateway_held_requests_total", Help: "Requests that waited for an environment to run."}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "dayfly_gateway_held_seconds", Help: "How long they waited.",
			Buckets: []float64{.1, .3, 1, 3, 10, 30, 100}}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "dayfly_gateway_failed_requests_total", Help: "Requests that no environment answered, by reason."}, []string{"reason"}),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m.held, m.wait, m.failed,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "dayfly_gateway_addresses", Help: "Addresses of environments."}, func() float64 {
			t.mu.RLock()
			defer t.mu.RUnlock()
			return float64(len(t.hosts))
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "dayfly_gateway_open_requests", Help: "Requests under way."}, func() float64 {
			t.mu.RLock()
			defer t.mu.RUnlock()
			n := 0
			for _, e := range t.envs {
				e.use.mu.Lock()
				n += len(e.use.open)
				e.use.mu.Unlock()
			}
			return float64(n)
		}))
	return m
}

// serveHealth answers the kubelet and Prometheus: a gateway is ready once it knows every environment and has a certificate.
func (g *Gateway) serveHealth(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := g.cert.get(nil); err != nil || ctx.Err() != nil {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	s := &http.Server{
		Addr: fmt.Sprintf(":%d", HealthPort), Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(g.opts.Logger.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health: %w", err)
	}
	return nil
}
