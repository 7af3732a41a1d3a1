package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

type finding struct{ Check, Verdict, Says, Fix string }

// doctor returns the findings by check.
func (l *laptop) doctor(args ...string) map[string]finding {
	l.t.Helper()
	out, errOut, _ := l.try(append([]string{"doctor", "-o", "json"}, args...)...)
	var report struct {
		Kind  string
		Items []finding
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Kind != "DoctorReport" {
		l.t.Fatalf("dayfly doctor: %v\n%s%s", err, out, errOut)
	}
	found := map[string]finding{}
	for _, f := range report.Items {
		found[f.Check] = f
	}
	return found
}

func wantVerdicts(t *testing.T, found map[string]finding, want map[string]string) {
	t.Helper()
	for check, verdict := range want {
		if f := found[check]; f.Verdict != verdict {
			t.Errorf("%s: %q instead of %q: %+v", check, f.Verdict, verdict, f)
		}
	}
}

// stateFolder is where the laptop keeps the sessions of this cluster.
func (l *laptop) stateFolder() string {
	l.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(l.state, "dayfly", "sessions", "*"))
	if err != nil || len(dirs) != 1 {
		l.t.Fatalf("folders of clusters: %v %v", dirs, err)
	}
	return dirs[0]
}

// killServing kills the processes that this laptop left behind with --detach, each by its number, as status names it.
func (l *laptop) killServing() {
	l.t.Helper()
	out, _, _ := l.try("status", "-o", "json")
	var s struct{ Laptop []struct{ Process int } }
	must(l.t, json.Unmarshal([]byte(out), &s))
	if len(s.Laptop) == 0 {
		l.t.Fatalf("no process to kill: %s", out)
	}
	for _, p := range s.Laptop {
		if p.Process <= 1 { // 0 would be this test's own group
			l.t.Fatalf("no process to kill: %s", out)
		}
		must(l.t, syscall.Kill(p.Process, syscall.SIGKILL))
	}
}

// What is well is said to be, status tells what is altered and by which process, and nothing is changed by looking.
func TestStatusAndDoctorWhereAllIsWell(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	l := newLaptop(t, ns)
	l.dayfly("intercept", "service", "web", "--service-port", "80", "--port", fmt.Sprint(l.answer("laptop")), "--detach")
	before := kubectl(t, "-n", ns, "get", "sessions,alterations,services", "-o", "jsonpath={.items[*].metadata.uid}")
	wantVerdicts(t, l.doctor(), map[string]string{"cluster": "ok", "installed": "ok", "kinds": "ok", "way in": "ok", "rights": "ok", "sessions": "ok",
		"leases": "ok", "alterations": "ok", "strays": "ok", "clock": "ok", "processes": "ok", "files": "ok"})
	out, errOut, _ := l.try("status", "-o", "json")
	var s struct {
		Kind     string
		Sessions []struct{ Namespace, State string }
		Altered  []struct{ Object string }
		Routers  []struct{ Reachable, Ready bool }
		Laptop   []struct {
			Route   string
			Running bool
			Process int
		}
	}
	must(t, json.Unmarshal([]byte(out), &s))
	switch {
	case s.Kind != "Status", len(s.Sessions) != 1, len(s.Altered) != 1, len(s.Laptop) != 1, len(s.Routers) < 2:
		t.Errorf("status:\n%s%s", out, errOut)
	case s.Sessions[0].State != "Armed", s.Altered[0].Object != "service/web", s.Laptop[0].Route != "web:80", !s.Laptop[0].Running, !s.Routers[0].Reachable:
		t.Errorf("status:\n%s%s", out, errOut)
	}
	text, _, _ := l.try("status")
	for _, part := range []string{"dayfly ", "controller ", "router-0 ", "1 service", "web:80", "Armed", "by process"} {
		if !strings.Contains(text, part) {
			t.Errorf("status lacks %q:\n%s", part, text)
		}
	}
	t.Logf("\n%s", text)
	text, _, _ = l.try("doctor")
	t.Logf("\n%s", text)
	if after := kubectl(t, "-n", ns, "get", "sessions,alterations,services", "-o", "jsonpath={.items[*].metadata.uid}"); after != before {
		t.Errorf("looking changed something: %s, before %s", after, before)
	}
}

