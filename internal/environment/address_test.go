package environment

import (
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func aService(name string, ports ...any) *unstructured.Unstructured {
	u := anObject("v1", "Service", name)
	_ = unstructured.SetNestedSlice(u.Object, ports, "spec", "ports")
	return u
}

// Every component with a Service that speaks TCP has an address of its own, and keeps it while it sleeps.
func TestAddresses(t *testing.T) {
	udp, tcp := map[string]any{"name": "dns", "protocol": "UDP", "port": int64(53)}, map[string]any{"name": "http", "port": int64(80)}
	h2 := map[string]any{"port": int64(90), "appProtocol": "kubernetes.io/h2c"}
	content := []source.Component{
		{Name: "web", Objects: []*unstructured.Unstructured{aService("web", udp, tcp), aService("web-other", tcp)}},
		{Name: "api", Objects: []*unstructured.Unstructured{aService("api", h2)}},
		{Name: "names", Objects: []*unstructured.Unstructured{aService("names", udp)}},
		{Name: "", Objects: []*unstructured.Unstructured{aService("shared", tcp)}},
	}
	w := newWorld(content...)
	w.passes()
	if got := w.Env.Status.Addresses; len(got) > 0 {
		t.Errorf("without a domain there are addresses: %v", got)
	}
	w.Domain = "env.test"
	w.passes()
	want := []v1alpha1.Address{
		{Component: "api", URL: "https://api--pr-1--team.env.test", Service: "api", Protocol: "h2c"},
		{Component: "web", URL: "https://web--pr-1--team.env.test", Service: "web", Port: "http"},
	}
	if diff := cmp.Diff(want, w.Env.Status.Addresses); diff != "" {
		t.Error(diff)
	}
	w.Env.Spec.Replicas = new(int32(0))
	w.passes()
	w.Now = w.Now.Add(time.Minute)
	w.passes()
	if diff := cmp.Diff(want, w.Env.Status.Addresses); diff != "" || reason(w.Env) != ReasonAsleep || w.Env.Status.Replicas != 0 {
		t.Errorf("asleep: %s %d\n%s", reason(w.Env), w.Env.Status.Replicas, diff)
	}
}

// No two components of any two environments have the same host.
func TestHostsAreDifferent(t *testing.T) {
	seen := map[string]string{}
	for _, p := range [][3]string{
		{"web", "pr-1", "team"}, {"web--pr-1", "team", "x"}, {"web", "pr-1--team", "x"}, {"web-", "pr", "x"}, {"web", "-pr", "x"}, {"web.a", "pr", "x"}, {"web-a", "pr", "x"},
		{"Web", "pr", "x"}, {"xn", "pr", "x"}, {"web", "pr", "x"}, {strings.Repeat("a", 63), "pr", "x"}, {strings.Repeat("a", 62) + "b", "pr", "x"}, {"web", strings.Repeat("b", 40), strings.Repeat("c", 63)},
		{"web", strings.Repeat("b", 40), strings.Repeat("c", 62)},
	} {
		e := &v1alpha1.Environment{ObjectMeta: metav1.ObjectMeta{Name: p[1], Namespace: p[2]}}
		host := hostOf(e, p[0])
		if other, ok := seen[host]; ok || len(host) > 63 || strings.ContainsAny(host, "._W") || strings.HasPrefix(host, "-") || strings.HasSuffix(host, "-") {
			t.Errorf("%v has host %q, as %s", p, host, other)
		}
		seen[host] = strings.Join(p[:], "/")
	}
}

// An environment falls asleep once nobody has asked for as long as it says, not before, and not while it is not ready. Before it
// does, requests that are under way have time to end.
func TestFallsAsleepWhenNobodyAsks(t *testing.T) {
	w := newWorld(shop()...)
	w.Domain = "env.test"
	w.Env.Spec.SleepAfter = &metav1.Duration{Duration: 10 * time.Minute}
	w.ready = false
	w.passes()
	began := w.Now
	w.Now = began.Add(20 * time.Minute)
	if got := strings.Join(w.passes(), " "); strings.Contains(got, "Sleep") {
		t.Errorf("it falls asleep before it was ready: %s", got)
	}
	w.Env.Status.RequestedAt = new(metav1.NewTime(w.Now))
	w.ready = true
	for _, u := range w.Live {
		if u.GetKind() == "Deployment" {
			bringUp(u)
		}
	}
	w.passes()
	if reason(w.Env) != ReasonReady {
		t.Fatalf("it is %s", reason(w.Env))
	}
	w.Now = w.Now.Add(9 * time.Minute)
	w.Env.Status.LastRequest = new(metav1.NewTime(w.Now))
	w.Now = w.Now.Add(9 * time.Minute)
	if p := Decide(&w.Observed); p.Step != nil || p.Recheck > time.Minute+time.Second {
		t.Errorf("asked 9 minutes ago: %T, next look after %v", p.Step, p.Recheck)
	}
	w.Now = w.Now.Add(time.Minute)
	if p := Decide(&w.Observed); p.Step != (Sleep{"nobody has asked for 10m0s"}) {
		t.Errorf("asked 10 minutes ago: %T", p.Step)
	}
	w.Domain = "" // nobody would see a request, and nothing would wake it
	if p := Decide(&w.Observed); p.Step != nil {
		t.Errorf("without a gateway: %T", p.Step)
	}
	w.Domain = "env.test"
	w.Env.Spec.Replicas = new(int32(0))
	asleep := shop()
	putToSleep(asleep)
	w.content = asleep
	if got := w.pass(); got != "" || reason(w.Env) != ReasonStarting {
		t.Errorf("at once: %s %s", got, reason(w.Env))
	}
	if w.Env.Status.Replicas != 1 {
		t.Error("it is said to sleep while requests have time to end")
	}
	w.Now = w.Now.Add(nodTime)
	if got := w.pass(); got != "Apply" {
		t.Errorf("after %v: %s", nodTime, got)
	}
	if w.Env.Status.Replicas != 0 {
		t.Error("it is taken down and not said to be")
	}
	w.Env.Spec.Replicas, w.content, w.ready = new(int32(1)), shop(), false
	w.passes()
	if w.Env.Status.Replicas != 0 {
		t.Error("woken before it slept, it is said to run before it is ready")
	}
	for range 3 {
		for _, u := range w.Live {
			if u.GetKind() == "Deployment" {
				bringUp(u)
			}
		}
		w.ready = true
		w.passes()
	}
	if w.Env.Status.Replicas != 1 || reason(w.Env) != ReasonReady {
		t.Errorf("awake: %d %s", w.Env.Status.Replicas, reason(w.Env))
	}
}
