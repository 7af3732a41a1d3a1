//go:build bench

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/forward"
)

// benchEnvironments: from the command to the first answer, against kubectl with the same manifests.
func benchEnvironments(t *testing.T, _ *laptop, _ string, _ int) {
	home, l := newHome(t)
	v := newVisitor(t)
	shop := "../../examples/shop/deploy"
	m := measure(t,
		func() float64 { return envAnswers(t, l, v, home, "one", shop, "storefront") },
		func() float64 { return kubectlAnswers(t, "bench-one", []string{"-k", shop}, "storefront") })
	row("an environment of 4 services, command to first answer", "kubectl apply and wait", m[0], m[1], "s")

	web := folder(t, map[string]string{"web.yaml": readText(t, filepath.Join(webFolder(t, ""), "web.yaml"))})
	m = measure(t,
		func() float64 {
			return allOf(20, func(i int) { envAnswers(t, l, v, home, fmt.Sprintf("many-%d", i), web, "web") })
		},
		func() float64 {
			return allOf(20, func(i int) { kubectlAnswers(t, fmt.Sprintf("bench-many-%d", i), []string{"-f", web}, "web") })
		})
	row("20 environments at once, command to first answer of all", "kubectl apply and wait", m[0], m[1], "s")
	benchWake(t, l, v, home, shop)
	benchGateway(t, l, v, home, web)
}

func allOf(n int, do func(int)) float64 {
	start := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
	return time.Since(start).Seconds()
}

func readText(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	return string(data)
}

// envAnswers returns the seconds until an environment's component answers at its address, and takes it down again.
func envAnswers(t *testing.T, l *laptop, v *visitor, home, name, dir, component string) float64 {
	t.Helper()
	start := time.Now()
	l.dayfly("-q", "env", "create", name, "-f", dir, "--public")
	awaitOK(t, func() (int, error) {
		code, _, err := v.try(http.MethodGet, addressOf(t, home, name, component), nil)
		return code, err
	})
	took := time.Since(start).Seconds()
	l.dayfly("-q", "env", "delete", name)
	return took
}

// kubectlAnswers does the same with kubectl alone: what somebody would type.
func kubectlAnswers(t *testing.T, ns string, manifests []string, service string) float64 {
	t.Helper()
	start := time.Now()
	kubectl(t, "create", "namespace", ns)
	kubectl(t, append([]string{"-n", ns, "apply"}, manifests...)...)
	kubectl(t, "-n", ns, "wait", "--for=condition=Available", "deploy", "--all", "--timeout=5m")
	awaitService(t, ns, service)
	took := time.Since(start).Seconds()
	kubectl(t, "delete", "namespace", ns)
	return took
}

func awaitService(t *testing.T, ns, service string) {
	t.Helper()
	awaitOK(t, func() (int, error) {
		out, err := testcluster("kubectl", "get", "--raw", "/api/v1/namespaces/"+ns+"/services/"+service+":http/proxy/").CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("%w: %s", err, out)
		}
		return http.StatusOK, nil
	})
}

func awaitOK(t *testing.T, ask func() (int, error)) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		code, err := ask()
		if err == nil && code == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no answer: %d %v", code, err)
		}
	}
}

// benchWake: from a request, or kubectl scale, to the first answer of what was asleep.
func benchWake(t *testing.T, l *laptop, v *visitor, home, shop string) {
	l.dayfly("-q", "env", "create", "sleeper", "-f", shop, "--public")
	kubectl(t, "create", "namespace", "bench-sleeper")
	defer kubectl(t, "delete", "namespace", "bench-sleeper")
	kubectl(t, "-n", "bench-sleeper", "apply", "-k", shop)
	kubectl(t, "-n", "bench-sleeper", "wait", "--for=condition=Available", "deploy", "--all", "--timeout=5m")
	at := addressOf(t, home, "sleeper", "storefront")
	m := measure(t,
		func() float64 {
			l.dayfly("-q", "env", "sleep", "sleeper")
			start := time.Now()
			if code, body := v.get(at + "/"); code != http.StatusOK {
				t.Fatalf("%d: %s", code, body)
			}
			took := time.Since(start).Seconds()
			l.dayfly("-q", "env", "wake", "sleeper")
			return took
		},
		func() float64 {
			kubectl(t, "-n", "bench-sleeper", "scale", "deploy", "--all", "--replicas=0")
			kubectl(t, "-n", "bench-sleeper", "wait", "--for=delete", "pod", "--all", "--timeout=2m")
			start := time.Now()
			kubectl(t, "-n", "bench-sleeper", "scale", "deploy", "--all", "--replicas=1")
			kubectl(t, "-n", "bench-sleeper", "wait", "--for=condition=Available", "deploy", "--all", "--timeout=5m")
			awaitService(t, "bench-sleeper", "storefront")
			return time.Since(start).Seconds()
		})
	row("waking 4 services, by a request to its answer", "kubectl scale and wait", m[0], m[1], "s")
	l.dayfly("-q", "env", "delete", "sleeper")
}

// benchGateway: one request after the other, through the gateway and past it, by the same way into the cluster.
func benchGateway(t *testing.T, l *laptop, v *visitor, home, web string) {
	l.dayfly("-q", "env", "create", "awake", "-f", web, "--public")
	past, err := forward.Open(t.Context(), cluster.Config, 0, "env-"+home+"-awake", "web", "http")
	must(t, err)
	at := addressOf(t, home, "awake", "web")
	many := func(v *visitor, url string) func() float64 {
		return func() float64 {
			var all []float64
			for range 400 {
				start := time.Now()
				if code, body := v.get(url); code != http.StatusOK {
					t.Fatalf("%d: %s", code, body)
				}
				all = append(all, time.Since(start).Seconds()*1000)
			}
			return median(all)
		}
	}
	direct := &visitor{Client: &http.Client{Transport: &http.Transport{}}, t: t}
	m := measure(t, many(v, at), many(direct, "http://"+past.Address))
	row("a request at an address, p50", "port-forward to the pod", m[0], m[1], "ms")
	l.dayfly("-q", "env", "delete", "awake")
}
