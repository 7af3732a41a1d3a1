package session

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/control"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What statuses, events and logs tell of a rule holds no value that usually is secret, and none that is long.
func TestRulesAreShownWithoutSecrets(t *testing.T) {
	header := func(name, value string) v1alpha1.Intercept {
		return v1alpha1.Intercept{Rule: &v1alpha1.Rule{Headers: []v1alpha1.HeaderLine{{Name: name, Value: value}}}}
	}
	for _, c := range []struct {
		why  string
		ic   v1alpha1.Intercept
		want string
	}{
		{"the usual", header("X-User", "ada"), "x-user: ada"},
		{"the routing key is no secret", v1alpha1.Intercept{}, "routing key ada"},
		{"everything", v1alpha1.Intercept{All: true}, "all"},
		{"the header of credentials", header("Authorization", "Bearer s3cret"), "authorization: (not shown)"},
		{"of a proxy", header("proxy-authorization", "s3cret"), "proxy-authorization: (not shown)"},
		{"a session's cookie", header("Cookie", "id=s3cret"), "cookie: (not shown)"},
		{"a key of an API", header("X-Api-Key", "s3cret"), "x-api-key: (not shown)"},
		{"a token", header("X-Amz-Security-Token", "s3cret"), "x-amz-security-token: (not shown)"},
		{"a forged request", header("X-CSRF", "s3cret"), "x-csrf: (not shown)"},
		{"a member of baggage", v1alpha1.Intercept{Rule: &v1alpha1.Rule{Baggage: []v1alpha1.BaggageLine{
			{Key: "user", Value: "ada"}, {Key: "accessToken", Value: "s3cret"}}}}, "baggage: accessToken=(not shown), baggage: user=ada"},
		{"at the limit", header("x", strings.Repeat("a", 64)), "x: " + strings.Repeat("a", 64)},
		{"longer", header("x", strings.Repeat("a", 65)), "x: " + strings.Repeat("a", 61) + "…"},
	} {
		if diff := cmp.Diff(c.want, RuleShown("ada", c.ic)); diff != "" {
			t.Errorf("%s (-want +shown):\n%s", c.why, diff)
		}
	}
	if header("Authorization", "kept").Rule.Headers[0].Value != "kept" {
		t.Error("the rule itself was changed")
	}
}

// counted is a cluster whose routers have counted the same of every route.
type counted struct{ flow control.Flow }

func (c *counted) Routers() []Router                { return nil }
func (c *counted) Settle(context.Context) error     { return nil }
func (c *counted) Reach(context.Context, int) error { return nil }
func (c *counted) Flow(string) control.Flow         { return c.flow }

