package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/source"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// newHome is a namespace in which a user may have environments, and that user's laptop.
func newHome(t *testing.T) (string, *laptop) {
	t.Helper()
	home := newNamespace(t)
	ada := newUser(t, "ada")
	bind(t, home, "dayfly-environments", ada)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("environments:\n%s", kubectlOutput("-n", home, "get", "environments", "-o", "yaml"))
		}
		_, _, _ = newLaptop(t, home).try(append([]string{"env", "delete", "--timeout", "30s"}, environmentsOf(home)...)...)
	})
	return home, newLaptop(t, home).as(ada.kubeconfig)
}

func environmentsOf(home string) []string {
	var list v1alpha1.EnvironmentList
	_ = cluster.List(context.Background(), &list, client.InNamespace(home))
	var out []string
	for _, e := range list.Items {
		out = append(out, e.Name)
	}
	return out
}

func getEnv(t *testing.T, home, name string) *v1alpha1.Environment {
	t.Helper()
	e := &v1alpha1.Environment{}
	must(t, cluster.Get(context.Background(), client.ObjectKey{Namespace: home, Name: name}, e))
	return e
}

// folder writes files into a new folder.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	return dir
}

// webFolder is testapp as one component, with a ConfigMap that has a finalizer if there is one to have.
func webFolder(t *testing.T, finalizer string) string {
	t.Helper()
	meta := "{name: settings}"
	if finalizer != "" {
		meta = "{name: settings, finalizers: [" + finalizer + "]}"
	}
	return folder(t, map[string]string{"web.yaml": `
apiVersion: v1
kind: ConfigMap
metadata: ` + meta + `
data: {a: b}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      enableServiceLinks: false
      containers:
        - name: app
          image: ` + testappImage + `
          command: [/testapp, serve]
          ports: [{containerPort: 8080}]
          readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
          envFrom: [{configMapRef: {name: settings}}]
`, "dayfly.yaml": `
apiVersion: dayfly.dev/v1alpha1
kind: Blueprint
spec:
  components:
    web: {health: {path: /}}
`})
}

// clusterObjects is every object of the cluster, of every kind, without the ignored fields. Objects in namespaces of other
// tests, and those namespaces, are left out.
func clusterObjects(t *testing.T, own ...string) map[string]any {
	t.Helper()
	out, ig := map[string]any{}, readIgnored(t)
	everyObject(t, "", ig, func(gv schema.GroupVersion, o *unstructured.Unstructured) {
		ns := o.GetNamespace()
		if o.GetKind() == "Namespace" {
			ns = o.GetName()
		}
		others := strings.HasPrefix(ns, "e2e-") || strings.HasPrefix(ns, "env-e2e-")
		if others && !slices.Contains(own, ns) || o.GetKind() == "CertificateSigningRequest" { // users of tests
			return
		}
		one := map[string]any{}
		addObject(one, o, ig)
		for k, v := range one {
			out[o.GetNamespace()+" "+gv.Group+" "+k] = v
		}
	})
	return out
}

// checkNobodySpeaksOf fails the test if any object of the cluster speaks of an environment's namespace.
func checkNobodySpeaksOf(t *testing.T, lives string) {
	t.Helper()
	for k, v := range clusterObjects(t, lives) {
		data, err := json.Marshal(v)
		must(t, err)
		if strings.Contains(string(data), lives) {
			t.Errorf("left over: %s: %.500s", k, data)
		}
	}
}

// An environment of the same name, from the same folder, at once after the last: what that one leaves to the garbage collector is
// not taken for its own.
func TestSameNameAgainAtOnce(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	dir := webFolder(t, "")
	l.dayfly("env", "create", "pr-1", "-f", dir)
	l.dayfly("env", "delete", "pr-1")
	l.dayfly("env", "create", "pr-1", "-f", dir)
	e := getEnv(t, home, "pr-1")
	b := &v1alpha1.Blueprint{}
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: home, Name: e.Spec.Blueprint}, b))
	if len(b.OwnerReferences) != 1 || b.OwnerReferences[0].UID != e.UID || !b.DeletionTimestamp.IsZero() {
		t.Errorf("environment %s is made from %+v", e.UID, b.ObjectMeta)
	}
	l.dayfly("env", "delete", "pr-1")
}

