package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// farAway is how long a byte is on the line, each way.
const farAway = 100 * time.Millisecond

// With 200 ms to and fro between controllers and routers, and between the laptop and the API server, a whole life of an
// intercept goes by without a failed request, and everything is as it was. Not parallel: it is everybody's line.
func TestLongLines(t *testing.T) {
	shakes(t)
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before, restarts := snapshot(t, ns), restartsOf(t, ns)
	lines := lengthen(t, farAway)
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
	n := lines()
	t.Logf("%d connections between controllers and routers took the long line", n)
	if n == 0 {
		t.Error("the line between controllers and routers is as short as ever")
	}
	broken.report(t)
}

// lengthen has everything that controllers say to routers, and hear from them, take its time, from now on and until the test
// ends. connections counts those since.
func lengthen(t *testing.T, each time.Duration) (connections func() int) {
	t.Helper()
	controllers := podIPs(t, systemNamespace, "app.kubernetes.io/component=controller")
	var counts []func() int
	for i, p := range routerPods(t) {
		// Where the router runs: policies let a node reach its own pods only.
		node, port, to := p.Spec.NodeName, 9600+i, p.Status.PodIP
		counts = append(counts, startRelay(t, node, port, to+":9443", each))
		t.Cleanup(func() { _ = testcluster("exec", node, "--", "nft", "delete table ip far").Run() })
		inMachine(t, node, "nft", fmt.Sprintf("table ip far { chain pre { type nat hook prerouting priority -150; ip saddr { %s } ip daddr %s tcp dport 9443 redirect to :%d; }; }",
			strings.Join(controllers, ", "), to, port))
	}
	// What is connected goes on as before; it is told to connect again.
	mend := interfere(t, "meta l4proto tcp reject with tcp reset", controllers, podIPs(t, systemNamespace, "app.kubernetes.io/component=router"))
	time.Sleep(time.Second)
	mend()
	return func() (n int) {
		for _, count := range counts {
			n += count()
		}
		return n
	}
}

// startRelay relays a port of a node to an address, slowly, and counts its connections.
func startRelay(t *testing.T, node string, port int, to string, each time.Duration) (count func() int) {
	t.Helper()
	cmd := testcluster("exec", node, "--", binTestapp, "delay", "-listen", fmt.Sprintf(":%d", port), "-to", to, "-by", each.String())
	var out lockedBuffer
	cmd.Stdout = &out
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return func() int { return strings.Count(out.String(), "\n") }
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
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
