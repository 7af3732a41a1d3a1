package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The controller is killed, as by kill -9, after every k-th of its writes, over a whole life of an intercept: the process
// that goes on knows nothing but what is in the cluster. Not parallel: there is no other controller meanwhile.
func TestControllerKilledBetweenAnyTwoWritesRestoresExactly(t *testing.T) {
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	before := snapshot(t, ns)
	startFaultyController(t)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	for k := 1; k <= 3; k++ {
		deaths := 0
		whileControllersDie(t, k, &deaths, func() {
			l.dayfly("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--session", "ada", "--drain", "0s", "--timeout", "3m", "--detach")
			if r := get(t, ns, "http://web/", "x-dayfly-session: ada"); r.ServedBy != "laptop" {
				t.Errorf("k=%d: served by %s", k, r.ServedBy)
			}
			l.dayfly("session", "close", "ada", "--timeout", "3m")
		})
		checkRestored(t, ns, before)
		t.Logf("killed after every %d. write: %d deaths in one life of an intercept", k, deaths)
		if deaths < 3 {
			t.Errorf("k=%d: only %d deaths: the fault is not injected", k, deaths)
		}
	}
}

const faultyPod = "controller-fault"

// startFaultyController replaces dayfly's controllers by a pod with their rights and name in the network, in which
// whileControllersDie runs controllers.
func startFaultyController(t *testing.T) {
	t.Helper()
	kubectl(t, "-n", "dayfly-system", "scale", "deploy/controller", "--replicas=0")
	kubectl(t, "-n", "dayfly-system", "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=controller", "--timeout=60s")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "dayfly-system", Name: faultyPod,
		Labels: map[string]string{"app.kubernetes.io/name": "dayfly", "app.kubernetes.io/component": "controller"}}}
	pod.Spec = corev1.PodSpec{
		ServiceAccountName: "controller", EnableServiceLinks: new(false), TerminationGracePeriodSeconds: new(int64(0)),
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{
			Name: "app", Image: "docker.io/dayfly/dayfly-faults:dev", ImagePullPolicy: corev1.PullIfNotPresent,
			Command:         []string{"/testapp", "serve", "-http", ":8088", "-echo", ""},
			Env:             []corev1.EnvVar{{Name: "POD_NAME", Value: faultyPod}, {Name: "POD_NAMESPACE", Value: "dayfly-system"}, {Name: "DAYFLY_ROUTERS", Value: "2"}},
			Ports:           []corev1.ContainerPort{{Name: "control", ContainerPort: 9443}},
			ReadinessProbe:  &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8088)}}},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
		}},
	}
	must(t, cluster.Create(t.Context(), pod))
	t.Cleanup(func() {
		_ = cluster.Delete(context.Background(), pod)
		freeLease()
		kubectlOutput("-n", "dayfly-system", "scale", "deploy/controller", "--replicas=2")
		kubectlOutput("-n", "dayfly-system", "rollout", "status", "deploy/controller", "--timeout=60s")
	})
	kubectl(t, "-n", "dayfly-system", "wait", "--for=condition=Ready", "pod/"+faultyPod, "--timeout=60s")
}

// freeLease spares the next controller the wait for the dead one's lease.
func freeLease() {
	var lease coordinationv1.Lease
	if cluster.Get(context.Background(), client.ObjectKey{Namespace: "dayfly-system", Name: "dayfly-controller"}, &lease) == nil {
		lease.Spec.HolderIdentity = new("")
		_ = cluster.Update(context.Background(), &lease)
	}
}

// whileControllersDie runs one controller after another, each of which dies after its k-th write, until work is done.
func whileControllersDie(t *testing.T, k int, deaths *int, work func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	var last bytes.Buffer
	go func() {
		defer close(stopped)
		for ctx.Err() == nil {
			freeLease()
			cmd := testcluster("kubectl", "-n", "dayfly-system", "exec", "-i", faultyPod, "--", "/testapp", "env",
				fmt.Sprintf("DAYFLY_DIE=after:%d", k), "DAYFLY_DIE_WRITES=true", "--", "/dayfly", "controller")
			stdin, _ := cmd.StdinPipe()
			last.Reset()
			cmd.Stdout, cmd.Stderr = &last, &last
			if err := cmd.Start(); err != nil {
				return
			}
			release := context.AfterFunc(ctx, func() { stdin.Close() })
			err := cmd.Wait()
			if release() && err != nil && strings.Contains(last.String(), "killed") {
				*deaths++
			}
		}
	}()
	defer func() {
		cancel()
		<-stopped
		if t.Failed() {
			out := last.String()
			t.Logf("the last controller said:\n%s", out[max(0, len(out)-4000):])
		}
	}()
	work()
}

