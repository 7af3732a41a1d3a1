package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
)

// A laptop sleeps for eight hours and wakes in another network: the controllers' clock is moved, the laptop's process
// stands still, and the packets of its old connections vanish without a word. Its session is in force again within seconds of
// waking if its lease lasts; if not, everything was restored meanwhile, and the process says so and ends. Not parallel:
// there is no other controller meanwhile.
func TestLaptopAsleepForEightHours(t *testing.T) {
	shakes(t)
	long, short := newNamespace(t), newNamespace(t)
	for _, ns := range []string{long, short} {
		deployWeb(t, ns, 2)
		deployClient(t, ns)
	}
	beforeLong, beforeShort := snapshot(t, long), snapshot(t, short)
	startFaultyController(t)
	stop := runController(t)
	sleepers := map[string]*sleeper{}
	for ns, lease := range map[string]string{long: "12h", short: "4h"} {
		sleepers[ns] = startSleeper(t, newLaptop(t, ns), lease)
		awaitInForce(t, ns, time.Minute)
	}
	clients := startTraffic(t, long, 4, 2, "-timeout", "20s", "-every", "100ms")
	for _, s := range sleepers {
		s.fallAsleep()
	}
	at := now()
	parked := func(ns string) {
		await(t, promise(20*time.Second), "parked", func() error {
			if state, _ := inForce(ns); state != v1alpha1.StateParked {
				return fmt.Errorf("%s", state)
			}
			return nil
		})
	}
	parked(long)
	parked(short)
	stop()
	stop = runController(t, "DAYFLY_CLOCK=8h")
	await(t, promise(30*time.Second), "the session whose lease is over is closed", func() error {
		if left := sessions(t, short); len(left) > 0 {
			return fmt.Errorf("%s", left[0].Status.Summary)
		}
		return nil
	})
	checkRestored(t, short, beforeShort)
	parked(long)
	uid := sessions(t, long)[0].UID

	woke := now()
	for _, s := range sleepers {
		s.wake()
	}
	awaitInForce(t, long, promise(5*time.Second))
	t.Logf("in force %v after waking", since(woke, now()))
	time.Sleep(2 * time.Second) // of requests
	if got := sessions(t, long)[0].UID; got != uid {
		t.Errorf("it is another session: %s, not %s", got, uid)
	}
	judgeSleep(t, clients.stop(), at, woke)

	out, err := sleepers[short].ended(promise(20 * time.Second))
	exit, _ := err.(*exec.ExitError)
	if exit == nil || exit.ExitCode() < 1 || !strings.Contains(out, "was closed") {
		t.Errorf("the command whose lease was over ended with %v and said:\n%s", err, out)
	}
	t.Logf("the command whose lease was over said: %s", strings.TrimSpace(out))
	must(t, sleepers[long].cmd.Process.Signal(os.Interrupt))
	if out, err := sleepers[long].ended(promise(20 * time.Second)); err != nil {
		t.Errorf("^C after waking: %v\n%s", err, out)
	}
	checkRestored(t, long, beforeLong)
	stop()
}

// judgeSleep fails the test if a bystander noticed, and tells when requests with the key were answered by whom.
func judgeSleep(t *testing.T, samples []sample, at, woke int64) {
	t.Helper()
	broken := offences{}
	lost, original, first := 0, 0, int64(0)
	for _, s := range samples {
		switch {
		case s.Error != "" && s.Key && s.Sent < woke:
			lost++
		case s.Error != "":
			broken.add("failed", s)
		case s.laptop() && !s.Key:
			broken.add("without the key at the laptop", s)
		case s.laptop() && s.Sent > woke && first == 0:
			first = s.Done
		case s.Key && !s.echo() && !s.laptop() && s.Sent > at && s.Sent < woke:
			original++
		}
	}
	t.Logf("while it slept %d requests with the key were lost and %d answered by the original; the first one at the laptop %v after it woke",
		lost, original, since(woke, first))
	if first == 0 || since(woke, first) > promise(5*time.Second) {
		t.Errorf("no request at the laptop within 5 s of waking")
	}
	broken.report(t)
}

// sleeper is a dayfly process that answers requests and can be put to sleep.
type sleeper struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan error
}

func startSleeper(t *testing.T, l *laptop, lease string) *sleeper {
	t.Helper()
	s := &sleeper{t: t, done: make(chan error, 1)}
	s.cmd = l.command("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "2s", "--lease", lease)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	must(t, s.cmd.Start())
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	return s
}

// fallAsleep stops the process, and has the network forget its connections: what they carry vanishes.
func (s *sleeper) fallAsleep() {
	s.t.Helper()
	must(s.t, s.cmd.Process.Signal(syscall.SIGSTOP))
	ports := connectionsOf(s.t, s.cmd.Process.Pid)
	table := fmt.Sprintf("sleep-%d", s.cmd.Process.Pid)
	set := "{ " + strings.Join(ports, ", ") + " }"
	inMachine(s.t, "control", "nft", fmt.Sprintf("table inet %s { chain in { type filter hook input priority -10; tcp dport 6443 tcp sport %s drop; }; "+
		"chain out { type filter hook output priority -10; tcp sport 6443 tcp dport %s drop; }; }", table, set, set))
	s.t.Cleanup(func() { _ = testcluster("exec", "control", "--", "nft", "delete table inet "+table).Run() })
}

func (s *sleeper) wake() {
	s.t.Helper()
	must(s.t, s.cmd.Process.Signal(syscall.SIGCONT))
}

func (s *sleeper) ended(most time.Duration) (string, error) {
	s.t.Helper()
	select {
	case err := <-s.done:
		return s.out.String(), err
	case <-time.After(most):
		s.t.Fatalf("the command did not end; it said:\n%s", &s.out)
		return "", nil
	}
}

// connectionsOf are the ports of a process's TCP connections to the API server.
func connectionsOf(t *testing.T, pid int) []string {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	mine := map[string]bool{}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:[") {
			mine[strings.Trim(to, "socket:[]")] = true
		}
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	must(t, err)
	var out []string
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 10 || !mine[f[9]] {
			continue
		}
		var port, remote int
		_, local, _ := strings.Cut(f[1], ":")
		_, far, _ := strings.Cut(f[2], ":")
		fmt.Sscanf(local, "%X", &port)
		fmt.Sscanf(far, "%X", &remote)
		if remote == 6443 {
			out = append(out, fmt.Sprint(port))
		}
	}
	if len(out) < 2 {
		t.Fatalf("process %d has %d connections to the API server", pid, len(out))
	}
	return out
}

// runController runs a controller in the pod of startFaultyController until stop is called.
func runController(t *testing.T, env ...string) (stop func()) {
	t.Helper()
	freeLease()
	args := append([]string{"kubectl", "-n", systemNamespace, "exec", "-i", faultyPod, "--", "/testapp", "env"}, env...)
	cmd := testcluster(append(args, "--", "/dayfly", "controller")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	stop = sync.OnceFunc(func() {
		stdin.Close()
		select {
		case <-ended:
		case <-time.After(15 * time.Second):
			_ = cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("the controller said:\n%s", out.String()[max(0, out.Len()-3000):])
		}
	})
	t.Cleanup(stop)
	return stop
}
