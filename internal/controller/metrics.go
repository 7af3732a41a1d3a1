package controller

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/session"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// register adds dayfly's own metrics to those of controller-runtime: reconciles, work queue, requests to the API server.
// unregister takes them out again, since a controller that starts over has new ones.
func register(engine *session.Engine, own *inventory) (unregister func(), err error) {
	all := append(engine.Collectors(), own)
	unregister = func() {
		for _, c := range all {
			metrics.Registry.Unregister(c)
		}
	}
	for _, c := range all {
		if err := metrics.Registry.Register(c); err != nil {
			return unregister, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return unregister, nil
}

func metricsHandler() http.Handler {
	return promhttp.HandlerFor(metrics.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// inventory counts what there is, when Prometheus asks. Only the leading controller tells; sessions and owners are counted,
// never named.
type inventory struct {
	fleet   *fleet
	cached  client.Reader
	version string
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	descSessions     = describe("dayfly_sessions", "Sessions, by state: connected, away, closing.", "state")
	descIntercepts   = describe("dayfly_intercepts", "Intercepts, by state.", "state")
	descAlterations  = describe("dayfly_alterations", "Services that are altered.")
	descPorts        = describe("dayfly_captured_ports", "Ports of Services that lead to the routers, or are on their way there or back.")
	descKnown        = describe("dayfly_routers_known", "Routers' pods that run.")
	descAcknowledged = describe("dayfly_routers_acknowledged", "Routers that answer and have acknowledged the newest table.")
	descTable        = describe("dayfly_table_version", "Version of the newest table, within the leader's term.")
	descLeads        = describe("dayfly_leading", "1 on the controller that leads.")
	descBuild        = describe("dayfly_build_info", "1, with the version of this binary.", "version", "role")
)

// Describe implements prometheus.Collector.
func (v *inventory) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSessions, descIntercepts, descAlterations, descPorts, descKnown, descAcknowledged,
		descTable, descLeads, descBuild} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (v *inventory) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	gauge(descBuild, 1, v.version, "controller")
	known, acknowledged, table, leads := v.fleet.count()
	if !leads {
		gauge(descLeads, 0)
		return
	}
	gauge(descLeads, 1)
	gauge(descKnown, known)
	gauge(descAcknowledged, acknowledged)
	gauge(descTable, int(table))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var sessions v1alpha1.SessionList
	var alterations v1alpha1.AlterationList
	if err := v.cached.List(ctx, &sessions); err != nil {
		ch <- prometheus.NewInvalidMetric(descSessions, err)
		return
	}
	if err := v.cached.List(ctx, &alterations); err != nil {
		ch <- prometheus.NewInvalidMetric(descAlterations, err)
		return
	}
	bySession, byIntercept := states(sessions.Items)
	for state, n := range bySession {
		gauge(descSessions, n, state)
	}
	for state, n := range byIntercept {
		gauge(descIntercepts, n, string(state))
	}
	ports := 0
	for _, a := range alterations.Items {
		ports += len(a.Spec.Ports)
	}
	gauge(descAlterations, len(alterations.Items))
	gauge(descPorts, ports)
}

// states counts sessions and intercepts by state; every state is there, also those of which there are none.
func states(sessions []v1alpha1.Session) (map[string]int, map[v1alpha1.InterceptState]int) {
	bySession := map[string]int{"connected": 0, "away": 0, "closing": 0}
	byIntercept := map[v1alpha1.InterceptState]int{v1alpha1.StatePending: 0, v1alpha1.StateArming: 0, v1alpha1.StateArmed: 0,
		v1alpha1.StateParked: 0, v1alpha1.StateRefused: 0}
	for _, s := range sessions {
		switch {
		case !s.DeletionTimestamp.IsZero():
			bySession["closing"]++
		case s.Status.Connected:
			bySession["connected"]++
		default:
			bySession["away"]++
		}
		for _, i := range s.Status.Intercepts {
			byIntercept[i.State]++
		}
	}
	return bySession, byIntercept
}

// count says how many routers there are, how many of them have the newest table, which that is, and whether this
// controller leads.
func (f *fleet) count() (known, acknowledged int, table int64, leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		m.mu.Lock()
		if m.acked.Term == f.table.Term && m.acked.Version == f.table.Version && m.acked.Term != 0 && !m.silent {
			acknowledged++
		}
		m.mu.Unlock()
	}
	return len(f.members), acknowledged, f.table.Version, !f.started.IsZero()
}
