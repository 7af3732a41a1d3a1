package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// series are the metrics of some pods: the sum over the pods of each value, by name and labels as they are written.
type series map[string]float64

// named says whether there is any series of a metric.
func (s series) named(metric string) bool {
	for k := range s {
		if name, _, _ := strings.Cut(k, "{"); name == metric {
			return true
		}
	}
	return false
}

// scrape reads the metrics of routers or controllers from the client pod, as Prometheus would.
func scrape(t *testing.T, ns, component string) series {
	t.Helper()
	out := series{}
	for _, one := range scrapeEach(t, ns, component) {
		for name, v := range one {
			out[name] += v
		}
	}
	return out
}

// scrapeEach reads the metrics of each pod, by its address.
func scrapeEach(t *testing.T, ns, component string) map[string]series {
	t.Helper()
	all := map[string]series{}
	for _, addr := range dayflyPods(t, component) {
		out := series{}
		for line := range strings.Lines(inPod(t, ns, "get", "http://"+addr+":8081/metrics")) {
			at := strings.LastIndex(line, " ")
			if strings.HasPrefix(line, "#") || at < 0 {
				continue
			}
			v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
			must(t, err)
			out[line[:at]] = v
		}
		all[addr] = out
	}
	return all
}

// allowScraping labels the namespace, and waits until every node's network policies follow.
func allowScraping(t *testing.T, ns string) {
	t.Helper()
	kubectl(t, "label", "namespace", ns, "dayfly.dev/scrape=allowed")
	await(t, promise(10*time.Second), "the network policies let Prometheus in", func() error {
		for _, addr := range append(dayflyPods(t, "controller"), dayflyPods(t, "router")...) {
			if out, err := tryInPod(ns, "get", "-timeout", "2s", "http://"+addr+":8081/metrics"); err != nil {
				return fmt.Errorf("%w: %.200s", err, out)
			}
		}
		return nil
	})
}

// Whoever may label a namespace says who may read the metrics. They tell of captured ports while these are captured, of
// laptops' traffic, of sessions by number, and never who somebody is.
func TestMetricsTellWhatIsCapturedAndNobodysName(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	for _, component := range []string{"controller", "router"} {
		if out, err := tryInPod(ns, "get", "-timeout", "2s", "http://"+dayflyPods(t, component)[0]+":8081/metrics"); err == nil {
			t.Errorf("anybody reads the metrics of a %s: %.200s", component, out)
		}
	}
	allowScraping(t, ns)
	l := newLaptop(t, ns)
	l.intercept("ada-s3ssion", "web", l.answer("laptop"))
	for range 3 {
		get(t, ns, "http://web/", "x-dayfly-session: ada-s3ssion")
	}
	for range 2 {
		get(t, ns, "http://web/")
	}
	of := fmt.Sprintf(`{namespace="%s",port="80",service="web"}`, ns)
	routers := scrape(t, ns, "router")
	for name, want := range map[string]float64{
		"dayfly_router_matched_requests_total" + of: 3, "dayfly_router_original_requests_total" + of: 2, "dayfly_router_fallbacks_total" + of: 0,
		"dayfly_router_wired_total" + of: 0, "dayfly_router_resets_total" + of: 0,
	} {
		if got, ok := routers[name]; !ok || got != want {
			t.Errorf("%s is %v (there: %t), want %v", name, got, ok, want)
		}
	}
	for name, least := range map[string]float64{
		"dayfly_router_connections_accepted_total" + of: 5, "dayfly_router_tunnels": 2, "dayfly_router_streams_opened_total": 3,
		"dayfly_router_laptop_sent_bytes_total": 100, "dayfly_router_laptop_received_bytes_total": 100,
		`dayfly_router_dial_seconds_count{to="laptop"}`: 3, `dayfly_router_dial_seconds_count{to="original"}`: 2,
		"dayfly_router_table_version": 1, "dayfly_router_ready": 2,
	} {
		if routers[name] < least {
			t.Errorf("%s is %v, want at least %v", name, routers[name], least)
		}
	}
	controllers := scrape(t, ns, "controller")
	for name, least := range map[string]float64{
		`dayfly_sessions{state="connected"}`: 1, `dayfly_intercepts{state="Armed"}`: 1, "dayfly_alterations": 1, "dayfly_captured_ports": 1,
		"dayfly_routers_known": 2, "dayfly_routers_acknowledged": 2, `dayfly_steps_total{step="Flip"}`: 1, "dayfly_table_version": 1,
		`controller_runtime_reconcile_time_seconds_count{controller="sessions"}`: 1,
	} {
		if controllers[name] < least {
			t.Errorf("%s is %v, want at least %v", name, controllers[name], least)
		}
	}
	if n := controllers["dayfly_leading"]; n != 1 {
		t.Errorf("%v controllers lead", n)
	}
	for _, all := range []series{routers, controllers} {
		for name := range all {
			if strings.Contains(name, "ada-s3ssion") || strings.Contains(name, sessions(t, ns)[0].Spec.Owner.Username) {
				t.Errorf("tells of a person: %s", name)
			}
		}
	}
	before := controllers["dayfly_restore_seconds_count"]
	l.dayfly("session", "close", "ada-s3ssion")
	await(t, promise(2*time.Second), "released ports are told no more", func() error {
		for name := range scrape(t, ns, "router") {
			if strings.Contains(name, ns) {
				return fmt.Errorf("still there: %s", name)
			}
		}
		return nil
	})
	if now := scrape(t, ns, "controller")["dayfly_restore_seconds_count"]; now < before+1 {
		t.Errorf("%v restores counted, %v before", now, before)
	}
}

