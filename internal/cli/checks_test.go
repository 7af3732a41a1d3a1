package cli

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// well is an inspection in which nothing is wrong.
func well() *inspection {
	now := time.Now()
	role := func(component, name string, n int32) appsv1.Deployment {
		d := appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/component": component, "app.kubernetes.io/version": "v1.2.3"}}}
		d.Spec.Replicas, d.Status.ReadyReplicas = &n, n
		return d
	}
	pod := func(name, node string) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app.kubernetes.io/component": "router", "dayfly.dev/replica": name}}}
		p.Spec.NodeName, p.Status.Phase = node, corev1.PodRunning
		return p
	}
	s := v1alpha1.Session{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ada", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	s.Spec.Owner.Username, s.Status.Connected = "ada", true
	s.Spec.Intercepts = []v1alpha1.Intercept{{Service: "catalog", Port: 80, LaptopPort: 8081}}
	s.Status.ExpiresAt = new(metav1.NewTime(now.Add(8 * time.Hour)))
	a := v1alpha1.Alteration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "catalog", CreationTimestamp: s.CreationTimestamp}}
	a.Spec.Target.Name, a.Spec.Origin = "catalog", "catalog-origin"
	origin := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "catalog-origin", CreationTimestamp: s.CreationTimestamp,
		Labels: map[string]string{v1alpha1.LabelManaged: "dayfly"}, OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "catalog"}}}}
	return &inspection{
		now: now, cliVer: "v1.2.3", server: "https://cluster", kubernetes: "v1.36.3", me: v1alpha1.Owner{Username: "ada"},
		sessions: []v1alpha1.Session{s}, alterations: []v1alpha1.Alteration{a}, origins: []corev1.Service{origin},
		deployments: []appsv1.Deployment{role("controller", "controller", 2), role("router", "router-0", 1), role("router", "router-1", 1), role("gateway", "gateway", 2)},
		pods:        []corev1.Pod{pod("router-0", "a"), pod("router-1", "b")},
		lease:       &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: new("controller-x_1"), RenewTime: new(metav1.NewMicroTime(now))}},
		ways:        []way{{"router-0", time.Millisecond, nil}, {"router-1", time.Millisecond, nil}},
		rights:      []right{{"create", "services/intercept", "", "shop", true, true}}, unseen: map[string]string{},
	}
}

