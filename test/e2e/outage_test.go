package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// shakes lets a test kill parts of dayfly, or of the cluster, only where somebody has said that it may: KUBECONFIG names the
// test cluster. A cluster that is merely the current one in somebody's configuration may be in use.
func shakes(t *testing.T) {
	t.Helper()
	named := os.Getenv("KUBECONFIG")
	out, err := testcluster("kubeconfig").Output()
	if err != nil || named == "" || named != strings.TrimSpace(string(out)) {
		why := fmt.Sprintf("KUBECONFIG is %q, the test cluster's is %q (%v)", named, strings.TrimSpace(string(out)), err)
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
}

const systemNamespace = "dayfly-system"

// A router that dies under load takes only what it carried: new connections succeed within 3 s, with or without a leading
// controller, and the intercept is in force again. Not parallel: others' requests go through these routers.
func TestRouterKilledUnderLoadLosesOnlyWhatItCarried(t *testing.T) {
	shakes(t)
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before, restarts := snapshot(t, ns), restartsOf(t, ns)
	l := newLaptop(t, ns)
	l.dayfly("intercept", "service", "web", "-r", "http", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "3s", "--detach")
	for i, c := range []struct {
		name   string
		leader bool
		kill   func(t *testing.T, router *corev1.Pod)
	}{
		{"kill -9", false, killPod},
		{"kill -9, the leader too", true, killPod},
		{"force-deleted", false, forceDelete},
		{"force-deleted, the leader killed too", true, forceDelete},
	} {
		t.Run(c.name, func(t *testing.T) {
			awaitInForce(t, ns, time.Minute)
			router := routerPods(t)[i%2]
			leader := leadingController(t)
			clients := startTraffic(t, ns, 16, 2, "-timeout", "2s")
			time.Sleep(2 * time.Second) // of requests
			story := follow(t, ns)
			at := now()
			var wg sync.WaitGroup
			if c.leader {
				wg.Go(func() { killPod(t, leader) })
			}
			c.kill(t, router)
			wg.Wait()
			time.Sleep(6 * time.Second) // of requests: whatever goes wrong does so now
			awaitInForce(t, ns, promise(20*time.Second))
			time.Sleep(2 * time.Second)
			samples := clients.stop()
			t.Logf("router %s (%s) was killed; what could be seen:\n%s", router.Name, router.Status.PodIP, story(at))
			judgeOutage(t, samples, at, router.Status.PodIP, "", 3*time.Second)
		})
	}
	l.dayfly("session", "close", "ada")
	checkRestored(t, ns, before)
	if after := restartsOf(t, ns); after != restarts {
		t.Errorf("pods before: %s\nand after: %s", restarts, after)
	}
}

// routerPods are the pods of the routers, by name.
func routerPods(t *testing.T) []*corev1.Pod {
	t.Helper()
	var list corev1.PodList
	must(t, cluster.List(t.Context(), &list, client.InNamespace(systemNamespace), client.MatchingLabels{"app.kubernetes.io/component": "router"}))
	var out []*corev1.Pod
	for i := range list.Items {
		if p := &list.Items[i]; p.DeletionTimestamp.IsZero() && p.Status.Phase == corev1.PodRunning {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	if len(out) != 2 {
		t.Fatalf("%d routers", len(out))
	}
	return out
}

// leadingController is the pod of the controller that leads.
func leadingController(t *testing.T) *corev1.Pod {
	t.Helper()
	var lease coordinationv1.Lease
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: systemNamespace, Name: "dayfly-controller"}, &lease))
	if lease.Spec.HolderIdentity == nil {
		t.Fatal("no controller leads")
	}
	name, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	pod := &corev1.Pod{}
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: systemNamespace, Name: name}, pod))
	return pod
}

// killPod kills dayfly's process in a pod, as by kill -9: the machines of the test cluster are this one.
func killPod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	must(t, syscall.Kill(processOf(t, pod, "dayfly"), syscall.SIGKILL))
}

