package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
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

// A node is far from the others, and so are the router and the controller on it: whole lives of an intercept, each part of
// which waits for both routers, go by without a failed request. Not parallel: others' tests would wait too.
func TestFarNode(t *testing.T) {
	shakes(t)
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before, restarts := snapshot(t, ns), restartsOf(t, ns)
	const each = 50 * time.Millisecond
	moveAway(t, "node-2", each)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	clients := startTraffic(t, ns, 8, 2, "-timeout", "20s", "-every", "100ms")
	for range 2 {
		begun := time.Now()
		l.dayfly("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--session", "ada", "--drain", "2s", "--detach")
		opened := time.Since(begun)
		awaitInForce(t, ns, promise(5*time.Second))
		begun = time.Now()
		l.dayfly("session", "close", "ada")
		t.Logf("opened in %v, closed in %v", opened.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
		checkRestored(t, ns, before)
	}
	if after := restartsOf(t, ns); after != restarts {
		t.Errorf("pods before: %s\nand after: %s", restarts, after)
	}
	broken := offences{}
	far := 0
	for _, s := range clients.stop() {
		switch {
		case s.Error != "":
			broken.add("failed", s)
		case s.laptop() && !s.Key:
			broken.add("without the key at the laptop", s)
		case since(s.Sent, s.Done) > 2*each:
			far++
		}
	}
	if far == 0 {
		t.Error("no request took the long way")
	}
	broken.report(t)
}

// moveAway puts a node at the end of a long line until the test ends.
func moveAway(t *testing.T, node string, each time.Duration) {
	t.Helper()
	cmd := testcluster("exec", "control", "--", binTestapp, "longway", "-by", each.String(), "near", "far")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = testcluster("exec", "control", "--", "ip", "link", "set", node, "master", "lan").Run()
		_ = testcluster("exec", "control", "--", "ip", "link", "del", "away").Run()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the long line: %q, %v", line, err)
	}
	for _, step := range []string{"add away type bridge", "set away up", "set far master away up", "set near master lan up", "set " + node + " master away"} {
		inMachine(t, "control", append([]string{"ip", "link"}, strings.Fields(step)...)...)
	}
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
