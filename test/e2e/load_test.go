package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// sample is what a client of testapp load saw of one request, or of one exchange with the echo port.
type sample struct {
	Client string `json:"c"`
	Conn   int    `json:"n"`
	Opened int64  `json:"o"`
	Sent   int64  `json:"s"`
	Done   int64  `json:"d"`
	Key    bool   `json:"k"`
	By     string `json:"by"`
	Via    string `json:"via"` // the address that whoever answered saw, if not the client's own
	Close  bool   `json:"close"`
	Ended  string `json:"ended"`
	Error  string `json:"err"`
}

func (s sample) echo() bool         { return strings.HasPrefix(s.Client, "echo") }
func (s sample) connection() string { return fmt.Sprintf("%s/%d", s.Client, s.Conn) }
func (s sample) direct() bool       { return s.Via == "" }
func (s sample) laptop() bool       { return s.By == "laptop" }

func (s sample) String() string {
	at := func(us int64) string { return time.UnixMicro(us).Format("05.000000") }
	return fmt.Sprintf("%s opened %s sent %s done %s key %v by %q via %q ended %q error %q", s.connection(), at(s.Opened), at(s.Sent), at(s.Done),
		s.Key, s.By, s.Via, s.Ended, s.Error)
}

// traffic is a running testapp load in the client pod.
type traffic struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	noise bytes.Buffer
	ended chan struct{}
	lost  *losses // nil: not counted

	mu      sync.Mutex
	samples []sample
}

// startTraffic loads service web and its echo port from the client pod, and returns when every client has been answered. It
// goes by address: names are somebody else's business.
func startTraffic(t *testing.T, ns string, keepAlive, fresh int, more ...string) *traffic {
	t.Helper()
	through := testcluster("kubectl", "-n", ns, "exec", "-i", "deploy/client", "--", "/testapp")
	return runTraffic(t, ns, through, keepAlive, fresh, more)
}

// startTrafficAside does the same without the API server, which may be away: the machines of the test cluster are this one,
// and a process of this one can be in the pod's network.
func startTrafficAside(t *testing.T, ns string, keepAlive, fresh int, more ...string) *traffic {
	t.Helper()
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(ns), client.MatchingLabels{"app": "client"}))
	if len(pods.Items) != 1 {
		t.Fatalf("%d client pods", len(pods.Items))
	}
	through := exec.Command("nsenter", "-n", "-t", fmt.Sprint(processOf(t, &pods.Items[0], "testapp")), "--", binTestapp)
	return runTraffic(t, ns, through, keepAlive, fresh, more)
}

func runTraffic(t *testing.T, ns string, through *exec.Cmd, keepAlive, fresh int, more []string) *traffic {
	t.Helper()
	web := &corev1.Service{}
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "web"}, web))
	through.Args = append(append(through.Args, "load",
		"-http", net.JoinHostPort(web.Spec.ClusterIP, "80"), "-echo", net.JoinHostPort(web.Spec.ClusterIP, "9090"),
		"-key", "ada", "-keepalive", fmt.Sprint(keepAlive), "-fresh", fmt.Sprint(fresh)), more...)
	lost := countLosses(t, web, callersIn(t, ns))
	l := runClients(t, through, keepAlive+fresh+2)
	l.lost = lost
	return l
}

// startClients runs testapp in the client pod and returns when so many clients of it have been answered.
func startClients(t *testing.T, ns string, clients int, args ...string) *traffic {
	t.Helper()
	through := testcluster(append([]string{"kubectl", "-n", ns, "exec", "-i", "deploy/client", "--", "/testapp"}, args...)...)
	return runClients(t, through, clients)
}

func runClients(t *testing.T, through *exec.Cmd, clients int) *traffic {
	t.Helper()
	l := &traffic{t: t, cmd: through, ended: make(chan struct{})}
	l.cmd.Stderr = &l.noise
	stdin, err := l.cmd.StdinPipe()
	must(t, err)
	l.stdin = stdin
	out, err := l.cmd.StdoutPipe()
	must(t, err)
	must(t, l.cmd.Start())
	go l.read(out)
	t.Cleanup(func() { l.stdin.Close(); _ = l.cmd.Process.Kill(); <-l.ended; _ = l.cmd.Wait() })
	await(t, 30*time.Second, "every client is answered", func() error {
		seen := map[string]bool{}
		for _, s := range l.so() {
			seen[s.Client] = seen[s.Client] || s.Error == ""
		}
		if len(seen) < clients {
			return fmt.Errorf("%d clients; %s", len(seen), &l.noise)
		}
		return nil
	})
	return l
}