// The whole life of an environment, by somebody who has no right but to have environments: it answers, nobody else reaches it and
// it reaches nobody, a change is ready when it runs and not before, and in the end there is nothing of it in the cluster.
func TestEnvironmentLivesAndIsGoneWithoutATrace(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	deployClient(t, home)
	before := snapshot(t, home)
	start := time.Now()
	out, says, code := l.try("env", "create", "pr-1", "-f", "../../examples/shop/deploy", "--ttl", "1h", "-o", "json")
	if code != 0 {
		t.Fatalf("exit code %d\n%s", code, says)
	}
	t.Logf("ready after %s:\n%s", time.Since(start).Round(10*time.Millisecond), says)
	var made struct {
		State, LivesIn string
		Components     []struct{ Name, State string }
	}
	must(t, json.Unmarshal([]byte(out), &made))
	if made.State != "Ready" || made.LivesIn != "env-"+home+"-pr-1" || len(made.Components) != 4 {
		t.Errorf("%+v", made)
	}
	lives := made.LivesIn
	deployClient(t, lives) // past the environment's account
	if body := inPod(t, lives, "get", "http://storefront/api/shop"); !strings.Contains(body, "v1") {
		t.Errorf("the shop says %s", body)
	}
	if out, err := tryInPod(home, "get", "-timeout", "2s", "http://storefront."+lives); err == nil {
		t.Errorf("another namespace reaches it: %s", out)
	}
	must(t, cluster.Create(t.Context(), serviceFor(home, "front", "client")))
	if out, err := tryInPod(lives, "get", "-timeout", "2s", "http://front."+home); err == nil {
		t.Errorf("it reaches another namespace: %s", out)
	}
	if out, err := tryInPod(lives, "get", "-timeout", "2s", "https://kubernetes.default"); err == nil || strings.Contains(out, "403") {
		t.Errorf("it reaches the API server: %s", out)
	}
	open := l.command("env", "open", "pr-1", "-o", "json")
	opened, err := open.StdoutPipe()
	must(t, err)
	must(t, open.Start())
	var list struct {
		Items []struct{ Component, URL string }
	}
	if err := json.NewDecoder(opened).Decode(&list); err != nil || len(list.Items) != 1 || list.Items[0].Component != "storefront" {
		t.Errorf("opened: %+v, %v", list, err)
	} else if out, err := exec.Command(binTestapp, "get", list.Items[0].URL+"/api/shop").CombinedOutput(); err != nil || !strings.Contains(string(out), "v1") {
		t.Errorf("by way of this machine, the shop says %s (%v)", out, err)
	}
	must(t, open.Process.Signal(os.Interrupt))
	if err := open.Wait(); open.ProcessState.ExitCode() != 130 {
		t.Errorf("after ^C: %v", err)
	}
	if logs := l.dayfly("env", "logs", "pr-1", "catalog"); !strings.Contains(logs, "catalog-") {
		t.Errorf("logs: %s", logs)
	}
	for _, args := range [][]string{{"env", "list"}, {"env", "show", "pr-1"}, {"env", "events", "pr-1"}} {
		if out := l.dayfly(args...); !strings.Contains(out, "Ready") {
			t.Errorf("%s: %s", args, out)
		}
	}

	first := getEnv(t, home, "pr-1").Status.Revisions.Ready
	l.dayfly("env", "update", "pr-1", "--replicas", "catalog=1")
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("../../examples/shop/deploy")))
	data, err := os.ReadFile(filepath.Join(dir, "catalog.yaml"))
	must(t, err)
	changed := strings.Replace(string(data), `value: "v1"`, `value: "v2"`, 1) + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra}\n"
	must(t, os.WriteFile(filepath.Join(dir, "catalog.yaml"), []byte(changed), 0o600))
	if out, _, code := l.try("env", "diff", "pr-1", "-f", dir, "--exit-code"); code != 1 || !strings.Contains(out, "+          value: v2\n") || !strings.Contains(out, "configmap/extra added") {
		t.Errorf("diff: exit code %d\n%s", code, out)
	}
	l.dayfly("env", "update", "pr-1", "-f", dir)
	if out, says, code := l.try("env", "diff", "pr-1", "-f", dir, "--exit-code"); code != 0 || out != "" {
		t.Errorf("after the update: exit code %d\n%s%s", code, out, says)
	}
	e := getEnv(t, home, "pr-1")
	if r := e.Status.Revisions; r.Ready == first || r.Ready != r.Requested || r.Applied != r.Requested {
		t.Errorf("revisions: %+v, the first was %s", r, first)
	}
	for range 5 {
		if body := inPod(t, lives, "get", "http://catalog/products"); !strings.Contains(body, `"version": "v2"`) {
			t.Fatalf("ready, and the catalog says %s", body)
		}
	}
	var d unstructured.Unstructured
	d.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"})
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: lives, Name: "catalog"}, &d))
	if n, _, _ := unstructured.NestedInt64(d.Object, "spec", "replicas"); n != 1 {
		t.Errorf("what was set before is gone: %d replicas", n)
	}
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: lives, Name: "extra"}, &corev1.ConfigMap{}))
	l.dayfly("env", "update", "pr-1", "-f", "../../examples/shop/deploy")
	if err := cluster.Get(t.Context(), client.ObjectKey{Namespace: lives, Name: "extra"}, &corev1.ConfigMap{}); !apierrors.IsNotFound(err) {
		t.Errorf("what is no longer in it is still there: %v", err)
	}
	var blueprints v1alpha1.BlueprintList
	must(t, cluster.List(t.Context(), &blueprints, client.InNamespace(home)))
	if len(blueprints.Items) != 2 { // of this revision and the one before it
		t.Errorf("%d blueprints are kept", len(blueprints.Items))
	}
	if _, says, code := l.try("env", "rollback", "pr-1"); code != 0 || !strings.Contains(inPod(t, lives, "get", "http://catalog/products"), `"version": "v2"`) {
		t.Errorf("rollback: exit code %d, and another revision answers\n%s", code, says)
	}
	if out := l.dayfly("env", "history", "pr-1"); strings.Count(out, "pr-1-") != 3 || !strings.Contains(out, "catalog=1 replicas") {
		t.Errorf("history:\n%s", out)
	}
	l.dayfly("env", "rollback", "pr-1", first)
	if r := getEnv(t, home, "pr-1").Status.Revisions; r.Ready != first {
		t.Errorf("after going back to %s: %+v", first, r)
	}
	if _, says, code := l.try("env", "rollback", "pr-1", "nonsense"); code != 6 || !strings.Contains(says, "no revision nonsense") {
		t.Errorf("rollback to nothing: exit code %d\n%s", code, says)
	}
	must(t, cluster.Delete(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: lives, Name: "stock"}}))
	await(t, promise(3*time.Second), "a deleted Service is back", func() error {
		return cluster.Get(t.Context(), client.ObjectKey{Namespace: lives, Name: "stock"}, &corev1.Service{})
	})

	kubectl(t, "-n", lives, "set", "env", "deploy/catalog", "SHOP_VERSION=by-hand")
	await(t, promise(10*time.Second), "what was changed by hand is put back", func() error {
		if out := l.dayfly("env", "events", "pr-1"); !strings.Contains(out, "deployment/catalog: what kubectl-set has changed is put back") {
			return fmt.Errorf("events:\n%s", out)
		}
		if body := inPod(t, lives, "get", "http://catalog/products"); !strings.Contains(body, `"version": "v1"`) {
			return fmt.Errorf("the catalog says %s", body)
		}
		return nil
	})
	must(t, cluster.Delete(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: "front"}}))
	_, says, _ = l.try("env", "delete", "pr-1")
	if !strings.Contains(says, "environment pr-1 is gone") {
		t.Errorf("delete: %s", says)
	}
	checkRestored(t, home, before)
	checkNobodySpeaksOf(t, lives)
}

