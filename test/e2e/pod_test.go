package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// probed is what testapp probe prints of one address.
type probed struct {
	Address string
	Open    []int
	Said    []struct {
		Port          int
		How           string
		Status        int
		Answer, Error string
	}
}

// dayflyPods are the addresses of controllers and routers.
func dayflyPods(t *testing.T, component string) []string {
	t.Helper()
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(system),
		client.MatchingLabels{"app.kubernetes.io/name": "dayfly", "app.kubernetes.io/component": component}))
	var out []string
	for _, p := range pods.Items {
		if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp.IsZero() {
			out = append(out, p.Status.PodIP)
		}
	}
	if len(out) == 0 {
		t.Fatalf("no %s runs", component)
	}
	return out
}

// probeFrom runs testapp probe in a pod of its own.
func probeFrom(t *testing.T, ns string, labels map[string]string, args ...string) []probed {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "probe-", Labels: labels}}
	pod.Spec = corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(0)),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: new(true), RunAsUser: new(int64(65532)), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: "probe", Image: testappImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"/testapp"}, Args: append([]string{"probe"}, args...),
			VolumeMounts: []corev1.VolumeMount{{Name: "token", MountPath: "/var/run/probe"}},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
		}},
		Volumes: []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "dayfly-controller", Path: "token"}},
		}}}}},
	}
	await(t, 30*time.Second, "the namespace's service account", func() error { return cluster.Create(t.Context(), pod) })
	t.Cleanup(func() { kubectlOutput("-n", ns, "delete", "pod", pod.Name, "--wait=false") })
	await(t, 5*time.Minute, "probe", func() error {
		time.Sleep(500 * time.Millisecond) // it takes a minute
		if err := cluster.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			return fmt.Errorf("%s", pod.Status.Phase)
		}
		return nil
	})
	var got []probed
	await(t, 10*time.Second, "what the probe found", func() error { // the log may be a moment behind
		out := kubectlOutput("-n", ns, "logs", pod.Name)
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			return fmt.Errorf("%w\n%.2000s\n%+v", err, out, pod.Status.ContainerStatuses)
		}
		return nil
	})
	return got
}

func checkNothingGained(t *testing.T, p probed) {
	t.Helper()
	for _, s := range p.Said {
		marker := s.Port >= 19000 && s.Port < 19016 // says its number, to anybody
		switch {
		case s.Status >= 100 && s.Status < 400:
			t.Errorf("%s port %d: %s: status %d: %s", p.Address, s.Port, s.How, s.Status, s.Answer)
		case s.Status == 0 && s.Error == "" && !marker:
			t.Errorf("%s port %d: %s: let in", p.Address, s.Port, s.How)
		}
		for _, text := range []string{"CERTIFICATE", "PRIVATE KEY", "listeners", "laptops", "goroutine"} {
			if strings.Contains(s.Answer, text) {
				t.Errorf("%s port %d: %s: %s", p.Address, s.Port, s.How, s.Answer)
			}
		}
	}
}

// A pod of anybody's that connects to every port of routers and controllers finds only the ports that laptops and captured
// Services need, and nobody there who listens to it.
func TestPodThatReachesEveryPortGetsNothing(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	l := newLaptop(t, ns)
	l.intercept("ada", "web", l.answer("laptop")) // so that there is a captured port
	routers, controllers := dayflyPods(t, "router"), dayflyPods(t, "controller")
	captured := 0
	found := probeFrom(t, ns, nil, routers[0], controllers[0]) // every port takes a while: of the others, those that we know
	found = append(found, probeFrom(t, ns, nil, append([]string{"-from", "8000", "-to", "9999"}, append(slices.Clone(routers[1:]), controllers[1:]...)...)...)...)
	for _, p := range found {
		t.Logf("%s: open %v, %d exchanges", p.Address, p.Open, len(p.Said))
		for _, port := range p.Open {
			switch {
			case slices.Contains(controllers, p.Address):
				t.Errorf("controller %s: port %d is open to anybody", p.Address, port)
			case port >= 20000 && port <= 29999:
				captured++
			case port != 8443:
				t.Errorf("router %s: port %d is open to anybody", p.Address, port)
			}
		}
		if slices.Contains(routers, p.Address) && !slices.Contains(p.Open, 8443) {
			t.Errorf("router %s: the scan does not find port 8443, so it would find nothing", p.Address)
		}
		checkNothingGained(t, p)
	}
	if captured == 0 {
		t.Error("the scan found no captured port")
	}
}

// Network policies are a second wall, not the only one: a pod that they take for a router is told no more.
func TestPodThatPassesAsARouterGetsNothing(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"app.kubernetes.io/component": "router"} // what the policies go by
	addrs := append(dayflyPods(t, "router"), dayflyPods(t, "controller")...)
	for _, p := range probeFrom(t, system, labels, append([]string{"-from", "8000", "-to", "9999", "-wait", "2s"}, addrs...)...) {
		t.Logf("%s: open %v, %d exchanges", p.Address, p.Open, len(p.Said))
		if !slices.Contains(p.Open, 9443) {
			t.Errorf("%s: port 9443 is closed even to a router", p.Address)
		}
		checkNothingGained(t, p)
	}
}
