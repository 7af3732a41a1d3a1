package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// A router is killed, as by kill -9, before and after every table that it puts in force, over whole lives of an intercept,
// with something else amiss between dayfly's parts that is drawn at random. After each life everything is as it was, and
// bystanders have lost no more than what the dead router carried. Not parallel: others' requests go through it.
func TestRouterKilledAtEveryTableRestoresExactly(t *testing.T) {
	shakes(t)
	most, _ := strconv.Atoi(os.Getenv("KILLS")) // KILLS=100: all of them
	if most == 0 {
		most = 6
	}
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before := snapshot(t, ns)
	faulty := startFaultyRouter(t)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	seed := uint64(time.Now().UnixNano())
	draw := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for n := 1; n <= most; n++ {
		deaths := 0
		for _, point := range []string{"apply", "applied"} {
			if most < 20 && (n%2 == 1) != (point == "apply") {
				continue // the short form does every second one
			}
			amiss := draw.IntN(4)
			died, tables := oneLife(t, ns, l, port, faulty, fmt.Sprintf("%s:%d", point, n), amiss)
			checkRestored(t, ns, before)
			if died {
				deaths++
			}
			t.Logf("killed at %s:%d %v, %s; %s", point, n, died, ailments[amiss].name, tables)
		}
		if deaths == 0 {
			if n < 3 {
				t.Errorf("no router died at table %d: the fault is not injected", n)
			}
			return
		}
	}
}

// ailments are what may be amiss meanwhile.
var ailments = []struct {
	name string
	rule string // between the faulty router and the other one, or all controllers; "": nothing
	ctrl bool
}{
	{"nothing else amiss", "", false},
	{"routers cut off from each other", "drop", false},
	{"the router cut off from the controllers for a second", "drop", true},
	{"a fifth of the packets between router and controllers lost", "numgen random mod 5 == 0 drop", true},
}

// oneLife opens an intercept, has it answer, and closes it, while the faulty router dies at a point and is started again.
func oneLife(t *testing.T, ns string, l *laptop, port int, faulty *corev1.Pod, point string, amiss int) (died bool, told string) {
	t.Helper()
	clients := startTraffic(t, ns, 4, 1, "-timeout", "10s", "-every", "100ms")
	router := runRouter(t, "DAYFLY_DIE_AT="+point)
	awaitServing(t)
	if a := ailments[amiss]; a.rule != "" {
		others := podIPs(t, systemNamespace, "app.kubernetes.io/component=controller")
		if !a.ctrl {
			others = podIPs(t, systemNamespace, "dayfly.dev/replica=router-1")
		}
		mend := interfere(t, a.rule, []string{faulty.Status.PodIP}, others)
		timer := time.AfterFunc(time.Second, mend)
		defer mend()
		defer timer.Stop()
	}
	l.dayfly("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--session", "ada", "--drain", "1s", "--timeout", "2m", "--detach")
	await(t, promise(5*time.Second), "the laptop answers", func() error {
		if r := get(t, ns, "http://web/", "x-dayfly-session: ada"); r.ServedBy != "laptop" {
			return fmt.Errorf("served by %s", r.ServedBy)
		}
		return nil
	})
	l.dayfly("session", "close", "ada", "--timeout", "2m")
	samples := clients.stop()
	deaths := router.stop()
	broken := offences{}
	carried := 0
	for _, s := range samples {
		lost := s.Error != "" && len(deaths) > 0 && s.Done > deaths[0]-int64(2e6) && s.Sent < deaths[0]+int64(3e6)
		switch {
		case lost:
			carried++ // by the dead router, or on its way there
		case s.Error != "":
			broken.add("failed", s)
		case s.laptop() && !s.Key:
			broken.add("without the key at the laptop", s)
		}
	}
	broken.report(t)
	return len(deaths) > 0, fmt.Sprintf("%d requests, %d lost with the router", len(samples), carried)
}

// A router is killed before and after it takes another one, which is dead, out of the slices, as it does where no controller
// is there to do it. What was open through the two is lost; then all goes on, and the close restores. Not parallel.
func TestRouterKilledWhileItTakesADeadPeerOut(t *testing.T) {
	shakes(t)
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before := snapshot(t, ns)
	startFaultyRouter(t)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	for _, point := range []string{"prune", "pruned"} {
		router := runRouter(t, "DAYFLY_DIE_AT="+point+":1")
		awaitServing(t)
		clients := startTraffic(t, ns, 4, 1, "-timeout", "5s", "-every", "100ms")
		l.dayfly("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--session", "ada", "--drain", "1s", "--timeout", "2m", "--detach")
		at := now()
		thaw := freezeAllBut(t, faultyRouter)
		await(t, 20*time.Second, "the router dies at "+point, func() error {
			if router.died() == 0 {
				return fmt.Errorf("alive")
			}
			return nil
		})
		thaw()
		await(t, promise(10*time.Second), "the laptop answers by both routers", func() error {
			for range 10 { // either of them
				if out, err := tryInPod(ns, "get", "-H", "x-dayfly-session: ada", "http://web/"); err != nil || !strings.Contains(out, `"laptop"`) {
					return fmt.Errorf("%v: %s", err, out)
				}
			}
			return nil
		})
		awaitInForce(t, ns, promise(10*time.Second))
		whole := now()
		l.dayfly("session", "close", "ada", "--timeout", "2m")
		broken := offences{}
		lost := 0
		for _, s := range clients.stop() {
			switch {
			case s.Error != "" && s.Done > at && s.Sent < whole && s.Opened < whole:
				lost++
			case s.Error != "":
				broken.add("failed", s)
			case s.laptop() && !s.Key:
				broken.add("without the key at the laptop", s)
			}
		}
		broken.report(t)
		t.Logf("killed at %s: whole again %v after the other parts froze, %d requests lost until then", point, time.Duration(whole-at)*time.Microsecond, lost)
		router.stop()
		checkRestored(t, ns, before)
	}
}

