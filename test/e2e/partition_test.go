package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// nodes of the test cluster, on which pods' packets can be dropped.
var nodes = []string{"node-1", "node-2"}

// interfere has the nodes treat packets between two sets of pods as a rule of nftables says, both ways, until mend is called.
func interfere(t *testing.T, rule string, a, b []string) (mend func()) {
	t.Helper()
	set := func(addrs []string) string { return "{ " + strings.Join(addrs, ", ") + " }" }
	table := fmt.Sprintf("table inet interfere { chain f { type filter hook forward priority -200; ip saddr %s ip daddr %s %s; ip saddr %s ip daddr %s %s; }; }",
		set(a), set(b), rule, set(b), set(a), rule)
	mend = func() {
		for _, node := range nodes {
			_ = testcluster("exec", node, "--", "nft", "delete table inet interfere").Run()
		}
	}
	t.Cleanup(mend)
	for _, node := range nodes {
		inMachine(t, node, "nft", table)
	}
	return mend
}

func podIPs(t *testing.T, ns, label string) []string {
	t.Helper()
	key, value, _ := strings.Cut(label, "=")
	var list corev1.PodList
	must(t, cluster.List(t.Context(), &list, client.InNamespace(ns), client.MatchingLabels{key: value}))
	var out []string
	for _, p := range list.Items {
		if p.Status.PodIP != "" && p.DeletionTimestamp.IsZero() {
			out = append(out, p.Status.PodIP)
		}
	}
	slices.Sort(out)
	return out
}

const (
	partitioned = 8 * time.Second
	noticing    = 2 * time.Second // what was lost before it was mended may be noticed after
)

// Parts of dayfly that cannot reach each other, or lose a fifth of their packets, fail no request of a bystander; once they
// reach each other again the intercept is in force on both routers, and nothing changes any more. Not parallel.
func TestPartitionsUnderLoad(t *testing.T) {
	shakes(t)
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before, restarts := snapshot(t, ns), restartsOf(t, ns)
	l := newLaptop(t, ns)
	l.dayfly("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "3s", "--detach")
	awaitInForce(t, ns, time.Minute)
	routers := podIPs(t, systemNamespace, "app.kubernetes.io/component=router")
	controllers := podIPs(t, systemNamespace, "app.kubernetes.io/component=controller")
	all := []string{"0.0.0.0/0"}
	for _, c := range []struct {
		name  string
		rule  string
		a, b  []string
		still bool // nothing may change at all
	}{
		{"controllers from routers", "drop", controllers, routers, false},
		{"controllers from one router", "drop", controllers, routers[:1], false},
		{"routers from each other", "drop", routers[:1], routers[1:], true},
		{"a fifth of the routers' packets is lost", "numgen random mod 5 == 0 drop", routers, all, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			clients := startTraffic(t, ns, 8, 2, "-timeout", "20s", "-every", "100ms")
			time.Sleep(time.Second) // of requests
			story := follow(t, ns)
			at := now()
			mend := interfere(t, c.rule, c.a, c.b)
			time.Sleep(partitioned)
			mend()
			mended := now()
			awaitInForce(t, ns, promise(15*time.Second))
			again := now()
			time.Sleep(noticing + 4*time.Second) // in the last four of which nothing changes
			told := story(at)
			samples := clients.stop()
			t.Logf("in force %v after; what could be seen:\n%s", since(mended, again), told)
			judgePartition(t, samples)
			if c.still && strings.Count(told, "\n") > 0 {
				t.Error("something changed, though the controller reached every router")
			}
			last := told[strings.LastIndex(told, "\n")+1:]
			var when float64
			if _, err := fmt.Sscanf(strings.TrimSpace(last), "%f", &when); err != nil {
				t.Fatalf("%q: %v", last, err)
			}
			if when > float64(again-at)/1e6+noticing.Seconds() {
				t.Error("it goes on changing: it flaps")
			}
		})
	}
	l.dayfly("session", "close", "ada")
	checkRestored(t, ns, before)
	if after := restartsOf(t, ns); after != restarts {
		t.Errorf("pods before: %s\nand after: %s", restarts, after)
	}
}