// An environment that sleeps runs nothing and keeps everything else; what is changed meanwhile is what wakes, in the order of
// needs; and one that sleeps is deleted like any other.
func TestEnvironmentSleepsAndWakes(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("../../examples/shop/deploy")))
	must(t, os.WriteFile(filepath.Join(dir, "dayfly.yaml"), []byte("apiVersion: dayfly.dev/v1alpha1\nkind: Blueprint\nspec:\n  components:\n    catalog: {needs: [stock]}\n    storefront: {needs: [catalog, orders]}\n"), 0o600))
	l.dayfly("env", "create", "pr-2", "-f", dir)
	lives := "env-" + home + "-pr-2"
	before := objectNames(t, lives)
	for round := range 3 {
		start := time.Now()
		_, says, code := l.try("env", "sleep", "pr-2")
		if code != 0 || !strings.Contains(says, "environment pr-2 is asleep") {
			t.Fatalf("sleep: exit code %d\n%s", code, says)
		}
		fell := time.Since(start)
		var pods corev1.PodList
		must(t, cluster.List(t.Context(), &pods, client.InNamespace(lives)))
		if len(pods.Items) > 0 {
			t.Fatalf("asleep with %d pods", len(pods.Items))
		}
		if now := objectNames(t, lives); !slices.Equal(now, before) {
			t.Errorf("asleep there is %s, before there was %s", now, before)
		}
		if out := l.dayfly("env", "list"); !strings.Contains(out, "Asleep") {
			t.Errorf("list: %s", out)
		}
		if round == 1 {
			l.dayfly("env", "update", "pr-2", "--replicas", "catalog=1")
		}
		start = time.Now()
		_, says, code = l.try("env", "wake", "pr-2")
		if code != 0 || !strings.Contains(says, "environment pr-2 is ready") {
			t.Fatalf("wake: exit code %d\n%s", code, says)
		}
		if a, b := strings.Index(says, "stock                Ready"), strings.Index(says, "storefront           Ready"); a < 0 || b < a {
			t.Errorf("woken in another order than that of needs:\n%s", says)
		}
		t.Logf("asleep after %v, awake after %v", fell.Round(10*time.Millisecond), time.Since(start).Round(10*time.Millisecond))
	}
	var d unstructured.Unstructured
	d.SetGroupVersionKind(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"})
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: lives, Name: "catalog"}, &d))
	if n, _, _ := unstructured.NestedInt64(d.Object, "spec", "replicas"); n != 1 {
		t.Errorf("what was changed while it slept is not what woke: %d replicas", n)
	}
	l.dayfly("env", "sleep", "pr-2", "--wait=false")
	l.dayfly("env", "delete", "pr-2")
	checkNobodySpeaksOf(t, lives)
}