// freezeAllBut stops the processes of the controllers and of all routers but one, until thaw is called.
func freezeAllBut(t *testing.T, router string) (thaw func()) {
	t.Helper()
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(systemNamespace), client.MatchingLabels{"app.kubernetes.io/name": "dayfly"}))
	var frozen []int
	thaw = func() {
		for _, pid := range frozen {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	t.Cleanup(thaw)
	for i := range pods.Items {
		if p := &pods.Items[i]; p.Name != router && p.Status.Phase == corev1.PodRunning {
			pid := processOf(t, p, "dayfly")
			must(t, syscall.Kill(pid, syscall.SIGSTOP))
			frozen = append(frozen, pid)
		}
	}
	return thaw
}

const faultyRouter = "router-fault"

// startFaultyRouter replaces router-0 by a pod with its rights and names in the network, in which runRouter runs routers.
func startFaultyRouter(t *testing.T) *corev1.Pod {
	t.Helper()
	labels := map[string]string{"app.kubernetes.io/name": "dayfly", "app.kubernetes.io/component": "router", "dayfly.dev/replica": "router-0"}
	kubectl(t, "-n", systemNamespace, "scale", "deploy/router-0", "--replicas=0")
	kubectl(t, "-n", systemNamespace, "wait", "--for=delete", "pod", "-l", "dayfly.dev/replica=router-0", "--timeout=60s")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: faultyRouter, Labels: labels}}
	pod.Spec = corev1.PodSpec{
		ServiceAccountName: "router", EnableServiceLinks: new(false), TerminationGracePeriodSeconds: new(int64(0)),
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Volumes: []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "dayfly-controller", ExpirationSeconds: new(int64(3600)), Path: "token"}}}}}}},
		Containers: []corev1.Container{{
			Name: "app", Image: faultsImage, ImagePullPolicy: corev1.PullIfNotPresent,
			Command:         []string{"/testapp", "serve", "-http", ":8088", "-echo", ""},
			Env:             []corev1.EnvVar{{Name: "POD_NAME", Value: faultyRouter}, {Name: "POD_NAMESPACE", Value: systemNamespace}},
			Ports:           []corev1.ContainerPort{{Name: "connect", ContainerPort: 8443}, {Name: "control", ContainerPort: 9443}, {Name: "health", ContainerPort: 8081}},
			ReadinessProbe:  &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(8081)}}},
			VolumeMounts:    []corev1.VolumeMount{{Name: "token", MountPath: "/var/run/dayfly", ReadOnly: true}},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
		}},
	}
	must(t, cluster.Create(t.Context(), pod))
	t.Cleanup(func() {
		_ = cluster.Delete(context.Background(), pod)
		kubectlOutput("-n", systemNamespace, "scale", "deploy/router-0", "--replicas=1")
		kubectlOutput("-n", systemNamespace, "rollout", "status", "deploy/router-0", "--timeout=60s")
	})
	kubectl(t, "-n", systemNamespace, "wait", "--for=jsonpath={.status.phase}=Running", "pod/"+faultyRouter, "--timeout=60s")
	for _, p := range routerPods(t) {
		if p.Name == faultyRouter {
			return p
		}
	}
	t.Fatal("the faulty router's pod is gone")
	return nil
}

// runningRouter is a router that is started again whenever it dies.
type runningRouter struct {
	cancel context.CancelFunc
	ended  chan struct{}

	mu     sync.Mutex
	deaths []int64
}

// runRouter runs a router in the pod of startFaultyRouter, with env; one that has died is started again without.
func runRouter(t *testing.T, env ...string) *runningRouter {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &runningRouter{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		for ctx.Err() == nil {
			args := append([]string{"kubectl", "-n", systemNamespace, "exec", "-i", faultyRouter, "--", "/testapp", "env"}, env...)
			cmd := testcluster(append(args, "--", "/dayfly", "router")...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			stdin, _ := cmd.StdinPipe()
			if err := cmd.Start(); err != nil {
				return
			}
			release := context.AfterFunc(ctx, func() { stdin.Close() })
			err := cmd.Wait()
			if release() && err != nil && strings.Contains(out.String(), "killed") {
				r.mu.Lock()
				r.deaths = append(r.deaths, now())
				r.mu.Unlock()
			}
			env = nil
		}
	}()
	t.Cleanup(func() { cancel(); <-r.ended })
	return r
}

// died counts the deaths so far.
func (r *runningRouter) died() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.deaths)
}

func (r *runningRouter) stop() (deaths []int64) {
	r.cancel()
	<-r.ended
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.deaths
}

// awaitServing waits until the faulty router serves: until it has a certificate and knows the originals.
func awaitServing(t *testing.T) {
	t.Helper()
	await(t, 30*time.Second, "the faulty router serves", func() error {
		for _, p := range routerPods(t) {
			if p.Name == faultyRouter && podReady(p) {
				return nil
			}
		}
		return fmt.Errorf("not ready")
	})
}
