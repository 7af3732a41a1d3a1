package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// faultsImage is dayfly built with -tags faults: another image, of the same version.
const faultsImage = "docker.io/dayfly/dayfly-faults:dev"

// Upgrading dayfly under load, restarting all of it, and certificates that are replaced every few seconds fail no request,
// matching or not; the intercept stays in force, but for seconds in which the original answers. Not parallel: others'
// requests go through these routers.
func TestUpgradeAndRotationUnderLoadFailNoRequest(t *testing.T) {
	shakes(t)
	ns := newNamespace(t)
	deployWeb(t, ns, 2)
	deployClient(t, ns)
	before, restarts := snapshot(t, ns), restartsOf(t, ns)
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	t.Cleanup(func() { // what follows expects the installed image
		kubectlOutput("-n", systemNamespace, "set", "env", "deploy/controller", "DAYFLY_CERTIFICATES-")
		newLaptop(t, ns).dayfly("install", "--domain", domain, "--ingress-class", ingressClass)
	})
	l.dayfly("intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--session", "ada", "--drain", "5s", "--detach")
	awaitInForce(t, ns, time.Minute)
	clients := startTraffic(t, ns, 12, 2, "-timeout", "20s", "-every", "100ms")
	story := follow(t, ns)
	at := now()
	moment := func(what string) { t.Logf("%+.1f s  %s", float64(now()-at)/1e6, what) }

	time.Sleep(2 * time.Second) // of requests
	moment("install of another image")
	l.dayfly("install", "--domain", domain, "--ingress-class", ingressClass, "--image", faultsImage)
	awaitInForce(t, ns, promise(20*time.Second))
	moment("in force again; certificates of 8 s, restart of everything")
	kubectl(t, "-n", systemNamespace, "set", "env", "deploy/controller", "DAYFLY_CERTIFICATES=8s")
	rollout(t, "controller")
	kubectl(t, "-n", systemNamespace, "rollout", "restart", "deploy")
	rollout(t, "controller", "router-0", "router-1")
	awaitInForce(t, ns, promise(20*time.Second))
	moment("in force again; rotating")
	issued := enrolments()
	time.Sleep(17 * time.Second) // of requests: two certificates and more
	if rotated := enrolments() - issued; rotated < 6 {
		t.Errorf("the routers' certificates were replaced %d times", rotated)
	} else {
		t.Logf("the routers' certificates were replaced %d times", rotated)
	}
	moment("install of the former image")
	kubectl(t, "-n", systemNamespace, "set", "env", "deploy/controller", "DAYFLY_CERTIFICATES-")
	l.dayfly("install", "--domain", domain, "--ingress-class", ingressClass)
	awaitInForce(t, ns, promise(20*time.Second))
	time.Sleep(3 * time.Second)
	moment("in force again")
	samples := clients.stop()
	t.Logf("what could be seen:\n%s", story(at))
	judgeUpgrade(t, samples)
	l.dayfly("session", "close", "ada")
	checkRestored(t, ns, before)
	if after := restartsOf(t, ns); after != restarts {
		t.Errorf("pods before: %s\nand after: %s", restarts, after)
	}
}

func rollout(t *testing.T, deployments ...string) {
	t.Helper()
	for _, d := range deployments {
		kubectl(t, "-n", systemNamespace, "rollout", "status", "deploy/"+d, "--timeout=120s")
	}
}

// enrolments counts the certificates that controllers have issued to routers.
func enrolments() int {
	return strings.Count(kubectlOutput("-n", systemNamespace, "logs", "-l", "app.kubernetes.io/component=controller", "--tail=-1"), `"enrolled a router"`)
}

// judgeUpgrade fails the test for every request that failed, and if requests with the key went elsewhere for long.
func judgeUpgrade(t *testing.T, samples []sample) {
	t.Helper()
	broken := offences{}
	fine, laptop, slowest := 0, 0, int64(0)
	var keyed []sample
	for _, s := range samples {
		switch {
		case s.Error != "":
			broken.add("failed", s)
			continue
		case s.laptop() && !s.Key:
			broken.add("without the key at the laptop", s)
		case s.Ended == "reset":
			broken.add("an idle connection was reset", s)
		}
		fine++
		slowest = max(slowest, s.Done-s.Sent)
		if s.Key && !s.echo() {
			keyed = append(keyed, s)
		}
		if s.laptop() {
			laptop++
		}
	}
	longest, aside := absences(keyed)
	t.Logf("%d requests succeeded, the slowest in %v; of %d with the key %d were answered by the laptop, %d by the original, for %v at a stretch at most",
		fine, since(0, slowest), len(keyed), laptop, aside, longest)
	if longest > promise(5*time.Second) || laptop == 0 {
		t.Errorf("the intercept was not in force for %v", longest)
	}
	broken.report(t)
}

// absences finds for how long at a stretch no request with the key was at the laptop.
func absences(keyed []sample) (longest time.Duration, aside int) {
	slices.SortFunc(keyed, func(a, b sample) int { return int(a.Sent - b.Sent) })
	var from int64
	for _, s := range keyed {
		switch {
		case s.laptop():
			from = 0
		case from == 0:
			from = s.Sent
			fallthrough
		default:
			aside++
			longest = max(longest, since(from, s.Done))
		}
	}
	return longest, aside
}