// A killed process and files that belong to nothing are seen, left alone, and mended once asked for; mending again does nothing.
func TestDoctorMendsWhatAKilledProcessLeft(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	l := newLaptop(t, ns)
	l.dayfly("intercept", "service", "web", "--service-port", "80", "--port", fmt.Sprint(l.answer("laptop")), "--detach", "--drain", "0s")
	l.killServing()
	dir := l.stateFolder()
	must(t, os.WriteFile(filepath.Join(dir, ns+".broken.json"), []byte("{"), 0o600))
	orphan := filepath.Join(dir, ns+".orphan.log")
	must(t, os.WriteFile(orphan, nil, 0o600))
	must(t, os.Chtimes(orphan, time.Now(), time.Now().Add(-time.Minute)))

	for range 2 {
		found := l.doctor()
		wantVerdicts(t, found, map[string]string{"processes": "problem", "files": "problem"})
		if _, _, code := l.try("doctor"); code != 1 {
			t.Errorf("exit code %d", code)
		}
	}
	if n := len(sessions(t, ns)); n != 1 {
		t.Fatalf("looking left %d sessions of 1", n)
	}
	if out, _, code := l.try("status"); code != 1 || !strings.Contains(out, "which is gone") {
		t.Errorf("status: exit code %d\n%s", code, out)
	}
	_, errOut, _ := l.try("doctor", "--fix")
	if !strings.Contains(errOut, "mended:") {
		t.Errorf("doctor --fix does not say what it did:\n%s", errOut)
	}
	await(t, promise(10*time.Second), "the session to go", func() error {
		if n := len(sessions(t, ns)); n > 0 {
			return fmt.Errorf("%d sessions", n)
		}
		return nil
	})
	wantVerdicts(t, l.doctor("--fix"), map[string]string{"processes": "ok", "files": "ok"})
	if _, errOut, _ := l.try("doctor", "--fix"); strings.Contains(errOut, "mended:") {
		t.Errorf("mending again: %s", errOut)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.*")); slices.ContainsFunc(left, func(p string) bool { return strings.Contains(p, ns) }) {
		t.Errorf("left: %v", left)
	}
}

// A right that is missing is named, with whom to ask; given, it is well; taken away, it is named again.
func TestDoctorNamesMissingRights(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	u := newUser(t, "doctor")
	l := newLaptop(t, ns).as(u.kubeconfig)
	lacks := func() finding { return l.doctor()["rights"] }
	f := lacks()
	if f.Verdict != "warning" || !strings.Contains(f.Says, "create services/intercept") || !strings.Contains(f.Fix, "create rolebinding") || !strings.Contains(f.Fix, u.name) {
		t.Errorf("without rights: %+v", f)
	}
	wantVerdicts(t, l.doctor(), map[string]string{"cluster": "ok", "way in": "ok", "controller": "unseen", "sessions": "unseen", "alterations": "unseen", "clock": "ok"})
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "dev"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "dayfly-developer"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: u.name}}}
	must(t, cluster.Create(t.Context(), binding))
	await(t, promise(2*time.Second), "the rights", func() error {
		if f := lacks(); f.Verdict != "ok" {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
	wantVerdicts(t, l.doctor(), map[string]string{"sessions": "ok", "alterations": "ok", "strays": "unseen"})
	if out, errOut, code := l.try("status"); code != 0 || !strings.Contains(out, "not seen: dayfly's deployments") {
		t.Errorf("status with a developer's rights: exit code %d\n%s%s", code, out, errOut)
	}
	must(t, cluster.Delete(t.Context(), binding))
	await(t, promise(2*time.Second), "the rights to be gone", func() error {
		if f := lacks(); f.Verdict != "warning" {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
}

// What dayfly made and nothing accounts for is seen and, once asked for, deleted; what belongs to a session is not.
func TestDoctorDeletesStrays(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	l := newLaptop(t, ns)
	l.dayfly("intercept", "service", "web", "--service-port", "80", "--port", fmt.Sprint(l.answer("laptop")), "--detach", "--drain", "0s")
	web := &corev1.Service{}
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "web"}, web))
	stray := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "stray", Labels: map[string]string{v1alpha1.LabelManaged: "dayfly", v1alpha1.LabelOriginOf: "nobody"}}}
	stray.Spec = corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}
	copied := stray.DeepCopy() // by somebody, label and all: theirs
	copied.Name = "copied"
	stray.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: "web", UID: web.UID}}
	must(t, cluster.Create(t.Context(), stray))
	must(t, cluster.Create(t.Context(), copied))
	services := func() string {
		return kubectl(t, "-n", ns, "get", "services", "-l", v1alpha1.LabelManaged, "-o", "jsonpath={.items[*].metadata.name}")
	}
	await(t, promise(40*time.Second), "the stray to be seen", func() error { // what is younger than half a minute may be in the making
		if f := l.doctor()["strays"]; f.Verdict != "problem" || !strings.Contains(f.Says, ns+"/stray") {
			return fmt.Errorf("%+v", f)
		}
		return nil
	})
	if got := strings.Fields(services()); len(got) != 3 {
		t.Fatalf("looking left %v", got)
	}
	wantVerdicts(t, l.doctor("--fix"), map[string]string{"strays": "ok", "sessions": "ok", "alterations": "ok"})
	if got := strings.Fields(services()); len(got) != 2 || slices.Contains(got, "stray") {
		t.Errorf("mending left %v", got)
	}
}