// judgePartition fails the test for every request of a bystander that failed.
func judgePartition(t *testing.T, samples []sample) {
	t.Helper()
	broken := offences{}
	fine, lost, aside, slowest := 0, 0, 0, int64(0)
	for _, s := range samples {
		switch {
		case s.Error != "" && s.Key:
			lost++
		case s.Error != "":
			broken.add("a request without the key failed", s)
		case s.laptop() && !s.Key:
			broken.add("without the key at the laptop", s)
		default:
			fine++
			slowest = max(slowest, s.Done-s.Sent)
			if s.Key && !s.laptop() && !s.echo() {
				aside++
			}
		}
	}
	t.Logf("%d requests succeeded, the slowest in %v; with the key: %d failed, %d were answered by the original", fine, since(0, slowest), lost, aside)
	broken.report(t)
}

// A router that is cut off from the originals on the other node passes them over; what it had open to them is lost.
func TestRouterCutOffFromAnOriginal(t *testing.T) {
	shakes(t)
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	l.dayfly("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "3s", "--detach")
	awaitInForce(t, ns, time.Minute)
	originals := podIPs(t, ns, "app=web")
	routers := podIPs(t, systemNamespace, "app.kubernetes.io/component=router")
	clients := startTraffic(t, ns, 0, 4, "-timeout", "10s", "-every", "100ms")
	time.Sleep(time.Second) // of requests
	at := now()
	mend := interfere(t, "drop", routers, originals[:1])
	time.Sleep(8 * time.Second)
	mend()
	time.Sleep(2 * time.Second)
	samples := clients.stop()
	broken := offences{}
	late, fine := 0, 0
	for _, s := range samples {
		switch {
		case s.Error != "" && s.Opened < at: // in flight on what was cut
		case s.Error != "":
			broken.add("failed", s)
		default:
			fine++
			if !s.echo() && s.Opened > at && s.Done-s.Sent > int64(time.Second/time.Microsecond) {
				late++
			}
		}
	}
	t.Logf("%d requests succeeded; %d waited for the original that does not answer", fine, late)
	if late > 40 {
		t.Errorf("%d requests waited for an original that does not answer: it is not remembered", late)
	}
	broken.report(t)
	l.dayfly("session", "close", "ada")
	checkRestored(t, ns, before)
}

// A node is cut off, not dead: what runs there goes on by what it knew. The service goes on on the other node, and when the
// node is back everything is as if nothing had been. Not parallel.
func TestNodeCutOffUnderLoad(t *testing.T) {
	shakes(t)
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before := snapshot(t, ns)
	pods := podsByNode(t, ns)
	victim := "node-1"
	if strings.Contains(pods["node-1"], "client-") {
		victim = "node-2"
	}
	l := newLaptop(t, ns)
	l.dayfly("intercept", "service", "web", "-r", "http", "-l", fmt.Sprint(l.answer("laptop")), "--session", "ada", "--drain", "3s", "--detach")
	awaitInForce(t, ns, time.Minute)
	cutOff := slices.DeleteFunc(routerPods(t), func(p *corev1.Pod) bool { return p.Spec.NodeName != victim })
	if len(cutOff) != 1 {
		t.Fatalf("%d routers on %s", len(cutOff), victim)
	}
	led := leadingController(t).Spec.NodeName
	clients := startTraffic(t, ns, 8, 2, "-timeout", "5s")
	time.Sleep(2 * time.Second) // of requests
	story := follow(t, ns)
	at := now()
	power(t, "cut", victim)
	t.Cleanup(func() { _ = testcluster("node", "join", victim).Run() })
	time.Sleep(12 * time.Second)
	samples := clients.stop()
	power(t, "join", victim)
	joined := now()
	awaitInForce(t, ns, promise(20*time.Second))
	t.Logf("%s was cut off with router %s, the leading controller was on %s; in force on both %v after it was back; what could be seen:\n%s",
		victim, cutOff[0].Status.PodIP, led, since(joined, now()), story(at))
	judgeOutage(t, slices.DeleteFunc(slices.Clone(samples), sample.echo), at, cutOff[0].Status.PodIP, pods[victim], 10*time.Second)
	awaitDeployment(t, ns, "web")
	awaitDeployment(t, systemNamespace, "controller")
	l.dayfly("session", "close", "ada")
	await(t, promise(6*time.Second), "everything as it was", func() error {
		if diff := differences("", before, snapshot(t, ns)); len(diff) > 0 {
			return fmt.Errorf("differs from before:\n%s", strings.Join(diff, "\n"))
		}
		return nil
	})
}
