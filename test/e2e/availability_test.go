package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func evict(t *testing.T, pod *corev1.Pod) error {
	t.Helper()
	return clients(t).PolicyV1().Evictions(system).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: pod.Name}})
}

// However nodes are drained, one controller and all routers but one stay: the API server refuses the next eviction until the
// evicted one is back.
func TestDrainingNodesTakesOneRouterAndOneControllerAtATime(t *testing.T) {
	for _, component := range []string{"router", "controller"} {
		pdb := client.ObjectKey{Namespace: system, Name: component}
		allowed := func() error {
			var b policyv1.PodDisruptionBudget
			if err := cluster.Get(t.Context(), pdb, &b); err != nil {
				return err
			}
			if b.Status.DisruptionsAllowed != 1 || b.Status.CurrentHealthy < b.Status.ExpectedPods || b.Status.ExpectedPods < 2 {
				return fmt.Errorf("%+v", b.Status)
			}
			return nil
		}
		await(t, promise(20*time.Second), "every "+component+" is well", allowed)
		var pods corev1.PodList
		must(t, cluster.List(t.Context(), &pods, client.InNamespace(system), client.MatchingLabels{"app.kubernetes.io/component": component}))
		var refused, evicted int
		for i := range pods.Items {
			switch err := evict(t, &pods.Items[i]); {
			case err == nil:
				evicted++
			case apierrors.IsTooManyRequests(err):
				refused++
			default:
				t.Fatal(err)
			}
		}
		if evicted != 1 || refused != len(pods.Items)-1 {
			t.Errorf("%s: %d of %d evicted, %d refused", component, evicted, len(pods.Items), refused)
		}
		await(t, promise(30*time.Second), "every "+component+" is well again", allowed)
	}
}

// A class of Kubernetes' own is admitted in dayfly's namespace, also where a quota limits such classes: it comes along.
func TestPodsMayBeClusterCritical(t *testing.T) {
	t.Cleanup(func() { // as it was
		if out, err := exec.Command(binDayfly, "install", "--domain", domain, "--ingress-class", ingressClass).CombinedOutput(); err != nil {
			t.Errorf("installing again: %v\n%s", err, out)
		}
		kubectl(t, "-n", system, "delete", "resourcequota", "critical", "--ignore-not-found")
	})
	l := newLaptop(t, "default")
	l.dayfly("install", "--domain", domain, "--ingress-class", ingressClass, "--priority-class", "system-cluster-critical")
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(system)))
	for _, p := range pods.Items {
		if p.DeletionTimestamp.IsZero() && p.Status.Phase == corev1.PodRunning && p.Spec.PriorityClassName != "system-cluster-critical" {
			t.Errorf("%s has the priority class %q", p.Name, p.Spec.PriorityClassName)
		}
	}
	var q corev1.ResourceQuota
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: system, Name: "critical"}, &q))
	if q.Status.Used.Pods().Value() < 4 {
		t.Errorf("the quota counts %v", q.Status.Used)
	}
}

// What Helm makes of the chart is dayfly: an intercept works, and uninstall leaves nothing.
func TestChartInstallsWhatWorksAndIsUninstalled(t *testing.T) {
	l := newLaptop(t, newNamespace(t))
	t.Cleanup(func() { // the tests that follow need it
		if out, err := exec.Command(binDayfly, "install", "--domain", domain, "--ingress-class", ingressClass).CombinedOutput(); err != nil {
			t.Errorf("installing again: %v\n%s", err, out)
		}
	})
	l.dayfly("uninstall")
	checkNoTrace(t)
	helm := exec.Command(binary("helmtemplate"))
	helm.Stdin = bytes.NewBufferString(l.dayfly("install", "--dry-run", "-o", "chart"))
	rendered, err := helm.Output()
	must(t, err)
	apply := testcluster("kubectl", "apply", "--server-side", "-f", "-")
	apply.Stdin = bytes.NewReader(rendered)
	await(t, promise(5*time.Second), "applied", func() error { // the definitions of kinds come with what uses them
		if out, err := apply.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	for _, d := range []string{"controller", "router-0", "router-1"} {
		awaitDeployment(t, system, d)
	}
	deployWeb(t, l.ns, 1)
	deployClient(t, l.ns)
	before := snapshot(t, l.ns)
	l.intercept("ada", "web", l.answer("laptop"))
	if r := get(t, l.ns, "http://web/", "x-dayfly-session: ada"); r.ServedBy != "laptop" {
		t.Errorf("served by %s", r.ServedBy)
	}
	l.dayfly("uninstall")
	checkRestored(t, l.ns, before)
	checkNoTrace(t)
}