// eventsIn waits until there are events of these reasons about an object, and returns the notes.
func eventsIn(t *testing.T, ns, kind, name string, reasons ...string) string {
	t.Helper()
	var notes []string
	await(t, promise(5*time.Second), fmt.Sprintf("events %v on %s %s", reasons, kind, name), func() error {
		var list eventsv1.EventList
		if err := cluster.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
			return err
		}
		var seen []string
		notes = nil
		for _, e := range list.Items {
			if e.ReportingController == "dayfly-controller" && e.Regarding.Kind == kind && e.Regarding.Name == name {
				seen, notes = append(seen, e.Reason), append(notes, e.Note)
			}
		}
		for _, r := range reasons {
			if !slices.Contains(seen, r) {
				return fmt.Errorf("only %v", seen)
			}
		}
		return nil
	})
	return strings.Join(notes, "\n")
}

// ended is the audit line of an intercept, as the controller's log holds it.
type ended struct {
	Msg, Owner, Namespace, Session, Service, Rule       string
	Since, Until                                        time.Time
	Requests, Fallbacks, BytesToLaptop, BytesFromLaptop int
}

func auditLines(t *testing.T, ns string) []ended {
	t.Helper()
	var out []ended
	logs := kubectl(t, "-n", system, "logs", "-l", "app.kubernetes.io/component=controller", "--tail=-1")
	for line := range strings.Lines(logs) {
		var e ended
		if json.Unmarshal([]byte(line), &e) == nil && e.Msg == "audit: intercept ended" && e.Namespace == ns {
			out = append(out, e)
		}
	}
	return out
}