func (l *traffic) read(out io.Reader) {
	defer close(l.ended)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var s sample
		if json.Unmarshal(lines.Bytes(), &s) == nil {
			l.mu.Lock()
			l.samples = append(l.samples, s)
			l.mu.Unlock()
		}
	}
}

// so returns what was seen so far.
func (l *traffic) so() []sample {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clip(l.samples)
}

// stop ends the clients and returns everything they saw.
func (l *traffic) stop() []sample {
	l.t.Helper()
	l.stdin.Close()
	select {
	case <-l.ended:
	case <-time.After(20 * time.Second):
		l.t.Fatalf("the clients did not end: %s", &l.noise)
	}
	if l.lost != nil {
		return l.lost.excuse(l.so())
	}
	return l.so()
}

// offences collects samples that break a rule and fails the test with the first few of each.
type offences map[string][]sample

func (o offences) add(rule string, s sample) { o[rule] = append(o[rule], s) }

func (o offences) report(t *testing.T) {
	t.Helper()
	var rules []string
	for rule := range o {
		rules = append(rules, rule)
	}
	sort.Strings(rules)
	for _, rule := range rules {
		var first []string
		for _, s := range o[rule][:min(5, len(o[rule]))] {
			first = append(first, s.String())
		}
		t.Errorf("%s: %d times\n\t%s", rule, len(o[rule]), strings.Join(first, "\n\t"))
	}
}

// cycle is when one intercept was in force.
type cycle struct {
	asked, armed, closing, closed int64
}

func now() int64 { return time.Now().UnixMicro() }

const loadDrain = 3 * time.Second

// Starting and ending an intercept under load fails no request and restarts no pod; who reaches the laptop is exact.
func TestInterceptUnderLoadFailsNoRequest(t *testing.T) {
	cycles := 20
	if testing.Short() {
		cycles = 3
	}
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before, restarts := snapshot(t, ns), restartsOf(t, ns)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	clients := startTraffic(t, ns, 32, 1)
	var all []cycle
	for range cycles {
		c := cycle{asked: now()}
		l.dayfly("intercept", "service", "web", "-r", "http", "-l", fmt.Sprint(port), "--session", "ada", "--drain", loadDrain.String(), "--detach")
		c.armed = armedAt(t, l, "ada")
		time.Sleep(time.Second) // of requests
		c.closing = now()
		l.dayfly("session", "close", "ada")
		c.closed = now()
		all = append(all, c)
		time.Sleep(300 * time.Millisecond)
	}
	samples := clients.stop()
	judgeCycles(t, samples, all)
	checkRestored(t, ns, before)
	if after := restartsOf(t, ns); after != restarts {
		t.Errorf("pods before: %s\nand after: %s", restarts, after)
	}
}

// armedAt is the moment that a session gives out as the beginning of its intercept.
func armedAt(t *testing.T, l *laptop, name string) int64 {
	t.Helper()
	var v struct {
		Intercepts []struct {
			State   string
			ArmedAt *time.Time
		}
	}
	out := l.dayfly("session", "show", name, "-o", "json")
	must(t, json.Unmarshal([]byte(out), &v))
	if len(v.Intercepts) != 1 || v.Intercepts[0].ArmedAt == nil {
		t.Fatalf("the session is not armed: %s", out)
	}
	return v.Intercepts[0].ArmedAt.UnixMicro()
}

