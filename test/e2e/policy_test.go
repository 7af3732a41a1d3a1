package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func app(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

// strict lets only some call the pods of web.
func strict(ns string, from ...string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "strict"}}
	p.Spec = networkingv1.NetworkPolicySpec{PodSelector: *app("web"), PolicyTypes: []networkingv1.PolicyType{"Ingress"}, Ingress: []networkingv1.NetworkPolicyIngressRule{{}}}
	for _, f := range from {
		p.Spec.Ingress[0].From = append(p.Spec.Ingress[0].From, networkingv1.NetworkPolicyPeer{PodSelector: app(f)})
	}
	return p
}

// servedFrom asks web from a pod of a deployment; "" if nobody answers within the wait.
func servedFrom(t *testing.T, ns, deployment string, wait time.Duration, headers ...string) string {
	t.Helper()
	args := []string{"kubectl", "-n", ns, "exec", "deploy/" + deployment, "--", "/testapp", "get", "-timeout", wait.String()}
	for _, h := range headers {
		args = append(args, "-H", h)
	}
	out, err := testcluster(append(args, "http://web/")...).CombinedOutput()
	var r reply
	switch {
	case err == nil && json.Unmarshal(out, &r) == nil:
		return r.ServedBy
	case strings.Contains(string(out), "exceeded") || strings.Contains(string(out), "reset") || strings.Contains(string(out), "timeout") || strings.Contains(string(out), "EOF"):
		return ""
	}
	t.Fatalf("asking from %s: %v\n%s", deployment, err, out)
	return ""
}

const mine = "x-dayfly-session: ada"