// processOf finds the process of a program in a pod.
func processOf(t *testing.T, pod *corev1.Pod, program string) (pid int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	must(t, err)
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(groups, []byte(pod.UID)) {
			continue
		}
		dir := filepath.Dir(file)
		if comm, _ := os.ReadFile(filepath.Join(dir, "comm")); strings.TrimSpace(string(comm)) != program {
			continue
		}
		pid, err = strconv.Atoi(filepath.Base(dir))
		must(t, err)
		return pid
	}
	t.Fatalf("no process %s of pod %s on this machine", program, pod.Name)
	return 0
}

func forceDelete(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	must(t, cluster.Delete(t.Context(), pod.DeepCopy(), client.GracePeriodSeconds(0)))
}

// inForce tells how an intercept stands: the session's word, and which addresses the service's captured port leads to.
func inForce(ns string) (state v1alpha1.InterceptState, offered []string) {
	var list v1alpha1.SessionList
	if cluster.List(context.Background(), &list, client.InNamespace(ns)) == nil && len(list.Items) == 1 && len(list.Items[0].Status.Intercepts) == 1 {
		state = list.Items[0].Status.Intercepts[0].State
	}
	var ours discoveryv1.EndpointSliceList
	if cluster.List(context.Background(), &ours, client.InNamespace(ns), client.MatchingLabels{discoveryv1.LabelManagedBy: "dayfly.dev"}) == nil {
		for _, s := range ours.Items {
			for _, e := range s.Endpoints {
				offered = append(offered, e.Addresses...)
			}
		}
	}
	slices.Sort(offered)
	return state, offered
}

// awaitInForce waits until the session says that it is armed and both routers are offered, as they are now.
func awaitInForce(t *testing.T, ns string, most time.Duration) {
	t.Helper()
	await(t, most, "in force on both routers", func() error {
		var list corev1.PodList
		must(t, cluster.List(t.Context(), &list, client.InNamespace(systemNamespace), client.MatchingLabels{"app.kubernetes.io/component": "router"}))
		state, offered := inForce(ns)
		count := 0
		for _, p := range list.Items {
			if !p.DeletionTimestamp.IsZero() {
				continue
			}
			count++
			if ready := podReady(&p); !ready || !slices.Contains(offered, p.Status.PodIP) {
				return fmt.Errorf("router %s ready %v, %v are offered", p.Name, ready, offered)
			}
		}
		if state != v1alpha1.StateArmed || count != 2 || len(offered) != 2 {
			return fmt.Errorf("%s, %d routers, %v are offered", state, count, offered)
		}
		return nil
	})
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// follow notes every change of what inForce tells until the story is asked for.
func follow(t *testing.T, ns string) (story func(since int64) string) {
	ctx, cancel := context.WithCancel(t.Context())
	type moment struct {
		when int64
		what string
	}
	var seen []moment
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			state, offered := inForce(ns)
			what := fmt.Sprintf("%s, offered %v", state, offered)
			if len(seen) == 0 || seen[len(seen)-1].what != what {
				seen = append(seen, moment{now(), what})
			}
			time.Sleep(25 * time.Millisecond)
		}
	}()
	return func(since int64) string {
		cancel()
		<-done
		var out []string
		for _, m := range seen {
			out = append(out, fmt.Sprintf("\t%+.2f s  %s", float64(m.when-since)/1e6, m.what))
		}
		return strings.Join(out, "\n")
	}
}