// restartsOf tells the pods of a namespace and how often their containers were restarted.
func restartsOf(t *testing.T, ns string) string {
	t.Helper()
	var out []string
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(ns)))
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			out = append(out, fmt.Sprintf("%s/%s: %d", p.Name, c.Name, c.RestartCount))
		}
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// judgeCycles holds what the clients saw against what each session said of itself.
func judgeCycles(t *testing.T, samples []sample, all []cycle) {
	t.Helper()
	broken := offences{}
	conns := map[string]bool{}
	requests, keyed, atLaptop, echoes, idleEnds := 0, 0, 0, 0, 0
	for _, s := range samples {
		conns[s.connection()] = true
		switch {
		case s.Error != "":
			s.Error += ", " + phase(all, s)
			broken.add("failed", s)
			continue
		case s.echo():
			echoes++
			if s.laptop() {
				broken.add("the other port's client reached the laptop", s)
			}
			if s.Client == "echo-long" && s.Conn != 1 {
				broken.add("the other port's connection was lost", s)
			}
			continue
		case s.Ended == "reset":
			broken.add("an idle connection was reset", s)
		case s.Ended != "":
			idleEnds++
		}
		requests++
		if s.Key {
			keyed++
		}
		if s.laptop() {
			atLaptop++
		}
		if s.laptop() && !s.Key {
			broken.add("without the key at the laptop", s)
		}
	}
	t.Logf("%d requests (%d with the key, %d of them at the laptop) on %d connections; %d exchanges on the other port; %d idle connections ended in order",
		requests, keyed, atLaptop, len(conns), echoes, idleEnds)
	for i, c := range all {
		until := int64(1 << 62)
		if i+1 < len(all) {
			until = all[i+1].asked
		}
		judgeCycle(t, samples, i, c, until, broken)
	}
	broken.report(t)
}

// phase says where among the cycles a sample began.
func phase(all []cycle, s sample) string {
	at := max(s.Opened, s.Sent)
	for i, c := range slices.Backward(all) {
		for _, p := range []struct {
			name  string
			since int64
		}{{"closed", c.closed}, {"closing", c.closing}, {"armed", c.armed}, {"asked", c.asked}} {
			if at >= p.since {
				return fmt.Sprintf("%v after cycle %d was %s", time.Duration(at-p.since)*time.Microsecond, i+1, p.name)
			}
		}
	}
	return "before the first cycle"
}

func judgeCycle(t *testing.T, samples []sample, number int, c cycle, until int64, broken offences) {
	t.Helper()
	older, early, fresh, routed := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	last, keyedNew, keyedOld := c.closing, 0, 0
	for _, s := range samples {
		if s.echo() || s.Error != "" {
			continue
		}
		if s.Sent >= c.armed && s.Done <= c.closing { // in force all the time
			switch {
			case s.Opened >= c.armed:
				fresh[s.connection()] = true
				if s.direct() {
					broken.add("opened after armed, yet not through a router", s)
				}
				if s.Key && !s.laptop() {
					broken.add("with the key, opened after armed, not at the laptop", s)
				}
				if s.Key {
					keyedNew++
				}
			case s.direct():
				older[s.connection()] = true
				if s.laptop() {
					broken.add("an older connection reached the laptop without a router", s)
				}
				if s.Key {
					keyedOld++
				}
			default:
				early[s.connection()] = true
			}
		}
		if s.Sent > c.closing && s.Sent < until && !s.direct() {
			routed[s.connection()] = true
			last = max(last, s.Done)
			if s.Opened > c.closed {
				broken.add("opened after the close, yet through a router", s)
			}
		}
		if s.Sent > c.closed && s.Sent < until && s.laptop() {
			broken.add("at the laptop after the close", s)
		}
	}
	took := func(a, b int64) time.Duration { return (time.Duration(b-a) * time.Microsecond).Round(time.Millisecond) }
	t.Logf("%2d: armed after %v; %d connections opened from then on (%d requests with the key, all at the laptop), %d a moment before, through a router already, "+
		"%d older ones stayed with the original (%d requests with the key); closed in %v, the last of %d routed connections ended after %v",
		number+1, took(c.asked, c.armed), len(fresh), keyedNew, len(early), len(older), keyedOld, took(c.closing, c.closed), len(routed), took(c.closing, last))
	if keyedNew == 0 {
		t.Errorf("cycle %d: no request with the key", number+1)
	}
	if took(c.closing, last) > promise(loadDrain) {
		t.Errorf("cycle %d: a connection was still routed %v after the close", number+1, took(c.closing, last))
	}
}