// The command is killed, as by kill -9, before every one of its requests to the API server: the next dayfly command on that
// laptop ends what is left, and everything is as it was.
func TestCommandKilledAtEveryStepLeavesNothing(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	for n := 1; ; n++ {
		cmd := l.command("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--drain", "0s", "--", "true")
		cmd.Path = binary("dayfly-faults")
		cmd.Env = append(cmd.Env, fmt.Sprintf("DAYFLY_DIE=before:%d", n))
		out, err := cmd.CombinedOutput()
		exit, _ := err.(*exec.ExitError)
		killed := exit != nil && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if err != nil && !killed {
			t.Fatalf("n=%d: %v\n%s", n, err, out)
		}
		l.dayfly("session", "list")
		await(t, promise(10*time.Second), "no session left", func() error {
			if left := sessions(t, ns); len(left) > 0 {
				return fmt.Errorf("n=%d: %s", n, left[0].Status.Summary)
			}
			return nil
		})
		checkRestored(t, ns, before)
		if !killed {
			t.Logf("killed before each of %d requests", n-1)
			if n < 8 {
				t.Errorf("only %d requests: the fault is not injected", n-1)
			}
			return
		}
	}
}

// What people do to the cluster while a session is open, and what is left after it: nothing.
func TestWhateverEndsASessionLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		end  func(t *testing.T, ns string, l *laptop)
		left func(before map[string]any) // what the end itself takes away
	}{
		{"kubectl delete session", func(t *testing.T, ns string, _ *laptop) { kubectl(t, "-n", ns, "delete", "session", "ada") }, nil},
		{"kubectl delete alteration, then the session", func(t *testing.T, ns string, l *laptop) {
			kubectl(t, "-n", ns, "delete", "alteration", "service-web")
			l.dayfly("session", "close", "ada")
		}, nil},
		{"deletion of the service", func(t *testing.T, ns string, l *laptop) {
			kubectl(t, "-n", ns, "delete", "service", "web")
			l.dayfly("session", "close", "ada")
		}, func(before map[string]any) {
			delete(before, "Service/web")
			delete(before, "EndpointSlices of web")
			delete(before, "Endpoints/web")
		}},
		{"end of the lease", func(t *testing.T, ns string, _ *laptop) {
			s := &v1alpha1.Session{}
			must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "ada"}, s))
			killServing(t, ns)
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			deployWeb(t, ns, 1)
			before := snapshot(t, ns)
			if c.left != nil {
				c.left(before)
			}
			l := newLaptop(t, ns)
			l.dayfly("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "1s", "--lease", "5s", "--detach")
			c.end(t, ns, l)
			await(t, promise(15*time.Second), "no session left", func() error {
				if left := sessions(t, ns); len(left) > 0 {
					return fmt.Errorf("%s", left[0].Status.Summary)
				}
				return nil
			})
			checkRestored(t, ns, before)
		})
	}
}

// killServing kills the process of this test's laptop that --detach left behind.
func killServing(t *testing.T, ns string) {
	t.Helper()
	out, err := exec.Command("pkill", "-9", "-f", "session serve ada .*-n "+ns).CombinedOutput()
	if err != nil {
		t.Fatalf("pkill: %v %s", err, out)
	}
}