// judgeOutage holds what the clients saw against what was promised when the router at an address died, and with it the
// pods named in gone.
func judgeOutage(t *testing.T, samples []sample, at int64, dead, gone string, within time.Duration) {
	t.Helper()
	routers, originals := map[string]string{}, map[string]string{} // by connection
	for _, s := range samples {
		if !s.echo() && s.Error == "" && !s.laptop() {
			routers[s.connection()], originals[s.connection()] = s.Via, s.By
		}
	}
	broken, seen := offences{}, map[string]bool{}
	carried, orphaned, idle, refused, fine, aside := 0, 0, 0, 0, 0, 0
	lastRefused, lastAside, slowest := at, at, int64(0)
	kinds := map[string]int{}
	for _, s := range samples {
		router, known := routers[s.connection()]
		if s.Ended != "" {
			idle++
		}
		switch {
		case s.Error != "" && s.echo():
			broken.add("the other port's client noticed", s)
		case s.Error != "" && s.Opened < at && known && router != dead && strings.Contains(gone, originals[s.connection()]+" "):
			orphaned++
			kinds[s.Error]++
		case s.Error != "" && s.Opened < at && known && router != dead:
			broken.add("failed, though the dead router did not carry it, but "+cmp.Or(router, "none"), s)
		case s.Error != "" && s.Opened < at:
			carried++
			kinds[s.Error]++
		case s.Error != "":
			refused++
			kinds[s.Error]++
			lastRefused = max(lastRefused, s.Opened)
		case s.echo():
		case s.laptop() && !s.Key:
			broken.add("without the key at the laptop", s)
		case s.Opened >= at:
			fine++
			if !seen[s.connection()] {
				slowest = max(slowest, s.Done-s.Opened)
			}
			seen[s.connection()] = true
			if s.Key && !s.laptop() {
				aside++
				lastAside = max(lastAside, s.Done)
			}
		}
	}
	after := func(us int64) time.Duration { return (time.Duration(us-at) * time.Microsecond).Round(time.Millisecond) }
	t.Logf("%d requests that it carried failed, %d because their original was gone, %d idle connections ended; of the connections opened since, %d failed (the last was opened after %v) and "+
		"%d requests succeeded, the slowest first one of a connection in %v; %d with the key were answered by the original (the last after %v); errors: %v",
		carried, orphaned, idle, refused, after(lastRefused), fine, after(at+slowest), aside, after(lastAside), kinds)
	if after(lastRefused) > promise(within) {
		t.Errorf("a connection failed that was opened %v after the router died", after(lastRefused))
	}
	if fine == 0 {
		t.Error("no request succeeded")
	}
	broken.report(t)
}

// The laptop's dayfly is killed, or stands still, under load: matching requests are answered by the original within 15 s,
// and nobody else notices.
func TestLaptopLostUnderLoadIsNoticedOnlyByItsOwnRequests(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		signal syscall.Signal
	}{
		{"kill -9", syscall.SIGKILL},
		{"frozen", syscall.SIGSTOP}, // as when the lid is closed: nobody tells the routers
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			deployWeb(t, ns, 2)
			deployClient(t, ns)
			before := snapshot(t, ns)
			l := newLaptop(t, ns)
			cmd := l.command("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "2s")
			must(t, cmd.Start())
			t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
			awaitInForce(t, ns, time.Minute)
			clients := startTraffic(t, ns, 8, 2, "-timeout", "30s")
			time.Sleep(2 * time.Second) // of requests
			at := now()
			must(t, cmd.Process.Signal(c.signal))
			time.Sleep(15 * time.Second)
			judgeLostLaptop(t, clients.stop(), at)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			l.dayfly("session", "list") // ends what the killed one left behind
			checkRestored(t, ns, before)
		})
	}
}

func judgeLostLaptop(t *testing.T, samples []sample, at int64) {
	t.Helper()
	broken := offences{}
	others, reached, lost, original := 0, 0, 0, 0
	last := at
	for _, s := range samples {
		mine := s.Key && !s.echo()
		switch {
		case s.Error != "" && !mine:
			broken.add("a request without the key failed", s)
		case !mine:
			others++
		case s.Done < at && s.laptop():
			reached++
		case s.Done < at:
			broken.add("with the key, not at the laptop", s)
		case s.Error != "" || s.laptop():
			lost++
			last = max(last, s.Done)
		case s.Done-s.Sent > int64(time.Second/time.Microsecond): // answered in the end: it had waited for the laptop
			original++
			last = max(last, s.Done)
		default:
			original++
		}
	}
	took := (time.Duration(last-at) * time.Microsecond).Round(time.Millisecond)
	t.Logf("%d requests of others succeeded; with the key: %d at the laptop before, then %d lost and %d answered by the original, without delay after %v",
		others, reached, lost, original, took)
	if took > promise(15*time.Second) || original == 0 {
		t.Errorf("matching requests were not answered by the original: %d, the last was lost or late after %v", original, took)
	}
	broken.report(t)
}