// Each check sees what it is for, and nothing else does; where all is well, all is well.
func TestEveryCheckSeesItsTroubleAndNoOther(t *testing.T) {
	t.Parallel()
	long := metav1.NewTime(time.Now().Add(-time.Hour))
	for _, c := range []struct {
		why     string
		trouble func(*inspection)
		check   string // that sees it; "": none
		verdict verdict
		code    usererr.Code
		mend    mending
	}{
		{why: "all is well", trouble: func(*inspection) {}},
		{why: "no cluster", check: "cluster", verdict: broken, code: usererr.NoCluster,
			trouble: func(in *inspection) { in.unreachable = usererr.New(usererr.NoCluster, "", "away") }},
		{why: "not installed", check: "installed", verdict: broken, code: usererr.NotInstalled, trouble: func(in *inspection) { in.missing = true }},
		{why: "another minor version", check: "installed", verdict: broken, code: usererr.NotInstalled, trouble: func(in *inspection) { in.cliVer = "v1.3.0" }},
		{why: "another patch version", check: "installed", verdict: caution, trouble: func(in *inspection) { in.cliVer = "v1.2.4" }},
		{why: "old definitions", check: "kinds", verdict: caution, trouble: func(in *inspection) { in.definitions = map[string]string{"sessions.dayfly.dev": "spec"} }},
		{why: "definitions that may not be read", check: "kinds", verdict: unknown, trouble: func(in *inspection) { in.unseen["definitions"] = "no right" }},
		{why: "gateway scaled to 0", check: "gateway", verdict: broken, code: usererr.Failed, mend: mendScale, trouble: func(in *inspection) { in.deployments[3].Spec.Replicas = new(int32(0)) }},
		{why: "no gateway is ready", check: "gateway", verdict: broken, code: usererr.Failed, trouble: func(in *inspection) { in.deployments[3].Status.ReadyReplicas = 0 }},
		{why: "one gateway is ready", check: "gateway", verdict: caution, trouble: func(in *inspection) { in.deployments[3].Status.ReadyReplicas = 1 }},
		{why: "controller scaled to 0", check: "controller", verdict: broken, code: usererr.Failed, mend: mendScale, trouble: func(in *inspection) { in.deployments[0].Spec.Replicas = new(int32(0)) }},
		{why: "no controller ready", check: "controller", verdict: broken, code: usererr.Failed, trouble: func(in *inspection) { in.deployments[0].Status.ReadyReplicas = 0 }},
		{why: "one controller of two", check: "controller", verdict: caution, trouble: func(in *inspection) { in.deployments[0].Status.ReadyReplicas = 1 }},
		{why: "nobody leads", check: "controller", verdict: broken, code: usererr.Failed, trouble: func(in *inspection) { in.lease = nil }},
		{why: "the leader is silent", check: "controller", verdict: broken, code: usererr.Failed,
			trouble: func(in *inspection) { in.lease.Spec.RenewTime = new(metav1.NewMicroTime(long.Time)) }},
		{why: "a router scaled to 0", check: "routers", verdict: broken, code: usererr.Failed, mend: mendScale, trouble: func(in *inspection) { in.deployments[2].Spec.Replicas = new(int32(0)) }},
		{why: "a router that is not ready", check: "routers", verdict: broken, code: usererr.Failed, trouble: func(in *inspection) { in.deployments[2].Status.ReadyReplicas = 0 }},
		{why: "both routers on one node", check: "spread", verdict: caution, trouble: func(in *inspection) { in.pods[1].Spec.NodeName = "a" }},
		{why: "one router", check: "spread", verdict: caution, trouble: func(in *inspection) { in.pods = in.pods[:1] }},
		{why: "a router that cannot be reached", check: "way in", verdict: broken, code: usererr.Failed, trouble: func(in *inspection) { in.ways[1].err = errors.New("503") }},
		{why: "no right to reach routers", check: "way in", verdict: broken, code: usererr.Forbidden,
			trouble: func(in *inspection) {
				in.ways[0].err, in.ways[1].err = usererr.New(usererr.Forbidden, "ask", "no"), usererr.New(usererr.Forbidden, "ask", "no")
			}},
		{why: "a right is missing", check: "rights", verdict: caution, trouble: func(in *inspection) { in.rights[0].allowed = false }},
		{why: "a session that nobody restores", check: "sessions", verdict: broken, code: usererr.Failed, trouble: func(in *inspection) { in.sessions[0].DeletionTimestamp = &long }},
		{why: "a session that is being restored", trouble: func(in *inspection) { in.sessions[0].DeletionTimestamp = new(metav1.NewTime(in.now)) }},
		{why: "a laptop that is away", check: "sessions", verdict: caution, trouble: func(in *inspection) { in.sessions[0].Status.Connected = false }},
		{why: "an alteration without a session", check: "alterations", verdict: broken, code: usererr.Failed, trouble: func(in *inspection) { in.sessions = nil }},
		{why: "an alteration that drains", trouble: func(in *inspection) {
			in.sessions = nil
			in.alterations[0].Status.Ports = []v1alpha1.PortStatus{{DrainUntil: new(metav1.NewMicroTime(in.now))}}
		}},
		{why: "an origin service that nothing accounts for", check: "strays", verdict: broken, code: usererr.Failed, mend: mendStrays, trouble: func(in *inspection) { in.origins[0].Name = "other" }},
		{why: "one that somebody copied, label and all", trouble: func(in *inspection) { in.origins[0].Name, in.origins[0].OwnerReferences = "other", nil }},
		{why: "one that was made just now", trouble: func(in *inspection) {
			in.origins[0].Name, in.origins[0].CreationTimestamp = "other", metav1.NewTime(in.now)
		}},
		{why: "a clock that goes wrong", check: "clock", verdict: caution, trouble: func(in *inspection) { in.skew = -10 * time.Second }},
		{why: "a clock that is far out", check: "clock", verdict: broken, code: usererr.Failed, trouble: func(in *inspection) { in.skew = -2 * time.Minute }},
		{why: "a proxy", check: "proxy", verdict: caution, trouble: func(in *inspection) { in.proxy = "http://proxy:3128" }},
		{why: "a file that cannot be read", check: "files", verdict: broken, code: usererr.Failed, mend: mendFiles,
			trouble: func(in *inspection) { in.laptop.unreadable = map[string]error{"x.json": errors.New("no JSON")} }},
		{why: "a file of a session that is gone", check: "files", verdict: broken, code: usererr.Failed, mend: mendFiles,
			trouble: func(in *inspection) {
				in.laptop.sessions = []*laptopSession{{Namespace: "shop", Name: "old", path: "old.json"}}
			}},
		{why: "a log that belongs to nothing", check: "files", verdict: broken, code: usererr.Failed, mend: mendFiles, trouble: func(in *inspection) { in.laptop.orphans = []string{"x.log"} }},
		{why: "files are not called stale where sessions may not be seen", check: "sessions", verdict: unknown, trouble: func(in *inspection) {
			in.laptop.sessions = []*laptopSession{{Namespace: "shop", Name: "old", path: "old.json"}}
			in.unseen["sessions"] = "no right"
		}},
	} {
		in := well()
		c.trouble(in)
		seen := false
		for _, f := range diagnose(in) {
			switch {
			case f.Check == c.check:
				seen = true
				if f.Verdict != c.verdict || f.Verdict == broken && f.code != c.code || f.mend != c.mend {
					t.Errorf("%s: %+v", c.why, f)
				}
				if f.Verdict != unknown && f.Fix == "" && !strings.HasPrefix(c.why, "no cluster") {
					t.Errorf("%s: no fix", c.why)
				}
			case f.Verdict == broken:
				t.Errorf("%s: another check speaks: %+v", c.why, f)
			}
		}
		if c.check != "" && !seen {
			t.Errorf("%s: check %s is missing", c.why, c.check)
		}
	}
}

