package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const apiServerAway = 60 * time.Second

// The API server is away for a minute while one intercept is open, one is being started and one is being closed. Nobody's
// request fails meanwhile; the laptop's tunnels, which go through it, die with it, so matching requests are answered by the
// original. Within seconds of its return the first is in force again. The second comes into force and the third is gone as
// soon as Kubernetes' own controllers and nodes follow: they try less and less often meanwhile, and take up to a minute. (The
// controllers are started again here, as they are where they share a machine with the API server.)
func TestAPIServerAwayForAMinute(t *testing.T) {
	shakes(t)
	open, starting, closing := newNamespace(t), newNamespace(t), newNamespace(t)
	for _, ns := range []string{open, starting, closing} {
		deployWeb(t, ns, 2)
		deployClient(t, ns)
	}
	beforeOpen, beforeStarting, beforeClosing := snapshot(t, open), snapshot(t, starting), snapshot(t, closing)
	lOpen, lStarting, lClosing := newLaptop(t, open), newLaptop(t, starting), newLaptop(t, closing)
	intercept := func(l *laptop) []string {
		return []string{"intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "3s",
			"--timeout", "3m", "--detach"}
	}
	lOpen.dayfly(intercept(lOpen)...)
	lClosing.dayfly(intercept(lClosing)...)
	start := lStarting.command(intercept(lStarting)...)
	clients := map[string]*traffic{}
	for _, ns := range []string{open, starting, closing} {
		clients[ns] = startTrafficAside(t, ns, 6, 2, "-timeout", "20s", "-every", "100ms")
	}
	time.Sleep(2 * time.Second) // of requests

	var wg sync.WaitGroup
	var startOut, closeOut []byte
	var startErr, closeErr error
	wg.Go(func() { startOut, startErr = start.CombinedOutput() })
	wg.Go(func() {
		closeOut, closeErr = lClosing.command("session", "close", "ada", "--timeout", "3m").CombinedOutput()
	})
	await(t, time.Minute, "both are under way", func() error {
		made, ended := sessions(t, starting), sessions(t, closing)
		if len(made) == 0 || len(ended) > 0 && ended[0].DeletionTimestamp.IsZero() {
			return fmt.Errorf("%d sessions are made, and %d not ended", len(made), len(ended))
		}
		return nil
	})
	time.Sleep(200 * time.Millisecond) // in the middle of it
	at := now()
	back := takeAPIServerAway(t)
	time.Sleep(apiServerAway)
	returned := back()
	wg.Wait()
	if startErr != nil || closeErr != nil {
		t.Errorf("starting: %v\n%s\nclosing: %v\n%s", startErr, startOut, closeErr, closeOut)
	}
	ended := now()
	awaitInForce(t, open, promise(10*time.Second))
	awaitInForce(t, starting, promise(20*time.Second))
	time.Sleep(2 * time.Second) // of requests
	t.Logf("both commands had ended %v after the API server was back", since(returned, ended))
	judgeAbsence(t, "open", clients[open].stop(), at, returned, 5*time.Second)
	judgeAbsence(t, "starting", clients[starting].stop(), at, returned, 2*time.Minute)
	judgeAbsence(t, "closing", clients[closing].stop(), at, returned, 0)
	checkRestored(t, closing, beforeClosing)
	lOpen.dayfly("session", "close", "ada")
	lStarting.dayfly("session", "close", "ada")
	checkRestored(t, open, beforeOpen)
	checkRestored(t, starting, beforeStarting)
}

func since(from, to int64) time.Duration {
	return (time.Duration(to-from) * time.Microsecond).Round(time.Millisecond)
}