// What was started before what it calls was there, and failed, is started again as soon as that is ready: it does not wait for its
// turn, and is no failure meanwhile.
func TestWhatWasStartedTooEarlyIsStartedAgain(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	l.dayfly("env", "create", "pr-1", "--wait=false", "-f", folder(t, map[string]string{
		"store.yaml": appManifest("store", "", "command: [/testapp, serve], readinessProbe: {httpGet: {port: 8080}, initialDelaySeconds: 12, periodSeconds: 1}"),
		"app.yaml": `
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      enableServiceLinks: false
      terminationGracePeriodSeconds: 0
      initContainers: [{name: ask, image: ` + testappImage + `, command: [/testapp, get, "$(STORE)"], env: [{name: STORE, value: "http://store/"}]}]
      containers: [{name: app, image: ` + testappImage + `, command: [/testapp, serve], readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}}]
`}))
	lives := "env-" + home + "-pr-1"
	first := ""
	await(t, promise(8*time.Second), "app waits for its turn to be started again", func() error {
		var pods corev1.PodList
		must(t, cluster.List(t.Context(), &pods, client.InNamespace(lives), client.MatchingLabels{"app": "app"}))
		for _, p := range pods.Items {
			for _, c := range p.Status.InitContainerStatuses {
				if c.RestartCount > 0 && (c.State.Terminated != nil && c.State.Terminated.ExitCode != 0 || c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff") {
					first = p.Name
					return nil
				}
			}
		}
		return fmt.Errorf("%d pods", len(pods.Items))
	})
	if out := l.dayfly("env", "show", "pr-1"); strings.Contains(out, "Failing") {
		t.Errorf("what was started too early is called a failure:\n%s", out)
	}
	await(t, promise(20*time.Second), "all is ready", func() error {
		if c := getEnv(t, home, "pr-1"); c.Status.Replicas != 1 {
			return fmt.Errorf("%+v", c.Status.Components)
		}
		return nil
	})
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(lives)))
	for _, p := range pods.Items {
		if p.Name == first {
			t.Errorf("pod %s was left to wait", first)
		}
	}
	if after := slowestPod(t, lives).Sub(readyAt(t, lives, "store")); after > promise(3*time.Second) {
		t.Errorf("app was ready %v after what it needs", after)
	}
	l.dayfly("env", "delete", "pr-1")
}

// readyAt is when the pod of an app was ready.
func readyAt(t *testing.T, ns, app string) time.Time {
	t.Helper()
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(ns), client.MatchingLabels{"app": app}))
	for _, p := range pods.Items {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return c.LastTransitionTime.Time
			}
		}
	}
	t.Fatalf("no pod of %s is ready", app)
	return time.Time{}
}

