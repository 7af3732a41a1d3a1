//go:build bench

package e2e

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	big   = 512 << 20
	small = 32 << 20 // for long lines
)

// number reads what a measuring program printed.
func number(t *testing.T, out string) float64 {
	t.Helper()
	x, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	must(t, err)
	return x
}

// benchLaptop: requests and bytes that the laptop answers.
func benchLaptop(t *testing.T, l *laptop, ns string, port int) {
	l.dayfly("-q", "intercept", "service", "web", "-r", "80", "-l", strconv.Itoa(port), "--session", "bench", "--drain", "0s", "--detach")
	for _, how := range [][]string{{"-c", "1"}, {"-c", "32"}, {"-c", "1", "-new"}, {"-c", "32", "-new"}} {
		got := hammerAll(
			func() rateOf {
				return hammer(t, ns, "web", append([]string{"-H", "x-dayfly-session: bench"}, how...)...)
			},
			func() rateOf { return hammer(t, ns, "spare", how...) },
		)
		rows("answered by the laptop, hammer "+strings.Join(how, " "), "direct", got[0], got[1])
	}
	calls := l.answerGRPC("laptop")
	l.dayfly("-q", "intercept", "service", "calls", "-r", "80", "-l", strconv.Itoa(calls), "--session", "bench", "--drain", "0s", "--detach")
	benchHTTP2(t, ns, "bench")
	plain := streamOnControl(t)
	path := fmt.Sprintf("/bytes/%d", big)
	m := measure(t,
		func() float64 {
			return number(t, inPod(t, ns, "fetch", "-H", "x-dayfly-session: bench", "http://web"+path))
		},
		func() (mbs float64) {
			portForward(t, ns, "", func(addr string) { mbs = number(t, printed(t, exec.Command(binTestapp, "fetch", "http://"+addr+path))) })
			return mbs
		},
		func() float64 {
			return number(t, printed(t, exec.Command(binTestapp, "fetch", "-tls", "-stream", plain)))
		},
	)
	row("laptop to cluster, one response of 512 MiB", "kubectl port-forward", m[0], m[1], "MB/s")
	row("laptop to cluster, one response of 512 MiB", "one plain TLS connection", m[0], m[2], "MB/s")
	l.dayfly("-q", "session", "close", "bench")
	var left v1alpha1.SessionList
	must(t, cluster.List(t.Context(), &left, client.InNamespace(ns)))
	if len(left.Items) > 0 {
		t.Errorf("%d sessions are left", len(left.Items))
	}
}

// benchDistance: the same with the API server further away.
func benchDistance(t *testing.T, l *laptop, ns string, port int) {
	for _, rtt := range []time.Duration{20 * time.Millisecond, 100 * time.Millisecond} {
		far := newLaptop(t, ns).as(farKubeconfig(t, rtt/2))
		far.dayfly("-q", "intercept", "service", "web", "-r", "80", "-l", strconv.Itoa(port), "--session", "far", "--drain", "0s", "--detach")
		path := fmt.Sprintf("/bytes/%d", small)
		m := measure(t,
			func() float64 {
				return number(t, inPod(t, ns, "fetch", "-H", "x-dayfly-session: far", "http://web"+path))
			},
			func() (mbs float64) {
				portForward(t, ns, far.kubeconfig(), func(addr string) { mbs = number(t, printed(t, exec.Command(binTestapp, "fetch", "http://"+addr+path))) })
				return mbs
			},
		)
		row(fmt.Sprintf("laptop to cluster at %s round trip, one response of 32 MiB", rtt), "kubectl port-forward", m[0], m[1], "MB/s")
		got := hammerAll(
			func() rateOf { return hammer(t, ns, "web", "-c", "32", "-H", "x-dayfly-session: far") },
			func() rateOf { return hammer(t, ns, "web", "-c", "32", "-new", "-H", "x-dayfly-session: far") },
		)
		row(fmt.Sprintf("answered by the laptop at %s: p50 of 32 kept connections", rtt), "one round trip", got[0].P50Micros, float64(rtt.Microseconds()), "µs")
		row(fmt.Sprintf("answered by the laptop at %s: p50 of 32 new connections", rtt), "one round trip", got[1].P50Micros, float64(rtt.Microseconds()), "µs")
		far.dayfly("-q", "session", "close", "far")
	}
}

func (l *laptop) kubeconfig() string {
	for _, e := range l.env {
		if path, ok := strings.CutPrefix(e, "KUBECONFIG="); ok {
			return path
		}
	}
	return kubeconfig()
}

// streamOnControl starts a TLS server on the cluster's control machine, which is as far away as the API server.
func streamOnControl(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(cluster.Config.Host)
	must(t, err)
	cmd := testcluster("exec", "control", binTestapp, "stream", "-tls", "-addr", ":8444", "-bytes", strconv.Itoa(big))
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	addr := net.JoinHostPort(u.Hostname(), "8444")
	awaitPort(t, addr)
	return addr
}
