package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// serviceOnly makes the Service `web` without pods: enough for all that a laptop can do wrong.
func serviceOnly(t *testing.T, ns string) {
	t.Helper()
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
	svc.Spec = corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{
		{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}}}
	must(t, cluster.Create(t.Context(), svc))
	await(t, promise(10*time.Second), "what Kubernetes itself makes for a service", func() error {
		return cluster.Get(t.Context(), client.ObjectKeyFromObject(svc), &corev1.Endpoints{})
	})
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) await(t *testing.T, text string) {
	t.Helper()
	await(t, time.Minute, "the output "+text, func() error {
		if s := o.String(); !strings.Contains(s, text) {
			return fmt.Errorf("so far:\n%s", s)
		}
		return nil
	})
}

// checkNothingKept asks that neither cluster nor laptop keeps anything of a session.
func checkNothingKept(t *testing.T, l *laptop) {
	t.Helper()
	if left := sessions(t, l.ns); len(left) > 0 {
		t.Errorf("session %s is left: %+v", left[0].Name, left[0].Spec.Intercepts)
	}
	checkFilesGone(t, l)
}

func checkFilesGone(t *testing.T, l *laptop) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(l.state, "dayfly", "sessions", "*", "*.*"))
	must(t, err)
	for _, f := range files {
		if name := filepath.Base(f); name != ".write" && name != ".join" {
			t.Errorf("file %s is left", name)
		}
	}
}

// Whenever ^C comes, nothing is left, in the cluster or on the laptop.
func TestInterruptedInterceptLeavesNothing(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	serviceOnly(t, ns)
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	for i := range 10 {
		args := []string{"intercept", "service", "web", "-l", "9", "--drain", "0s"}
		if i%2 == 1 {
			args = append(args, "--detach")
		}
		cmd := l.command(args...)
		var out output
		cmd.Stdout, cmd.Stderr = &out, &out
		must(t, cmd.Start())
		after := rand.N(2500 * time.Millisecond)
		time.Sleep(after) // the moment is what is tested
		_ = cmd.Process.Signal(os.Interrupt)
		err := cmd.Wait()
		t.Logf("%s, ^C after %s: %v", strings.Join(args, " "), after, err)
		if i%2 == 1 && err == nil { // it had been in force before
			l.dayfly("session", "close")
		}
		checkNothingKept(t, l)
		if t.Failed() {
			t.Fatalf("it printed:\n%s", out.String())
		}
	}
	checkRestored(t, ns, before)
}

// A closed terminal (SIGHUP) and SIGTERM end an intercept as ^C does; the command after -- gets the SIGTERM.
func TestSignalsEndTheInterceptAndReachTheCommand(t *testing.T) {
	t.Parallel()
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP) // what is ignored here, under nohup, would be ignored by what is started, too
	t.Cleanup(func() { signal.Stop(heard) })
	for _, c := range []struct {
		name    string
		signal  syscall.Signal
		command []string
		printed string
		code    int
	}{
		{"hang-up of an intercept without a command", syscall.SIGHUP, nil, "until ^C", 0},
		{"SIGTERM with a command that ends itself", syscall.SIGTERM, []string{"sh", "-c", `trap 'echo got TERM; exit 9' TERM; echo ready; while :; do sleep 0.1; done`}, "ready", 9},
		{"SIGTERM with a command that dies of it", syscall.SIGTERM, []string{"sh", "-c", `echo ready; exec sleep 60`}, "ready", 143},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			serviceOnly(t, ns)
			l := newLaptop(t, ns)
			args := []string{"intercept", "service", "web", "-l", "9", "--drain", "0s"}
			if c.command != nil {
				args = append(append(args, "--"), c.command...)
			}
			cmd := l.command(args...)
			var out output
			cmd.Stdout, cmd.Stderr = &out, &out
			must(t, cmd.Start())
			out.await(t, c.printed)
			must(t, cmd.Process.Signal(c.signal))
			_ = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("exit code %d, want %d; it printed:\n%s", got, c.code, out.String())
			}
			if c.code == 9 && !strings.Contains(out.String(), "got TERM") {
				t.Errorf("the command was not told; it printed:\n%s", out.String())
			}
			checkNothingKept(t, l)
		})
	}
}

