package session

import (
	"reflect"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what the engine does; Engine.Collectors hands them out.
type metrics struct {
	steps, failed *prometheus.CounterVec
	reverts       prometheus.Counter
	restore       prometheus.Histogram
}

func newMetrics() *metrics {
	seconds := []float64{.25, .5, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600}
	m := &metrics{
		steps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_steps_total", Help: "Steps that the controller has done, by kind."}, []string{"step"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "dayfly_step_errors_total", Help: "Steps that failed and will be tried again, by kind."}, []string{"step"}),
		reverts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "dayfly_reverts_total", Help: "Times that somebody else undid a change of dayfly's."}),
		restore: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "dayfly_restore_seconds", Buckets: seconds,
			Help: "Time from a session's deletion until everything of it was restored, drains included."}),
	}
	for _, s := range []Step{Record{}, WriteOrigin{}, WriteSlices{}, DeleteSlices{}, Flip{}, GiveBack{}, Rebase{}, CountRevert{}, Settle{},
		MarkPort{}, Unrecord{}, Finish{}, Describe{}} { // there from the start: an alert sees the first one
		m.steps.WithLabelValues(kindOf(s))
		m.failed.WithLabelValues(kindOf(s))
	}
	return m
}

func kindOf(s Step) string { return reflect.TypeOf(s).Name() }

// Collectors are what the engine counts, for Prometheus.
func (e *Engine) Collectors() []prometheus.Collector {
	m := e.metrics
	return []prometheus.Collector{m.steps, m.failed, m.reverts, m.restore}
}

func (m *metrics) did(s Step, err error) {
	kind := kindOf(s)
	m.steps.WithLabelValues(kind).Inc()
	if err != nil {
		m.failed.WithLabelValues(kind).Inc()
	}
}

func (m *metrics) restored(since time.Time) { m.restore.Observe(time.Since(since).Seconds()) }