// A node loses its power under load: the service goes on on the other one, and everything is restored when it is back.
func TestNodeWithoutPowerUnderLoad(t *testing.T) {
	shakes(t)
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before := withoutEndpoints(snapshot(t, ns))
	pods := podsByNode(t, ns)
	victim := "node-1"
	if strings.Contains(pods["node-1"], "client-") {
		victim = "node-2"
	}
	if !strings.Contains(pods["node-1"], "web-") || !strings.Contains(pods["node-2"], "web-") {
		t.Fatalf("the application runs on one node only: %v", pods)
	}
	l := newLaptop(t, ns)
	l.dayfly("intercept", "service", "web", "-r", "http", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "3s", "--detach")
	awaitInForce(t, ns, time.Minute)
	dead := slices.DeleteFunc(routerPods(t), func(p *corev1.Pod) bool { return p.Spec.NodeName != victim })
	if len(dead) != 1 {
		t.Fatalf("%d routers on %s", len(dead), victim)
	}
	led := leadingController(t).Spec.NodeName
	clients := startTraffic(t, ns, 16, 2, "-timeout", "5s")
	time.Sleep(2 * time.Second) // of requests
	story := follow(t, ns)
	at := now()
	power(t, "kill", victim)
	t.Cleanup(func() { _ = testcluster("node", "start", victim).Run() })
	time.Sleep(15 * time.Second)
	samples := clients.stop()
	told := story(at)
	power(t, "start", victim)
	t.Logf("%s was killed with router %s, the leading controller was on %s; what could be seen:\n%s", victim, dead[0].Status.PodIP, led, told)
	// The echo port is left out: half of its pods are gone, which Kubernetes has yet to notice, with dayfly or without.
	judgeOutage(t, slices.DeleteFunc(slices.Clone(samples), sample.echo), at, dead[0].Status.PodIP, pods[victim], 3*time.Second)
	began := time.Now()
	awaitInForce(t, ns, 3*time.Minute)
	awaitDeployment(t, ns, "web")
	awaitDeployment(t, systemNamespace, "controller")
	for _, p := range routerPods(t) {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady {
				t.Logf("router %s on %s is ready since %v after the power came back", p.Name, p.Spec.NodeName, c.LastTransitionTime.Sub(began).Round(time.Second))
			}
		}
	}
	t.Logf("in force on both nodes %v after the power came back", time.Since(began).Round(100*time.Millisecond))
	l.dayfly("session", "close", "ada")
	await(t, promise(6*time.Second), "everything as it was", func() error {
		if diff := differences("", before, withoutEndpoints(snapshot(t, ns))); len(diff) > 0 {
			return fmt.Errorf("differs from before:\n%s", strings.Join(diff, "\n"))
		}
		return nil
	})
}

func power(t *testing.T, what, node string) {
	t.Helper()
	if out, err := testcluster("node", what, node).CombinedOutput(); err != nil {
		t.Fatalf("node %s %s: %v\n%s", what, node, err, out)
	}
}

func podsByNode(t *testing.T, ns string) map[string]string {
	t.Helper()
	var list corev1.PodList
	must(t, cluster.List(t.Context(), &list, client.InNamespace(ns)))
	out := map[string]string{}
	for _, p := range list.Items {
		out[p.Spec.NodeName] += p.Name + " "
	}
	return out
}

// withoutEndpoints leaves out what Kubernetes derives: pods have other addresses once their node was off.
func withoutEndpoints(snapshot map[string]any) map[string]any {
	for key := range snapshot {
		if strings.HasPrefix(key, "EndpointSlices of ") || strings.HasPrefix(key, "Endpoints/") {
			delete(snapshot, key)
		}
	}
	return snapshot
}