// objectNames are the objects of a namespace that stay while its environment sleeps.
func objectNames(t *testing.T, ns string) []string {
	t.Helper()
	var out []string
	everyObject(t, ns, readIgnored(t), func(_ schema.GroupVersion, o *unstructured.Unstructured) {
		switch o.GetKind() {
		case "Pod", "Event", "EndpointSlice", "Endpoints", "ReplicaSet", "Lease", "PodMetrics":
			return
		}
		out = append(out, o.GetKind()+"/"+o.GetName())
	})
	slices.Sort(out)
	return slices.Compact(out)
}

// What goes wrong is named: the object and the reason; and it holds up no other environment.
func TestEnvironmentFailuresAreNamedAndHoldUpNobody(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	dir := webFolder(t, "")
	for _, c := range []struct {
		what string
		args []string
		code int
		says string
	}{
		{"no folder", []string{"create", "x"}, 2, "there is nothing to make it from"},
		{"a folder that is not there", []string{"create", "x", "-f", "nowhere"}, 2, "-f nowhere is no folder"},
		{"a broken file", []string{"create", "x", "-f", folder(t, map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n bad: indent\n"})}, 7, "a.yaml:"},
		{"an unknown component", []string{"create", "x", "-f", dir, "--image", "wab=:v2"}, 2, "there is no component or image wab"},
		{"a name that is too long", []string{"create", strings.Repeat("a", 41), "-f", dir}, 2, "at most 40 characters"},
		{"too long a life", []string{"create", "x", "-f", dir, "--ttl", "721h"}, 2, "lives between 1m and 720h"},
		{"a kind that it may not have", []string{"create", "x", "-f", folder(t, map[string]string{"a.yaml": "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: open}\nspec: {podSelector: {}, ingress: [{}]}\n"})}, 7, "networkpolicy/open may not be in an environment"},
		{"none of that name", []string{"show", "nobody"}, 6, "there is no environment nobody"},
	} {
		_, says, code := l.try(append([]string{"env"}, c.args...)...)
		if code != c.code || !strings.Contains(says, c.says) {
			t.Errorf("%s: exit code %d, want %d and %q:\n%s", c.what, code, c.code, c.says, says)
		}
	}
	if left := environmentsOf(home); len(left) > 0 {
		t.Fatalf("refused, and made: %s", left)
	}
	l.dayfly("env", "create", "missing", "-f", dir, "--image", "web=docker.io/dayfly/testapp:nowhere", "--wait=false")
	big := folder(t, map[string]string{"a.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: big}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n" +
		"    spec: {containers: [{name: c, image: " + testappImage + ", resources: {requests: {cpu: 5}}}]}\n"})
	l.dayfly("env", "create", "big", "-f", big, "--wait=false")
	l.dayfly("env", "create", "stuck", "-f", webFolder(t, "example.com/stuck"))
	l.dayfly("env", "delete", "stuck", "--wait=false")
	// Made past the command, which would have seen that it cannot be rendered.
	broken, err := source.ReadFolder(os.DirFS(folder(t, map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n bad: indent\n"})))
	must(t, err)
	packed, err := broken.Pack()
	must(t, err)
	b := &v1alpha1.Blueprint{ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: "broken-" + broken.Digest()[7:19]},
		Spec: v1alpha1.BlueprintSpec{Digest: broken.Digest(), Folder: packed}}
	must(t, cluster.Create(t.Context(), b))
	e := &v1alpha1.Environment{ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: "broken"}}
	e.Spec.Owner.Username, e.Spec.Blueprint, e.Spec.TTL.Duration = whoAmI(t), b.Name, time.Hour
	must(t, cluster.Create(t.Context(), e))
	for name, want := range map[string][2]string{
		"missing": {environment.ReasonFailing, "pod/web-"}, "big": {environment.ReasonFailing, "exceeded quota"}, "broken": {environment.ReasonInvalid, "a.yaml:"},
		"stuck": {environment.ReasonBlocked, "configmap/settings waits for whoever takes off its finalizer example.com/stuck"},
	} {
		await(t, promise(15*time.Second), name+" says why", func() error {
			for _, c := range getEnv(t, home, name).Status.Conditions {
				if c.Type == v1alpha1.ConditionReady && c.Reason == want[0] && strings.Contains(c.Message, want[1]) {
					return nil
				}
			}
			return fmt.Errorf("%+v", getEnv(t, home, name).Status.Conditions)
		})
	}
	start := time.Now()
	l.dayfly("env", "create", "good", "-f", dir)
	if took := time.Since(start); took > promise(6*time.Second) {
		t.Errorf("beside four that fail, one took %s", took)
	} else {
		t.Logf("beside four that fail, one was ready after %s", took.Round(10*time.Millisecond))
	}
	start = time.Now()
	_, says, code := l.try("env", "update", "missing", "--replicas", "web=2", "--timeout", "2m")
	if code != 1 || !strings.Contains(says, "environment missing is not ready: Failing: web: deployment/web: pod/web-") {
		t.Errorf("waiting for what fails: exit code %d after %s: %s", code, time.Since(start), says)
	}
	kubectl(t, "-n", "env-"+home+"-stuck", "patch", "configmap", "settings", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	await(t, promise(10*time.Second), "stuck is gone", func() error {
		if slices.Contains(environmentsOf(home), "stuck") {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	l.dayfly("env", "delete", "missing", "big", "good", "broken")
	checkNobodySpeaksOf(t, "env-"+home+"-missing")
	checkNobodySpeaksOf(t, "env-"+home+"-stuck")
}

// Twenty environments that are asked for at once are all made, and taken away at once; none is in the way of another.
func TestTwentyEnvironmentsAtOnce(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	dir := webFolder(t, "")
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("pr-%d", i))
	}
	start := time.Now()
	errs := make(chan error, len(names))
	for _, name := range names {
		go func() {
			if out, err := l.command("env", "create", name, "-f", dir).CombinedOutput(); err != nil {
				errs <- fmt.Errorf("%s: %w\n%s", name, err, out)
				return
			}
			errs <- nil
		}()
	}
	for range names {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	t.Logf("all ready after %v", time.Since(start).Round(10*time.Millisecond))
	for _, name := range names[:3] {
		if ns := "env-" + home + "-" + name; len(podIPs(t, ns, "app=web")) != 1 {
			t.Errorf("%s does not run", name)
		}
	}
	start = time.Now()
	l.dayfly(append([]string{"env", "delete"}, names...)...)
	t.Logf("all gone after %v", time.Since(start).Round(10*time.Millisecond))
	if left := environmentsOf(home); len(left) > 0 {
		t.Errorf("left over: %s", left)
	}
	checkNobodySpeaksOf(t, "env-"+home+"-pr-7")
}

// An environment goes when its time is over, and later if it is extended.
func TestEnvironmentEndsWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	l.dayfly("env", "create", "short", "-f", webFolder(t, ""), "--ttl", "1m", "--wait=false")
	l.dayfly("env", "create", "longer", "-f", webFolder(t, ""), "--ttl", "1m", "--wait=false")
	l.dayfly("env", "extend", "longer", "--by", "1h")
	await(t, time.Minute+promise(10*time.Second), "the end of short", func() error {
		if slices.Contains(environmentsOf(home), "short") {
			time.Sleep(time.Second)
			return fmt.Errorf("it is there")
		}
		return nil
	})
	checkNobodySpeaksOf(t, "env-"+home+"-short")
	if e := getEnv(t, home, "longer"); !e.DeletionTimestamp.IsZero() {
		t.Error("what was extended ends as well")
	}
	l.dayfly("env", "delete", "longer")
}

// The rights that the controller has for environments do for nothing else, and the account of an environment cannot take away what
// others are protected by.
func TestAdmissionBindsTheControllerToEnvironments(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	ctx, dry := t.Context(), metav1.CreateOptions{DryRun: []string{"All"}}
	l.dayfly("env", "create", "pr-1", "-f", webFolder(t, ""))
	lives := "env-" + home + "-pr-1"
	controller := impersonate(t, "system:serviceaccount:"+system+":controller", "system:serviceaccounts", "system:serviceaccounts:"+system, "system:authenticated")
	account := impersonate(t, "system:serviceaccount:"+lives+":dayfly-environment", "system:serviceaccounts", "system:serviceaccounts:"+lives, "system:authenticated")

	marked := map[string]string{"dayfly.dev/managed": "dayfly", "dayfly.dev/environment": "x", "pod-security.kubernetes.io/enforce": "baseline"}
	unguarded := maps.Clone(marked)
	delete(unguarded, "pod-security.kubernetes.io/enforce")
	for what, ns := range map[string]metav1.ObjectMeta{
		"without the labels": {Name: "env-x"}, "of another name": {Name: "x", Labels: marked}, "without Pod Security": {Name: "env-x", Labels: unguarded},
	} {
		_, err := controller.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: ns}, dry)
		checkDenied(t, "controller: make a namespace "+what, err)
	}
	for _, ns := range []string{home, "default", system} {
		checkDenied(t, "controller: delete namespace "+ns, controller.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{DryRun: []string{"All"}}))
		binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "dayfly-environment"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "dayfly-environment"}}
		_, err := controller.RbacV1().RoleBindings(ns).Create(ctx, binding, dry)
		checkDenied(t, "controller: give rights in "+ns, err)
		_, err = controller.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "dayfly-environment"}}, dry)
		checkDenied(t, "controller: make an account in "+ns, err)
		_, err = controller.CoreV1().ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, dry)
		checkDenied(t, "controller: make a quota in "+ns, err)
	}
	for what, patch := range map[string]string{
		"privileged": `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`, "another's": `{"metadata":{"annotations":{"dayfly.dev/environment-uid":"x"}}}`,
		"with a label": `{"metadata":{"labels":{"more":"x"}}}`, "without a label": `{"metadata":{"labels":{"dayfly.dev/home":null}}}`, "that never goes": `{"metadata":{"finalizers":["x.y/z"]}}`,
	} {
		_, err := controller.CoreV1().Namespaces().Patch(ctx, lives, types.MergePatchType, []byte(patch), metav1.PatchOptions{DryRun: dry.DryRun})
		checkDenied(t, "controller: make the namespace of an environment one "+what, err)
	}
	_, err := controller.CoreV1().Namespaces().Patch(ctx, home, types.MergePatchType, []byte(`{"metadata":{"annotations":{"dayfly.dev/guards":"x"}}}`), metav1.PatchOptions{DryRun: dry.DryRun})
	checkDenied(t, "controller: change another namespace", err)
	wide := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: lives, Name: "dayfly-environment"}}
	wide.Spec.Hard = corev1.ResourceList{"services.nodeports": resource.MustParse("1"), "services.loadbalancers": resource.MustParse("0")}
	_, err = controller.CoreV1().ResourceQuotas(lives).Update(ctx, wide, metav1.UpdateOptions{DryRun: dry.DryRun})
	checkDenied(t, "controller: allow an environment node ports", err)
	for _, role := range []string{"cluster-admin", "edit"} {
		binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "more"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}}
		_, err := controller.RbacV1().RoleBindings(lives).Create(ctx, binding, dry)
		checkDenied(t, "controller: give "+role, err)
		binding.RoleRef.Name = role
		_, err = account.RbacV1().RoleBindings(lives).Create(ctx, binding, dry)
		checkDenied(t, "account: give "+role, err)
	}
	_, err = controller.CoreV1().Secrets(lives).List(ctx, metav1.ListOptions{})
	checkDenied(t, "controller: list secrets of an environment", err)
	for verb, who := range map[string]string{"users": "ada", "groups": "system:masters", "serviceaccounts": "default"} {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: lives, Verb: "impersonate", Resource: verb, Name: who}}}
		review, err := controller.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		must(t, err)
		if review.Status.Allowed {
			t.Errorf("the controller may act as %s %s", verb, who)
		}
	}
	err = controller.RESTClient().Patch(types.MergePatchType).AbsPath("/apis/dayfly.dev/v1alpha1/namespaces/" + home + "/environments/pr-1").
		Body([]byte(`{"spec":{"only":["evil"]}}`)).Do(ctx).Error()
	checkDenied(t, "controller: change what an environment asks for", err, "does not change what an environment asks for")

	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}, ExternalIPs: []string{"192.0.2.1"}}}
	_, err = account.CoreV1().Services(lives).Create(ctx, service, dry)
	checkDenied(t, "account: take the traffic of an address", err, "no externalIPs")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: corev1.PodSpec{PriorityClassName: "system-cluster-critical", Containers: []corev1.Container{{Name: "a", Image: testappImage}}}}
	_, err = account.CoreV1().Pods(lives).Create(ctx, pod, dry)
	checkDenied(t, "account: take the place of pods of the system", err, "no priority class of the system's")
	_, err = account.RbacV1().RoleBindings(lives).Patch(ctx, "dayfly-environment", types.MergePatchType, []byte(`{"subjects":[]}`), metav1.PatchOptions{DryRun: dry.DryRun})
	checkDenied(t, "account: take its own rights away", err, "gives rights in the namespace of an environment is dayfly's")
	checkDenied(t, "account: delete its own binding", account.RbacV1().RoleBindings(lives).Delete(ctx, "dayfly-environment", metav1.DeleteOptions{DryRun: dry.DryRun}),
		"gives rights in the namespace of an environment is dayfly's")

	checkDenied(t, "account: delete the quota", account.CoreV1().ResourceQuotas(lives).Delete(ctx, "dayfly-environment", metav1.DeleteOptions{}))
	checkDenied(t, "account: delete the limits", account.CoreV1().LimitRanges(lives).Delete(ctx, "dayfly-environment", metav1.DeleteOptions{}))
	checkDenied(t, "account: delete the network policy", account.NetworkingV1().NetworkPolicies(lives).Delete(ctx, "dayfly-environment", metav1.DeleteOptions{}))
	_, err = account.CoreV1().Secrets(home).List(ctx, metav1.ListOptions{})
	checkDenied(t, "account: list secrets elsewhere", err)
	_, err = account.CoreV1().Namespaces().Get(ctx, lives, metav1.GetOptions{})
	checkDenied(t, "account: see its namespace", err)
	privileged := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "evil"}, Spec: corev1.PodSpec{HostPID: true, Containers: []corev1.Container{{Name: "c", Image: testappImage}}}}
	_, err = account.CoreV1().Pods(lives).Create(ctx, privileged, dry)
	checkDenied(t, "account: a pod that sees its node", err, "PodSecurity")
	l.dayfly("env", "delete", "pr-1")
}