// Not parallel: it takes dayfly apart. A router and the controller that were scaled to 0, a session that nobody restores, a
// lease that is over and definitions that somebody changed are all seen, and mended where that can be.
func TestDoctorMendsDayfly(t *testing.T) {
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	l := newLaptop(t, ns)
	port := fmt.Sprint(l.answer("laptop"))
	l.dayfly("intercept", "service", "web", "--service-port", "80", "--port", port, "--detach", "--drain", "0s", "--session", "stuck")
	l.dayfly("intercept", "service", "web", "--service-port", "9090", "--port", port, "--detach", "--drain", "0s", "--session", "over")
	t.Cleanup(func() {
		kubectlOutput("-n", "dayfly-system", "scale", "deploy/router-1", "--replicas=1")
		kubectlOutput("-n", "dayfly-system", "scale", "deploy/controller", "--replicas=2")
		for _, d := range []string{"controller", "router-0", "router-1"} {
			kubectlOutput("-n", "dayfly-system", "rollout", "status", "deploy/"+d, "--timeout=60s")
		}
	})

	const path = "/spec/versions/0/schema/openAPIV3Schema/description"
	was := kubectl(t, "get", "crd", "sessions.dayfly.dev", "-o", "jsonpath={.spec.versions[0].schema.openAPIV3Schema.description}")
	patch := func(text string) {
		data, err := json.Marshal([]map[string]string{{"op": "replace", "path": path, "value": text}})
		must(t, err)
		kubectl(t, "patch", "crd", "sessions.dayfly.dev", "--type=json", "-p", string(data))
	}
	patch("changed")
	f := l.doctor()["kinds"]
	patch(was)
	if f.Verdict != "warning" || !strings.Contains(f.Says, "sessions.dayfly.dev") {
		t.Errorf("changed definitions: %+v", f)
	}
	wantVerdicts(t, l.doctor(), map[string]string{"kinds": "ok", "controller": "ok", "routers": "ok", "way in": "ok", "spread": "ok"})

	kubectl(t, "-n", "dayfly-system", "scale", "deploy/controller", "--replicas=0")
	kubectl(t, "-n", "dayfly-system", "scale", "deploy/router-1", "--replicas=0")
	kubectl(t, "-n", "dayfly-system", "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=controller", "--timeout=60s")
	if _, _, code := l.try("session", "close", "stuck", "--timeout", "1s"); code != 9 {
		t.Errorf("closing without a controller: exit code %d", code)
	}
	expire(t, ns, "over")
	await(t, promise(45*time.Second), "everything to be seen", func() error {
		found := l.doctor()
		for _, check := range []string{"controller", "routers", "way in", "sessions", "leases"} {
			if f := found[check]; f.Verdict != "problem" || f.Fix == "" {
				return fmt.Errorf("%s: %+v", check, f)
			}
		}
		return nil
	})
	out, errOut, code := l.try("doctor", "--fix")
	t.Logf("exit code %d\n%s%s", code, out, errOut)
	await(t, promise(20*time.Second), "everything to be mended", func() error {
		found := l.doctor()
		for _, check := range []string{"controller", "routers", "way in", "sessions", "leases", "alterations", "strays", "processes", "files"} {
			if f := found[check]; f.Verdict == "problem" {
				return fmt.Errorf("%s: %+v", check, f)
			}
		}
		if n := len(sessions(t, ns)); n > 0 {
			return fmt.Errorf("%d sessions", n)
		}
		return nil
	})
}

// expire says in a session's status, as the controller would, that its lease is over and its laptop away.
func expire(t *testing.T, ns, name string) {
	t.Helper()
	config := impersonate(t, "system:serviceaccount:dayfly-system:controller", "system:serviceaccounts", "system:serviceaccounts:dayfly-system", "system:authenticated")
	s := &v1alpha1.Session{}
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, s))
	body := fmt.Sprintf(`{"status":{"connected":false,"expiresAt":%q}}`, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
	must(t, config.CoreV1().RESTClient().Verb(http.MethodPatch).SetHeader("Content-Type", "application/merge-patch+json").
		AbsPath("/apis/dayfly.dev/v1alpha1/namespaces", ns, "sessions", name, "status").Body([]byte(body)).Do(context.Background()).Error())
}
