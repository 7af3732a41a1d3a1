package e2e

import (
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// farAway is how long a byte is on the line, each way.
const farAway = 100 * time.Millisecond

// With 200 ms to and fro between the laptop and the API server, a whole life of an intercept goes by without a failed
// request, and everything is as it was.
func TestLongLines(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before, restarts := snapshot(t, ns), restartsOf(t, ns)
	l := newLaptop(t, ns).as(farKubeconfig(t, farAway))
	clients := startTraffic(t, ns, 8, 2, "-timeout", "20s", "-every", "100ms")
	begun := time.Now()
	l.dayfly("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "2s", "--timeout", "2m", "--detach")
	opened := time.Since(begun)
	awaitInForce(t, ns, promise(10*time.Second))
	at := now()
	time.Sleep(4 * time.Second) // of requests
	until := now()
	begun = time.Now()
	l.dayfly("session", "close", "ada", "--timeout", "2m")
	t.Logf("opened in %v, closed in %v", opened.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	checkRestored(t, ns, before)
	if after := restartsOf(t, ns); after != restarts {
		t.Errorf("pods before: %s\nand after: %s", restarts, after)
	}
	broken := offences{}
	others, laptop, aside, fastest := 0, 0, 0, time.Hour
	for _, s := range clients.stop() {
		switch {
		case s.Error != "":
			broken.add("failed", s)
		case s.laptop() && !s.Key:
			broken.add("without the key at the laptop", s)
		case s.laptop():
			laptop++
			fastest = min(fastest, since(s.Sent, s.Done))
		case s.Key && !s.echo() && s.Opened > at && s.Done < until:
			aside++
		default:
			others++
		}
	}
	t.Logf("%d requests were answered by the original, %d by the laptop, the fastest in %v; %d that were for it by the original", others, laptop, fastest, aside)
	if laptop == 0 || fastest < 2*farAway || aside > 0 {
		t.Error("the laptop is not at the end of a long line, or did not answer")
	}
	broken.report(t)
}

// farKubeconfig reaches the API server through a line that takes its time, each way.
func farKubeconfig(t *testing.T, each time.Duration) string {
	t.Helper()
	cfg, err := clientcmd.LoadFromFile(kubeconfig())
	must(t, err)
	server := cfg.Clusters[cfg.Contexts[cfg.CurrentContext].Cluster]
	u, err := url.Parse(server.Server)
	must(t, err)
	local := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	cmd := exec.Command(binTestapp, "delay", "-listen", local, "-to", u.Host, "-by", each.String())
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	awaitPort(t, local)
	server.TLSServerName, server.Server = u.Hostname(), "https://"+local
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(*cfg, path))
	return path
}

func awaitPort(t *testing.T, addr string) {
	t.Helper()
	await(t, 10*time.Second, addr, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
}