// judgeAbsence fails the test if anybody's request failed but those that were at the laptop when the API server went, or if
// a request with the key is not at the laptop within some time of its return (0: it need never be).
func judgeAbsence(t *testing.T, what string, samples []sample, at, returned int64, within time.Duration) {
	t.Helper()
	broken := offences{}
	fine, lost, original, slowest := 0, 0, 0, int64(0)
	first, lastOriginal := int64(0), int64(0)
	for _, s := range samples {
		switch {
		case s.Error != "" && s.Key && s.Sent < at+int64(10*time.Second/time.Microsecond):
			lost++ // it was at the laptop, or on its way
		case s.Error != "":
			broken.add(what+": failed", s)
		case s.laptop() && !s.Key:
			broken.add(what+": without the key at the laptop", s)
		default:
			fine++
			slowest = max(slowest, s.Done-s.Sent)
		}
		if s.Error != "" || !s.Key || s.echo() {
			continue
		}
		if s.laptop() && s.Sent > returned && first == 0 {
			first = s.Done
		}
		if !s.laptop() && s.Sent > at && s.Sent < returned {
			original++
		}
		if !s.laptop() && s.Opened > returned && s.Opened > 0 {
			lastOriginal = max(lastOriginal, s.Done)
		}
	}
	t.Logf("%s: %d requests succeeded, the slowest in %v; with the key: %d were lost with the tunnels, %d answered by the original meanwhile",
		what, fine, since(0, slowest), lost, original)
	if within > 0 {
		t.Logf("%s: the first request at the laptop %v after the API server was back, the last with the key at the original after %v", what,
			since(returned, first), since(returned, max(lastOriginal, returned)))
		if first == 0 || since(returned, first) > promise(within) {
			t.Errorf("%s: no request at the laptop in time", what)
		}
	}
	broken.report(t)
}

// takeAPIServerAway kills the API server and has nobody reach it until back is called, which returns when it answers.
func takeAPIServerAway(t *testing.T) (back func() (at int64)) {
	t.Helper()
	rules := "table inet away { chain in { type filter hook input priority -10; ip daddr != 127.0.0.1 tcp dport 6443 reject with tcp reset; }; }"
	inMachine(t, "control", "nft", rules)
	restore := sync.OnceFunc(func() { _ = testcluster("exec", "control", "--", "nft", "delete table inet away").Run() })
	t.Cleanup(restore)
	must(t, syscall.Kill(processIn(t, "control", "kube-apiserver"), syscall.SIGKILL))
	return func() int64 {
		restore()
		await(t, time.Minute, "the API server is back", func() error { return cluster.Ping(t.Context()) })
		at := now()
		must(t, syscall.Kill(processIn(t, "control", "kube-controller-manager"), syscall.SIGKILL)) // it is started again
		return at
	}
}

// inMachine runs a program of this machine in the network of a machine of the test cluster.
func inMachine(t *testing.T, machine string, args ...string) {
	t.Helper()
	if out, err := testcluster(append([]string{"exec", machine, "--"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%s in %s: %v\n%s", strings.Join(args, " "), machine, err, out)
	}
}

// processIn finds the process of a component of a machine.
func processIn(t *testing.T, machine, program string) int {
	t.Helper()
	net, err := testcluster("exec", machine, "--", "readlink", "/proc/self/ns/net").Output()
	must(t, err)
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	for _, dir := range dirs {
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		name, _, _ := strings.Cut(string(args), "\x00")
		if there, err := os.Readlink(filepath.Join(dir, "ns/net")); err != nil || filepath.Base(name) != program || there != strings.TrimSpace(string(net)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		must(t, err)
		return pid
	}
	t.Fatalf("no %s in %s", program, machine)
	return 0
}

// Kubernetes' own controllers stand still while an intercept is started: nobody has found the original pods for the routers
// then, and nobody's request may go to a router. Once they go on, it is in force.
func TestInterceptWaitsForKubernetes(t *testing.T) {
	shakes(t)
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	clients := startTraffic(t, ns, 4, 2, "-every", "100ms")
	controllers := processIn(t, "control", "kube-controller-manager")
	goOn := sync.OnceFunc(func() { _ = syscall.Kill(controllers, syscall.SIGCONT) })
	t.Cleanup(goOn)
	must(t, syscall.Kill(controllers, syscall.SIGSTOP))
	start := l.command("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "2s", "--detach")
	var out output
	start.Stdout, start.Stderr = &out, &out
	must(t, start.Start())
	time.Sleep(5 * time.Second) // of requests
	if state, _ := inForce(ns); state == "Armed" {
		t.Errorf("it is in force, and the routers know no pods")
	}
	goOn()
	if err := start.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	awaitInForce(t, ns, promise(10*time.Second))
	time.Sleep(time.Second) // of requests
	broken := offences{}
	laptop := 0
	for _, s := range clients.stop() {
		switch {
		case s.Error != "":
			broken.add("failed", s)
		case s.laptop() && s.Key:
			laptop++
		case s.laptop():
			broken.add("without the key at the laptop", s)
		}
	}
	if laptop == 0 {
		t.Error("no request at the laptop")
	}
	broken.report(t)
	l.dayfly("session", "close", "ada")
	checkRestored(t, ns, before)
}