// On a terminal: ^C reaches command and dayfly, and dayfly still restores; colours are for terminals only.
func TestTerminal(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	serviceOnly(t, ns)
	l := newLaptop(t, ns)
	// The command takes its time to end; the second ^C, too, must not keep dayfly from restoring.
	cmd := l.command("intercept", "service", "web", "-l", "9", "--drain", "0s", "--", "sh", "-c",
		`trap 'echo got INT; sleep 1; exit 4' INT; trap 'echo got TERM' TERM; echo ready; while :; do sleep 0.1; done`)
	term, out := onTerminal(t, cmd)
	out.await(t, "ready")
	for range 2 {
		_, err := term.Write([]byte{3}) // ^C
		must(t, err)
		time.Sleep(300 * time.Millisecond)
	}
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 4 || !strings.Contains(out.String(), "got INT") || strings.Contains(out.String(), "got TERM") {
		t.Errorf("exit code %d, want 4 and INT only; it printed:\n%s", got, out.String())
	}
	checkNothingKept(t, l)

	const esc = "\x1b["
	for _, c := range []struct {
		env      string
		coloured bool
	}{{"LANG=C", true}, {"NO_COLOR=1", false}, {"TERM=dumb", false}} {
		cmd := l.command("session", "show", "nobody")
		cmd.Env = append(append(cmd.Env, "TERM=xterm", "NO_COLOR="), c.env)
		_, out := onTerminal(t, cmd)
		_ = cmd.Wait()
		out.await(t, "there is no session nobody")
		if got := strings.Contains(out.String(), esc); got != c.coloured {
			t.Errorf("%s: coloured is %t, want %t: %q", c.env, got, c.coloured, out.String())
		}
	}
	if _, errOut, _ := l.try("session", "show", "nobody"); strings.Contains(errOut, esc) {
		t.Errorf("coloured without a terminal: %q", errOut)
	}
}

// onTerminal starts a command on a terminal of its own and reads all that it shows.
func onTerminal(t *testing.T, cmd *exec.Cmd) (*os.File, *output) {
	t.Helper()
	term, err := pty.Start(cmd)
	must(t, err)
	var out output
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(&out, term) }()
	t.Cleanup(func() { term.Close(); <-done })
	return term, &out
}

// A foreground intercept whose session somebody closes says so and fails, as does one that is taken out.
func TestInterceptClosedBySomeoneElseSaysSo(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	serviceOnly(t, ns)
	for _, c := range []struct {
		how  []string
		says string
	}{
		{[]string{"session", "close", "ada"}, "session ada was closed"},
		{[]string{"intercept", "service", "web", "--close"}, "session ada was closed"},
	} {
		l := newLaptop(t, ns)
		cmd := l.command("intercept", "service", "web", "-l", "9", "--session", "ada", "--drain", "0s")
		var out output
		cmd.Stdout, cmd.Stderr = &out, &out
		must(t, cmd.Start())
		out.await(t, "until ^C")
		l.dayfly(c.how...)
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != 6 || !strings.Contains(out.String(), c.says) {
			t.Errorf("after %v: exit code %d, want 6, and %q; it printed:\n%s", c.how, got, c.says, out.String())
		}
		checkNothingKept(t, l)
	}
}

// Processes of one laptop that start at once share a session; two laptops of one user and one name do not.
func TestLaptopsAndTheirSessions(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	serviceOnly(t, ns)
	other := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "other"}}
	other.Spec = corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}
	must(t, cluster.Create(t.Context(), other))
	one, two := newLaptop(t, ns), newLaptop(t, ns)
	var wg sync.WaitGroup
	for _, service := range []string{"web", "other"} {
		wg.Go(func() {
			if out, errOut, code := one.try("intercept", "service", service, "-l", "9", "--detach"); code != 0 {
				t.Errorf("exit code %d: %s%s", code, out, errOut)
			}
		})
	}
	wg.Wait()
	if got := sessions(t, ns); len(got) != 1 || len(got[0].Spec.Intercepts) != 2 {
		t.Fatalf("%d sessions, want one with two intercepts", len(got))
	}
	two.dayfly("intercept", "service", "web", "-l", "9", "--detach")
	got := sessions(t, ns)
	if len(got) != 2 || got[1].Name != got[0].Name+"-2" || got[1].Spec.RoutingKey == got[0].Spec.RoutingKey {
		t.Errorf("the second laptop has no session of its own: %+v", got)
	}
	one.dayfly("session", "close")
	if got := sessions(t, ns); len(got) != 1 {
		t.Errorf("%d sessions after the first laptop closed its own, want the second laptop's", len(got))
	}
	two.dayfly("session", "close")
	checkNothingKept(t, one)
	checkNothingKept(t, two)
}