// Who took what, by which rule, from when to when and how much: one line of the controller's log. What happened to session
// and Service is told by events on both. Neither holds a value that may be secret.
func TestInterceptsAreAuditedAndToldByEvents(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	start := time.Now()
	l.intercept("ada", "web", port, "-x", "authorization: Bearer s3cret-rule", "-x", "x-user: ada")
	var sent int
	for range 3 {
		if r := get(t, ns, "http://web/", "authorization: Bearer s3cret-rule", "x-user: ada"); r.ServedBy != "laptop" {
			t.Fatalf("served by %s", r.ServedBy)
		}
		sent += len("GET / HTTP/1.1\r\n")
	}
	told := eventsIn(t, ns, "Session", "ada", "Armed") + eventsIn(t, ns, "Service", "web", "Armed")
	if want := "authorization: (not shown), x-user: ada"; strings.Count(told, want) != 2 {
		t.Errorf("the events do not hold the rule (%s):\n%s", want, told)
	}
	kubectl(t, "-n", ns, "patch", "service", "web", "--type=json", "-p", `[{"op":"replace","path":"/spec/ports/0/targetPort","value":"http"}]`)
	told += eventsIn(t, ns, "Service", "web", "Reverted")
	l.dayfly("session", "close", "ada")
	told += eventsIn(t, ns, "Session", "ada", "Restored") + eventsIn(t, ns, "Service", "web", "Restored")
	var lines []ended
	await(t, promise(3*time.Second), "an audit line", func() error {
		if lines = auditLines(t, ns); len(lines) == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
	owner := whoAmI(t)
	if e := lines[0]; len(lines) != 1 || e.Owner != owner || e.Session != "ada" || e.Service != "web:80" || e.Requests != 3 || e.Fallbacks != 0 ||
		e.Rule != "authorization: (not shown), x-user: ada" || e.BytesToLaptop < sent || e.BytesFromLaptop < sent ||
		e.Since.Before(start) || e.Until.Before(e.Since.Truncate(time.Second)) || e.Until.After(time.Now()) {
		t.Errorf("audited as %+v", lines)
	}
	if strings.Contains(told, "s3cret") {
		t.Errorf("an event tells a secret:\n%s", told)
	}
	if logs := kubectl(t, "-n", system, "logs", "-l", "app.kubernetes.io/name=dayfly", "--tail=-1"); strings.Contains(logs, "s3cret-rule") {
		t.Error("a log tells a secret")
	}
	t.Logf("%+v\n%s", lines[0], told)
}

func whoAmI(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(kubectl(t, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"))
}

// A laptop that is away, and a wish that cannot be granted, are told by events too.
func TestParkedAndRefusedAreToldByEvents(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	cmd := l.command("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--session", "ada", "--drain", "1s")
	must(t, cmd.Start())
	eventsIn(t, ns, "Session", "ada", "Armed")
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	eventsIn(t, ns, "Session", "ada", "Parked")
	eventsIn(t, ns, "Service", "web", "Parked")
	headless := &corev1.Service{}
	headless.Namespace, headless.Name = ns, "headless"
	headless.Spec = corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}
	must(t, cluster.Create(context.Background(), headless))
	s := sessions(t, ns)[0]
	s.Spec.Intercepts[0].Service = "headless"
	must(t, cluster.Update(context.Background(), &s))
	eventsIn(t, ns, "Session", "ada", "Refused")
	eventsIn(t, ns, "Service", "headless", "Refused")
	must(t, cluster.Delete(context.Background(), &s))
}

// metricName finds the metrics of dayfly and of its processes in a PromQL expression.
var metricName = regexp.MustCompile(`\b(dayfly|process|go|controller_runtime|workqueue|rest_client)_[a-z0-9_]+\b`)

// Every metric that the dashboard and the operators' manual name is really exported, and every one of dayfly's own is in the
// dashboard.
func TestDashboardShowsWhatIsExported(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	allowScraping(t, ns)
	l := newLaptop(t, ns)
	l.intercept("ada", "web", l.answer("laptop"))
	get(t, ns, "http://web/", "x-dayfly-session: ada")
	exported := map[string]bool{}
	for _, component := range []string{"controller", "router"} {
		for _, addr := range dayflyPods(t, component) {
			for line := range strings.Lines(inPod(t, ns, "get", "http://"+addr+":8081/metrics")) {
				if name, ok := strings.CutPrefix(line, "# TYPE "); ok { // also of what has no series yet
					exported[strings.Fields(name)[0]] = true
				} else {
					exported[strings.FieldsFunc(line, func(r rune) bool { return r == '{' || r == ' ' })[0]] = true
				}
			}
		}
	}
	text, err := os.ReadFile("../../deploy/dashboard.json")
	must(t, err)
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	must(t, json.Unmarshal(text, &dashboard))
	shown := map[string]bool{}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			for _, name := range metricName.FindAllString(target.Expr, -1) {
				shown[strings.TrimSuffix(name, "_bucket")] = true
				if !exported[name] {
					t.Errorf("panel %q shows %s, which nobody exports", p.Title, name)
				}
			}
		}
	}
	manual, err := os.ReadFile("../../docs/operations.md")
	must(t, err)
	for _, name := range metricName.FindAllString(string(manual), -1) {
		if !strings.HasSuffix(name, "_") && !exported[name] {
			t.Errorf("docs/operations.md names %s, which nobody exports", name)
		}
	}
	for name := range exported {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, "dayfly_") && !shown[base] {
			t.Errorf("no panel shows %s", name)
		}
	}
	if len(shown) < 20 {
		t.Errorf("the dashboard shows %d metrics", len(shown))
	}
}