// Every intercept's end is one line of the log: whatever ended it, once, with what it took itself.
func TestEveryInterceptsEndIsToldOnce(t *testing.T) {
	var log bytes.Buffer
	routers := &counted{control.Flow{Requests: 3, Fallbacks: 1, Sent: 20, Received: 50}}
	e := New(Options{Fleet: routers, Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	ended := func() []map[string]any {
		var out []map[string]any
		for line := range strings.Lines(log.String()) {
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatal(err)
			}
			delete(m, "time")
			delete(m, "level")
			out = append(out, m)
		}
		log.Reset()
		return out
	}
	line := func(since, until string, requests, fallbacks, sent, received float64) map[string]any {
		return map[string]any{"msg": "audit: intercept ended", "owner": "ada", "namespace": "shop", "session": "ada", "service": "web:80",
			"rule": "routing key ada", "since": since, "until": until, "requests": requests, "fallbacks": fallbacks,
			"bytesToLaptop": sent, "bytesFromLaptop": received}
	}
	check := func(when string, want ...map[string]any) {
		t.Helper()
		if diff := cmp.Diff(want, ended()); diff != "" {
			t.Errorf("%s (-want +told):\n%s", when, diff)
		}
	}
	armed := func(since time.Time) v1alpha1.InterceptStatus {
		return v1alpha1.InterceptStatus{Service: "web", Port: 80, State: v1alpha1.StateArmed, Rule: "routing key ada", Since: new(metav1.NewMicroTime(since))}
	}
	pass := func(s *v1alpha1.Session, now time.Time, v Verdict) {
		o := world()
		o.Now = now
		plan := Plan{Sessions: map[string]Verdict{}}
		if s != nil {
			o.Sessions = []v1alpha1.Session{*s}
			plan.Sessions[ID(s)] = v
		}
		e.auditEnds(o, plan)
	}
	s := session("ada", 0, wantWeb)
	pass(&s, noon, Verdict{Intercepts: []v1alpha1.InterceptStatus{armed(noon)}})
	s.Status.Intercepts = []v1alpha1.InterceptStatus{armed(noon)}
	pass(&s, noon.Add(time.Second), Verdict{Intercepts: s.Status.Intercepts})
	check("in force")
	refused := Verdict{Intercepts: []v1alpha1.InterceptStatus{{Service: "web", Port: 80, State: v1alpha1.StateRefused}}}
	pass(&s, noon.Add(time.Minute), refused)
	check("refused", line("2026-01-01T12:00:00Z", "2026-01-01T12:01:00Z", 3, 1, 20, 50))
	pass(&s, noon.Add(time.Minute), refused) // the status could not be written
	check("again")
	s.Status.Intercepts = refused.Intercepts
	pass(&s, noon.Add(time.Minute), refused)

	again := armed(noon.Add(time.Hour))
	s.Status.Intercepts = []v1alpha1.InterceptStatus{again}
	pass(&s, noon.Add(time.Hour), Verdict{Intercepts: s.Status.Intercepts})
	s.DeletionTimestamp = new(metav1.NewTime(noon.Add(2 * time.Hour)))
	pass(&s, noon.Add(2*time.Hour), Verdict{Intercepts: s.Status.Intercepts})
	check("closing")
	pass(&s, noon.Add(3*time.Hour), Verdict{Intercepts: s.Status.Intercepts, Release: true})
	check("released", line("2026-01-01T13:00:00Z", "2026-01-01T14:00:00Z", 3, 1, 20, 50))
	pass(nil, noon.Add(3*time.Hour), Verdict{})
	check("gone")

	s.DeletionTimestamp = nil
	pass(&s, noon.Add(4*time.Hour), Verdict{Intercepts: s.Status.Intercepts}) // another leader hears of it from the status
	pass(nil, noon.Add(5*time.Hour), Verdict{})                               // nothing was altered for it alone: it went at once
	check("gone at once", line("2026-01-01T13:00:00Z", "2026-01-01T17:00:00Z", 3, 1, 20, 50))
	if len(e.audit.lives) > 0 {
		t.Errorf("still remembered: %v", e.audit.lives)
	}
}

// An intercept that goes on by another rule is another one: what came by the first is not counted to it.
func TestAnotherRuleIsAnotherIntercept(t *testing.T) {
	var log bytes.Buffer
	routers := &counted{control.Flow{Requests: 3}}
	e := New(Options{Fleet: routers, Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	s := session("ada", 0, wantWeb)
	pass := func(now time.Time) {
		o := connect(world(s))
		o.Now = now
		d := &decision{Observed: o}
		st := d.lived(&s, s.Spec.Intercepts[0], v1alpha1.InterceptStatus{Service: "web", Port: 80, State: v1alpha1.StateArmed})
		e.auditEnds(o, Plan{Sessions: map[string]Verdict{ID(&s): {Intercepts: []v1alpha1.InterceptStatus{st}}}})
		s.Status.Intercepts = []v1alpha1.InterceptStatus{st}
	}
	pass(noon)
	pass(noon.Add(time.Minute))
	if since := s.Status.Intercepts[0].Since; !since.Time.Equal(noon) {
		t.Errorf("in force since %v", since)
	}
	s.Spec.Intercepts[0].All = true
	pass(noon.Add(2 * time.Minute))
	routers.flow.Requests = 10
	s.Spec.Intercepts[0].All = false
	pass(noon.Add(3 * time.Minute))
	var told []string
	for line := range strings.Lines(log.String()) {
		_, rest, _ := strings.Cut(line, `"rule":`)
		told = append(told, rest[:strings.Index(rest, `,"fallbacks"`)])
	}
	want := []string{
		`"routing key ada","since":"2026-01-01T12:00:00Z","until":"2026-01-01T12:02:00Z","requests":3`,
		`"all","since":"2026-01-01T12:02:00Z","until":"2026-01-01T12:03:00Z","requests":7`,
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("(-want +told):\n%s", diff)
	}
}
