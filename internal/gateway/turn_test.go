package gateway

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	engine "dayfly.dev/dayfly/internal/environment"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Who asks for an environment that waits for its turn is told so, and when it is worth while to ask again: a person at once, a
// program once it has waited. Whose environments take the places is not for visitors.
func TestVisitorsAreToldOfTheQueue(t *testing.T) {
	g, e, _ := open(t, func(e *v1alpha1.Environment) {
		public(e)
		e.Status.Replicas, e.Status.Admission = 0, &v1alpha1.Admission{Position: 3}
		e.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: engine.ReasonQueued, Message: "3rd in line: 2 of 2 environments of eve are awake"}}
	})
	check := func(r *http.Response) {
		t.Helper()
		says := text(t, r)
		if r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") != queuedRetry || !strings.Contains(says, "this one is 3rd in line") || strings.Contains(says, "eve") {
			t.Errorf("%s %v %s", r.Status, r.Header, says)
		}
	}
	check(ask(t, g, func(r *http.Request) { r.Header.Set("Accept", "text/html") }))
	to, _ := g.table.find(host)
	_, err := g.hold(t.Context(), to, map[string]bool{}, time.Now().Add(10*time.Millisecond))
	w := httptest.NewRecorder()
	g.fail(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+host+"/", nil), err)
	check(w.Result())
	e = e.DeepCopy()
	e.Status.Replicas = 1 // it runs on, and only a change of it waits
	g.table.putEnvironment(e)
	if to, _ := g.table.find(host); to.env.Status.Replicas != 1 {
		t.Fatal("the table has not heard of it")
	} else if _, ok := to.env.queued(); ok {
		t.Error("it is said to wait, and runs")
	}
}

// Use is told of what it matters for, and of nothing else.
func TestUseIsToldWhereItMatters(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*v1alpha1.Environment)
		want   time.Duration
	}{
		"nothing":  {nil, 0},
		"its own":  {func(e *v1alpha1.Environment) { e.Spec.SleepAfter = &metav1.Duration{Duration: time.Minute} }, time.Minute},
		"its time": {func(e *v1alpha1.Environment) { e.Spec.TTLFrom = v1alpha1.TTLFromActivity }, time.Hour},
		"a policy's": {func(e *v1alpha1.Environment) {
			e.Status.Policy = &v1alpha1.HeldPolicy{SleepAfter: &metav1.Duration{Duration: time.Second}}
		}, time.Second},
		"the schedule": {func(e *v1alpha1.Environment) { e.Status.Policy = &v1alpha1.HeldPolicy{SleepsByClock: true} }, time.Hour},
	} {
		_, e, _ := open(t, c.change)
		if got := (&environment{Environment: e}).restless(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