// A network policy says of a captured Service what it said before: whom it lets in reaches the original and, by rule, the laptop;
// nobody else gets an answer from either. It may change meanwhile, pods may come, and closing leaves nothing.
func TestNetworkPolicyIsAppliedToTheCallersOfACapturedService(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	for _, name := range []string{"client", "stranger"} {
		deploy(t, ns, name, 1, []string{"serve"})
	}
	awaitDeployment(t, ns, "client")
	awaitDeployment(t, ns, "stranger")
	must(t, cluster.Create(t.Context(), strict(ns, "client")))
	const soon = 3 * time.Second
	await(t, promise(5*time.Second), "the cluster enforces the policy", func() error {
		if by := servedFrom(t, ns, "stranger", soon); by != "" {
			return fmt.Errorf("a stranger is served by %s", by)
		}
		return nil
	})
	if by := servedFrom(t, ns, "client", soon); by == "" {
		t.Fatal("the policy lets nobody in")
	}
	before := snapshot(t, ns)

	l := newLaptop(t, ns)
	start := time.Now()
	l.intercept("ada", "web", l.answer("laptop"))
	t.Logf("armed after %s", time.Since(start).Round(10*time.Millisecond))
	check := func(what, from string, headers []string, served bool, by string) {
		t.Helper()
		got := servedFrom(t, ns, from, soon, headers...)
		if served != (got != "") || by != "" && got != by || by == "" && got == "laptop" {
			t.Errorf("%s: %s is served by %q, want %v %q", what, from, got, served, by)
		}
	}
	for range 5 { // either router, either pod
		check("captured", "client", nil, true, "")
		check("captured, with the rule", "client", []string{mine}, true, "laptop")
	}
	check("captured", "stranger", nil, false, "")
	check("captured, with the rule", "stranger", []string{mine}, false, "")
	out := kubectl(t, "-n", ns, "get", "alterations", "-o", "yaml")
	if !strings.Contains(out, "admits:") {
		t.Errorf("the policy that admits the routers is not on the record:\n%s", out)
	}

	change := func(p *networkingv1.NetworkPolicy) {
		t.Helper()
		must(t, cluster.Patch(t.Context(), p, client.Merge)) //nolint:staticcheck
	}
	change(strict(ns, "client", "stranger"))
	follows(t, ns, "stranger", true)
	change(strict(ns, "client"))
	follows(t, ns, "stranger", false)

	change(strict(ns, "client", "newcomer"))
	deploy(t, ns, "newcomer", 1, []string{"serve"}) // a pod that nobody has heard of
	awaitDeployment(t, ns, "newcomer")
	check("a pod that has just come", "newcomer", []string{mine}, true, "laptop")
	must(t, cluster.Delete(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "newcomer"}}, client.PropagationPolicy(metav1.DeletePropagationForeground)))
	change(strict(ns, "client"))

	before["NetworkPolicy/strict"] = snapshot(t, ns)["NetworkPolicy/strict"] // what it says is as before; when it was written is not
	l.dayfly("session", "close", "ada")
	await(t, promise(5*time.Second), "the newcomer is gone", func() error {
		if out := kubectlOutput("-n", ns, "get", "pods", "-l", "app=newcomer", "-o", "name"); out != "" {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	checkRestored(t, ns, before)
	check("restored", "client", nil, true, "")
	check("restored", "stranger", nil, false, "")
}

// follows fails the test unless a policy that was just changed is in force within two seconds; a request that nobody answers
// takes a second to tell.
func follows(t *testing.T, ns, from string, served bool) {
	t.Helper()
	start := time.Now()
	await(t, promise(2*time.Second), "the change is followed", func() error {
		if got := servedFrom(t, ns, from, time.Second); served != (got != "") {
			return fmt.Errorf("%s is served by %q", from, got)
		}
		return nil
	})
	t.Logf("%s served: %v, seen %s after the change", from, served, time.Since(start).Round(10*time.Millisecond))
}

// A policy that comes while a Service is captured binds its callers, one that goes lets them go, and neither ends the capture.
func TestNetworkPolicyThatComesLaterIsFollowed(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	for _, name := range []string{"client", "stranger"} {
		deploy(t, ns, name, 1, []string{"serve"})
	}
	awaitDeployment(t, ns, "client")
	awaitDeployment(t, ns, "stranger")
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	l.intercept("ada", "web", l.answer("laptop"))
	if by := servedFrom(t, ns, "stranger", 5*time.Second, mine); by != "laptop" {
		t.Errorf("without a policy a stranger is served by %q", by)
	}
	must(t, cluster.Create(t.Context(), strict(ns, "client")))
	follows(t, ns, "stranger", false)
	follows(t, ns, "client", true)
	if by := servedFrom(t, ns, "client", 5*time.Second, mine); by != "laptop" {
		t.Errorf("with the policy the client is served by %q", by)
	}
	must(t, cluster.Delete(t.Context(), strict(ns)))
	follows(t, ns, "stranger", true)
	await(t, promise(2*time.Second), "the policy that admitted the routers goes with it", func() error {
		if out := kubectlOutput("-n", ns, "get", "networkpolicies", "-o", "name"); strings.Contains(out, "networkpolicy") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	l.dayfly("session", "close", "ada")
	checkRestored(t, ns, before)
}

// A namespace of 500 pods that come and change is followed, soon and for little: a pod that a policy lets in is served, and
// the controller takes but a part of a processor.
func TestNetworkPolicyOfManyPodsIsFollowed(t *testing.T) {
	ns, monitoring := newNamespace(t), newNamespace(t)

	deployClient(t, monitoring)
	allowScraping(t, monitoring)
	deployWeb(t, ns, 1)
	must(t, cluster.Create(t.Context(), strict(ns, "client")))
	l := newLaptop(t, ns)
	l.intercept("ada", "web", l.answer("laptop"))
	cpu := func() float64 { return scrape(t, monitoring, "controller")["process_cpu_seconds_total"] }
	before, start := cpu(), time.Now()

	pods := make([]*corev1.Pod, 500)
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for w := range errs {
		wg.Go(func() {
			for i := w; i < len(pods) && errs[w] == nil; i += len(errs) {
				pods[i], errs[w] = pretend(t.Context(), ns, i)
			}
		})
	}
	wg.Wait()
	must(t, errors.Join(errs...))
	deployClient(t, ns) // one that runs, and comes last
	if by := servedFrom(t, ns, "client", 5*time.Second, mine); by != "laptop" {
		t.Errorf("a pod among 500 is served by %q", by)
	}
	deploy(t, ns, "stranger", 1, []string{"serve"})
	awaitDeployment(t, ns, "stranger")
	if by := servedFrom(t, ns, "stranger", 5*time.Second, mine); by != "" {
		t.Errorf("a stranger among 500 is served by %q", by)
	}
	used, took := cpu()-before, time.Since(start)
	t.Logf("500 pods came in %s; the controllers took %.2f s of processor", took.Round(time.Second), used)
	if used > took.Seconds()/2 {
		t.Errorf("the controllers took %.2f s of processor in %s, more than half of one", used, took)
	}
}

// pretend makes a pod that no node runs, with an address.
func pretend(ctx context.Context, ns string, i int) (*corev1.Pod, error) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("many-%d", i), Labels: map[string]string{"app": "client"}}}
	p.Spec.SchedulerName = "nobody"
	p.Spec.Containers = []corev1.Container{{Name: "app", Image: testappImage}}
	if err := cluster.Create(ctx, p); err != nil {
		return nil, err
	}
	p.Status.Phase = corev1.PodRunning
	p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.250.%d.%d", i/250, i%250+1)}}
	p.Status.PodIP = p.Status.PodIPs[0].IP
	return p, cluster.Status().Update(ctx, p)
}