// A lease that is over is mended only when the controller has had its time.
func TestLeaseOverIsSeenOnceTheControllerHadItsTime(t *testing.T) {
	t.Parallel()
	in := well()
	in.sessions[0].Status.Connected = false
	for _, c := range []struct {
		ago  time.Duration
		want verdict
	}{{0, fine}, {soon - time.Second, fine}, {soon + time.Second, broken}} {
		in.sessions[0].Status.ExpiresAt = new(metav1.NewTime(in.now.Add(-c.ago)))
		if f := checkLeases(in); f.Verdict != c.want || (f.mend == mendExpired) != (c.want == broken) {
			t.Errorf("over for %s: %+v", c.ago, f)
		}
	}
}

func TestDefinitionsAreComparedWithoutDefaults(t *testing.T) {
	t.Parallel()
	const large = 1228800 // prints otherwise as a float
	want := map[string]any{"a": map[string]any{"b": []any{float64(large), "x"}}}
	for _, c := range []struct {
		why  string
		have any
		path string
	}{
		{"the same", map[string]any{"a": map[string]any{"b": []any{int64(large), "x"}}}, ""},
		{"with a default filled in", map[string]any{"a": map[string]any{"b": []any{int64(large), "x"}, "c": true}}, ""},
		{"another value", map[string]any{"a": map[string]any{"b": []any{int64(large), "y"}}}, "spec.a.b[1]"},
		{"one more", map[string]any{"a": map[string]any{"b": []any{int64(large), "x", "y"}}}, "spec.a.b"},
		{"missing", map[string]any{}, "spec.a.b"},
	} {
		if got := differs(want, c.have, "spec"); got != c.path {
			t.Errorf("%s: %q, want %q", c.why, got, c.path)
		}
	}
}

func TestClockIsComparedWithTheAPIServers(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{-time.Hour, 0, time.Hour} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
			_, _ = w.Write([]byte(`{"gitVersion":"v1.36.3"}`))
		}))
		resp, err := http.Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		in := &inspection{}
		in.readGreeting(resp, time.Now())
		server.Close()
		if d := (in.skew - ahead).Abs(); d > 2*time.Second || in.kubernetes != "v1.36.3" {
			t.Errorf("%s ahead is seen as %s, version %q", ahead, in.skew, in.kubernetes)
		}
	}
}

func TestProxyIsNamedWithoutItsPassword(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "") // the environment of the test's own machine must not matter
	c := &kube.Cluster{Config: &rest.Config{Host: "https://cluster.example"}}
	c.Config.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://ada:secret@proxy:3128") }
	if got := proxyOf(c); got != "http://proxy:3128" {
		t.Errorf("the proxy is %q", got)
	}
}

// What is in the laptop's folder is found, and mending removes that and nothing else.
func TestLaptopFilesAreMended(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	c := &kube.Cluster{Config: &rest.Config{Host: "https://cluster.example"}}
	l, err := openLaptop(c)
	if err != nil {
		t.Fatal(err)
	}
	live, err := l.create("shop", "live")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.create("shop", "gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.create("other", "unseen"); err != nil {
		t.Fatal(err)
	}
	key, err := live.key()
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Minute)
	for name, text := range map[string]string{"shop.broken.json": "{", "shop.orphan.log": "x", "shop.half.json.tmp": "{", "shop.live.log": "x"} {
		path := filepath.Join(l.dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := l.all(); err == nil || len(all) != 3 {
		t.Errorf("beside a file that cannot be read %d sessions of 3 are known: %v", len(all), err)
	}
	in := well()
	in.namespace = "shop"
	in.sessions[0].Name = "live"
	if in.sessions[0].Spec.PublicKey, err = key.Public(); err != nil {
		t.Fatal(err)
	}
	in.laptop = lookAtLaptop(c)
	if f := checkFiles(in); f.Verdict != broken || strings.Count(f.Says, "shop.") != 4 {
		t.Fatalf("seen: %+v", f)
	}
	if errs := mendLaptopFiles(in, func(string, ...any) {}); len(errs) > 0 {
		t.Fatal(errs)
	}
	in.laptop = lookAtLaptop(c)
	if f := checkFiles(in); f.Verdict != fine {
		t.Errorf("after mending: %+v", f)
	}
	for name, want := range map[string]bool{"shop.live.json": true, "shop.live.log": true, "other.unseen.json": true, "shop.gone.json": false, "shop.broken.json": false} {
		if got := exists(filepath.Join(l.dir, name)); got != want {
			t.Errorf("%s is there: %t", name, got)
		}
	}
}

// Looking changes nothing: not even the folder is made.
func TestLookingAtALaptopMakesNothing(t *testing.T) {
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	f := lookAtLaptop(&kube.Cluster{Config: &rest.Config{Host: "https://cluster.example"}})
	if f.err != nil || exists(filepath.Join(state, "dayfly")) {
		t.Errorf("%v; the folder is there: %t", f.err, exists(filepath.Join(state, "dayfly")))
	}
}
