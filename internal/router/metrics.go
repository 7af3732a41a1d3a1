package router

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"dayfly.dev/dayfly/internal/intercept"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what Prometheus reads. What the engine counts is read when it is asked for, so requests pay nothing for it.
// Labels name captured ports and nothing else: no user, no session, no rule; what is released is no longer shown.
type metrics struct {
	router *Router
	dials  *prometheus.HistogramVec
	failed *prometheus.CounterVec
}

func newMetrics(r *Router) *metrics {
	m := &metrics{
		router: r,
		dials: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "dayfly_router_dial_seconds", Help: "Time to connect to an original pod, or to the process on a laptop.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"to"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_router_dial_failures_total", Help: "Connections to an original pod, or to the process on a laptop, that could not be made.",
		}, []string{"to"}),
	}
	for _, to := range []string{"original", "laptop"} { // there from the start: an alert sees the first one
		m.dials.WithLabelValues(to)
		m.failed.WithLabelValues(to)
	}
	return m
}

// dial is intercept's default, with its time taken.
func (m *metrics) dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	start := time.Now()
	c, err := intercept.Dial(ctx, addr)
	m.dialled("original", start, err)
	return c, err
}

func (m *metrics) dialled(to string, start time.Time, err error) {
	if err != nil {
		m.failed.WithLabelValues(to).Inc()
		return
	}
	m.dials.WithLabelValues(to).Observe(time.Since(start).Seconds())
}

func (m *metrics) handler() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(m, m.dials, m.failed, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var ofPort = []string{"namespace", "service", "port"}

// Descriptions, in the order in which docs/operations.md explains them.
var (
	descOpen      = describe("dayfly_router_connections_open", "Connections of callers that are open now.", ofPort...)
	descAccepted  = describe("dayfly_router_connections_accepted_total", "Connections of callers since the port was captured.", ofPort...)
	descOriginal  = describe("dayfly_router_original_requests_total", "HTTP requests that the original got, fallbacks included.", ofPort...)
	descMatched   = describe("dayfly_router_matched_requests_total", "Requests that matched a rule, and raw connections that a laptop got; fallbacks included.", ofPort...)
	descFallbacks = describe("dayfly_router_fallbacks_total", "Requests and raw connections meant for a laptop that the original got.", ofPort...)
	descWired     = describe("dayfly_router_wired_total", "Connections that were not HTTP/1, or ceased to be, and are copied unread.", ofPort...)
	descResets    = describe("dayfly_router_resets_total", "Connections that were reset because they outlasted a drain.", ofPort...)
	descDropped   = describe("dayfly_router_datagrams_dropped_total", "Datagrams for which there was no room or nobody to send them to.", ofPort...)
	descCrowded   = describe("dayfly_router_crowded_total", "Connections that were reset because there were too many.", ofPort...)
	descForbidden = describe("dayfly_router_forbidden_total", "Connections reset, and datagrams dropped, because network policies do not let their callers call.", ofPort...)
	descTunnels   = describe("dayfly_router_tunnels", "Connections of laptops.")
	descStreams   = describe("dayfly_router_streams", "Streams to laptops that are open now.")
	descOpened    = describe("dayfly_router_streams_opened_total", "Streams to laptops.")
	descSent      = describe("dayfly_router_laptop_sent_bytes_total", "Bytes sent to laptops.")
	descReceived  = describe("dayfly_router_laptop_received_bytes_total", "Bytes received from laptops.")
	descTerm      = describe("dayfly_router_table_term", "Term of the table in force: grows when the leading controller changes.")
	descTable     = describe("dayfly_router_table_version", "Version of the table in force, within its term.")
	descReady     = describe("dayfly_router_ready", "1 if this router can serve laptops and captured ports.")
	descBuild     = describe("dayfly_build_info", "1, with the version of this binary.", "version", "role")
)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descOpen, descAccepted, descOriginal, descMatched, descFallbacks, descWired, descResets, descDropped, descCrowded, descForbidden,
		descTunnels, descStreams, descOpened, descSent, descReceived, descTerm, descTable, descReady, descBuild} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	r := m.router
	for _, l := range r.data.Status().Listeners {
		if !r.serves(l.Port) {
			continue // it lingers, and its Service may be captured anew
		}
		namespace, service, _ := strings.Cut(l.Service, "/")
		port := strconv.Itoa(l.ServicePort)
		if l.UDP {
			port += "/udp" // a Service may have one number for both
		}
		of := []string{namespace, service, port}
		gauge(descOpen, float64(l.Open), of...)
		counter(descAccepted, l.Accepted, of...)
		counter(descOriginal, l.Origin, of...)
		counter(descMatched, l.Matched, of...)
		counter(descFallbacks, l.Fallbacks, of...)
		counter(descWired, l.Wired, of...)
		counter(descResets, l.Resets, of...)
		counter(descDropped, l.Dropped, of...)
		counter(descCrowded, l.Crowded, of...)
		counter(descForbidden, l.Forbidden, of...)
	}
	tunnels, streams := r.tunnels.Open()
	gauge(descTunnels, float64(tunnels))
	gauge(descStreams, float64(streams))
	counter(descOpened, r.flows.opened.Load())
	counter(descSent, r.flows.sent.Load())
	counter(descReceived, r.flows.received.Load())
	r.mu.Lock()
	term, version := r.table.Term, r.table.Version
	r.mu.Unlock()
	gauge(descTerm, float64(term))
	gauge(descTable, float64(version))
	ready := 0.0
	if r.ready() == nil {
		ready = 1
	}
	gauge(descReady, ready)
	gauge(descBuild, 1, r.opts.Version, "router")
}