// A namespace with an open session goes, and everything with it.
func TestDeletedNamespaceIsGone(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	l := newLaptop(t, ns)
	l.dayfly("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "1s", "--detach")
	kubectl(t, "delete", "namespace", ns, "--timeout=90s")
}

// uninstall with sessions open restores; with nothing of dayfly running, a namespace without a session is deleted as ever,
// and uninstall --force restores from the laptop. Not parallel: dayfly is not there meanwhile.
func TestUninstallRestores(t *testing.T) {
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	port := fmt.Sprint(l.answer("laptop"))
	installAgain(t)
	l.dayfly("intercept", "service", "web", "-r", "80", "-l", port, "--session", "ada", "--drain", "1s", "--detach")
	l.dayfly("uninstall")
	checkRestored(t, ns, before)
	checkNoTrace(t)

	l.dayfly("install", "--domain", domain, "--ingress-class", ingressClass)
	l.dayfly("intercept", "service", "web", "-r", "80", "-l", port, "--session", "ada", "--drain", "1s", "--detach")
	stopDayfly(t)
	other := newNamespace(t)
	kubectl(t, "delete", "namespace", other, "--timeout=60s")
	l.dayfly("uninstall", "--force")
	checkRestored(t, ns, before)
	checkNoTrace(t)
}

// uninstall does not take environments with it unless it is told to: it names them and changes nothing. When it is, nothing of them is
// left, also where dayfly itself no longer runs: then this laptop ends them. Not parallel: dayfly is not there meanwhile.
func TestUninstallWithEnvironments(t *testing.T) {
	home := newNamespace(t)
	before := snapshot(t, home)
	l := newLaptop(t, home)
	installAgain(t)
	refuses := func(args ...string) {
		t.Helper()
		if _, says, code := l.try(append([]string{"uninstall"}, args...)...); code != 8 || !strings.Contains(says, home+"/pr-1") || !strings.Contains(says, "--delete-environments") {
			t.Errorf("uninstall %s: exit code %d, want 8\n%s", args, code, says)
		}
	}
	nothingLeft := func() {
		t.Helper()
		checkRestored(t, home, before)
		checkNobodySpeaksOf(t, "env-"+home+"-pr-1")
		checkNoTrace(t)
		if out := kubectl(t, "get", "namespace", "-l", v1alpha1.LabelEnvironment, "-o", "name"); out != "" {
			t.Errorf("left: %s", out)
		}
	}
	l.dayfly("env", "create", "pr-1", "-f", webFolder(t, ""))
	refuses()
	if e := getEnv(t, home, "pr-1"); !e.DeletionTimestamp.IsZero() || e.Status.Revisions.Ready == "" {
		t.Errorf("it was changed: %+v", e.Status)
	}
	l.dayfly("uninstall", "--delete-environments")
	nothingLeft()

	l.dayfly("install", "--domain", domain, "--ingress-class", ingressClass)
	l.dayfly("env", "create", "pr-1", "-f", webFolder(t, ""))
	stopDayfly(t)
	refuses("--force")
	if _, says, code := l.try("uninstall", "--delete-environments", "--timeout", "5s"); code == 0 || !strings.Contains(says, "--force --delete-environments") {
		t.Errorf("with nobody there to end them: exit code %d\n%s", code, says)
	}
	l.dayfly("uninstall", "--force", "--delete-environments")
	nothingLeft()
}

// installAgain has dayfly there when the test is over: those that follow need it.
func installAgain(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := exec.Command(binDayfly, "install", "--domain", domain, "--ingress-class", ingressClass).CombinedOutput(); err != nil {
			t.Errorf("installing again: %v\n%s", err, out)
		}
	})
}

// stopDayfly leaves nothing of dayfly's running.
func stopDayfly(t *testing.T) {
	t.Helper()
	kubectl(t, "-n", system, "scale", "deploy", "--all", "--replicas=0")
	kubectl(t, "-n", system, "delete", "pod", "--all", "--force", "--grace-period=0")
}

// checkNoTrace fails the test if anything of dayfly is left in the cluster.
func checkNoTrace(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"crd", "clusterrole", "clusterrolebinding", "validatingadmissionpolicy", "validatingadmissionpolicybinding", "namespace"} {
		for name := range strings.FieldsSeq(kubectl(t, "get", kind, "-o", "name")) {
			if strings.Contains(name, "dayfly") {
				t.Errorf("left: %s", name)
			}
		}
	}
	for _, kind := range []string{"service", "endpointslice"} {
		if out := kubectl(t, "get", kind, "-A", "-l", v1alpha1.LabelManaged, "-o", "name"); out != "" {
			t.Errorf("left: %s", out)
		}
	}
}