// The controller is killed, as by kill -9, after every single one of its writes, over the whole life of an environment: it comes to
// be ready, it changes, it sleeps and wakes, it ends, and the cluster is as it was. Not parallel: there is no other controller meanwhile.
func TestControllerKilledBetweenAnyTwoWritesOfAnEnvironment(t *testing.T) {
	shakes(t)
	home, _ := newHome(t)
	l := newLaptop(t, home) // of who may read every Secret
	dir, databases := webFolder(t, ""), newDatabaseServer(t)
	databases.secret(home, "databases", "synthetic")
	(&sourceServer{t: t, ns: home}).let("databases")
	must(t, os.WriteFile(filepath.Join(dir, "dayfly.yaml"), []byte("apiVersion: dayfly.dev/v1alpha1\nkind: Blueprint\nspec: {components: {web: {health: {path: /}}, "+
		"data: {data: {class: synthetic, clone: {database: shop, secret: databases}}}}}\n"), 0o600))
	startFaultyController(t)
	before := clusterObjects(t, home)
	deaths, start := 0, time.Now()
	whileControllersDie(t, 1, &deaths, func() {
		l.dayfly("env", "create", "pr-1", "-f", dir, "--data-secret", "databases", "--timeout", "3m")
		if made := databases.made(); strings.Count(made, "env_") != 1 {
			t.Errorf("its databases are %q", made)
		}
		l.dayfly("env", "update", "pr-1", "--replicas", "web=2", "--timeout", "3m")
		l.dayfly("env", "sleep", "pr-1", "--timeout", "3m")
		if pods := kubectl(t, "-n", "env-"+home+"-pr-1", "get", "pods", "-o", "name"); pods != "" {
			t.Errorf("asleep, it runs %s", pods)
		}
		l.dayfly("env", "wake", "pr-1", "--timeout", "3m")
		awaitEndpoints(t, "env-"+home+"-pr-1", "web", 2)
		l.dayfly("env", "delete", "pr-1", "--timeout", "3m")
	})
	if made := databases.made(); made != "" {
		t.Errorf("on the server there is %s", made)
	}
	t.Logf("%d deaths in one life of an environment, %s", deaths, time.Since(start).Round(time.Second))
	if deaths < 20 {
		t.Errorf("only %d deaths: the fault is not injected", deaths)
	}
	after := clusterObjects(t, home, "env-"+home+"-pr-1")
	for _, objects := range []map[string]any{before, after} {
		maps.DeleteFunc(objects, func(k string, _ any) bool { return strings.HasPrefix(k, systemNamespace+" ") }) // controllers come and go
	}
	if diff := differences("", before, after); len(diff) > 0 {
		t.Errorf("the cluster is not as it was:\n%s", strings.Join(diff, "\n"))
	}
}
