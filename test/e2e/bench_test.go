//go:build bench

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// rounds of each measurement, of which medians are compared; BENCH_ROUNDS sets another odd number.
var rounds = func() int {
	if n, err := strconv.Atoi(os.Getenv("BENCH_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return 5
}()

// `make bench` prints what dayfly costs beside what a user would use instead, all in one run, as ratios: these machines are
// shared, and one number of theirs means little.
func TestBench(t *testing.T) {
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	addService(t, ns, "spare", "web") // the same pods, never captured
	deployGRPC(t, ns, 1)
	addService(t, ns, "calls-spare", "calls")
	deployProxies(t, ns)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	fmt.Println("| what | against | ratio | medians |\n|---|---|---|---|")
	for _, part := range []struct {
		name string
		run  func(*testing.T, *laptop, string, int)
	}{{"start", benchStart}, {"router", benchRouter}, {"laptop", benchLaptop}, {"distance", benchDistance}, {"environments", benchEnvironments}} {
		t.Run(part.name, func(t *testing.T) { part.run(t, l, ns, port) })
	}
}

func addService(t *testing.T, ns, name, app string) {
	t.Helper()
	addServiceTo(t, ns, name, app, intstr.FromString("http"))
}

func addServiceTo(t *testing.T, ns, name, app string, port intstr.IntOrString) {
	t.Helper()
	svc := &corev1.Service{}
	svc.Namespace, svc.Name = ns, name
	svc.Spec = corev1.ServiceSpec{Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: port}}}
	must(t, cluster.Create(t.Context(), svc))
}

func median(xs []float64) float64 {
	s := slices.Sorted(slices.Values(xs))
	return s[len(s)/2]
}

func row(what, against string, a, b float64, unit string) {
	fmt.Printf("| %s | %s | %.2f | %.4g %s, %.4g %s |\n", what, against, a/b, a, unit, b, unit)
}

// measure runs the candidates in turn, so that what the machine does otherwise hits all of them, and returns each one's
// median.
func measure(t *testing.T, candidates ...func() float64) []float64 {
	t.Helper()
	all := make([][]float64, len(candidates))
	for range rounds {
		for i, c := range candidates {
			all[i] = append(all[i], c())
		}
	}
	var out []float64
	for _, xs := range all {
		out = append(out, median(xs))
	}
	return out
}

// benchStart: from the command to the first request that the laptop answers.
func benchStart(t *testing.T, l *laptop, ns string, port int) {
	first := func(svc string, args ...string) float64 {
		start := time.Now()
		l.dayfly(append([]string{"-q", "intercept", "service", svc, "-r", "80", "-l", strconv.Itoa(port), "--session", "bench", "--drain", "0s", "--detach"}, args...)...)
		if r := get(t, ns, "http://"+svc+"/", "x-dayfly-session: bench", "x-rule: mine"); r.ServedBy != "laptop" {
			t.Fatalf("served by %s", r.ServedBy)
		}
		return time.Since(start).Seconds()
	}
	m := measure(t,
		func() float64 { return first("web") },
		func() float64 { return first("web", "-x", "x-rule: mine") }, // the session is open and the service captured
		func() float64 {
			l.dayfly("-q", "session", "close", "bench")
			return portForward(t, ns, "", func(addr string) { must(t, exec.Command(binTestapp, "get", "http://"+addr+"/").Run()) })
		},
	)
	row("command to first answer, new session", "kubectl port-forward", m[0], m[2], "s")
	row("command to first answer, open session", "kubectl port-forward", m[1], m[2], "s")
}

// portForward runs kubectl port-forward to a pod of web and returns the seconds from its start until use has returned.
func portForward(t *testing.T, ns, kubeconfig string, use func(addr string)) float64 {
	t.Helper()
	local := freePort(t)
	start := time.Now()
	cmd := testcluster("kubectl", "-n", ns, "port-forward", "deploy/web", fmt.Sprintf("%d:8080", local)) // of the service it cannot while the port is captured
	if kubeconfig != "" {
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	}
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	addr := fmt.Sprintf("127.0.0.1:%d", local)
	awaitPort(t, addr)
	use(addr)
	return time.Since(start).Seconds()
}
