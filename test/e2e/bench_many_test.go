//go:build bench

package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	manyAtOnce   = 20 // environments on their way at a time
	manyWait     = 15 * time.Minute
	podsOfNode   = 1000 // that is simulated
	simulated    = "dayfly.dev/simulated"
	simulatedBy  = "kwok.x-k8s.io/node" // the annotation of the nodes that kwok plays
	ofController = "system:serviceaccount:dayfly-system:controller"
)

// What the controller takes for many environments: MANY of them (1,000) with ten pods each, on nodes that kwok simulates, so that all is real
// but the pods. It measures memory, how long passes take, and what an environment costs the API server that nobody touches for
// MANY_IDLE (12 minutes: what is looked at every ten is seen).
func TestManyEnvironments(t *testing.T) {
	shakes(t)
	many, idle := 1000, 12*time.Minute
	if n, err := strconv.Atoi(os.Getenv("MANY")); err == nil {
		many = n
	}
	if d, err := time.ParseDuration(os.Getenv("MANY_IDLE")); err == nil {
		idle = d
	}
	simulateNodes(t, (10*many+podsOfNode-1)/podsOfNode)
	kubectl(t, "-n", system, "rollout", "restart", "deploy/controller")
	kubectl(t, "-n", system, "rollout", "status", "deploy/controller", "--timeout=2m")
	time.Sleep(30 * time.Second) // the predecessors have drained
	home := newNamespace(t)
	first := leadingController(t)
	fmt.Printf("controller alone: %s\n", memoryOf(t, first))

	began := time.Now()
	newLaptop(t, home).dayfly("-q", "env", "create", "many-0", "-f", manyFolder(t), "--ttl", "24h")
	pattern := getEnv(t, home, "many-0")
	t.Cleanup(func() { endMany(t, home) })
	for ready := 1; ready < many; {
		n := min(many-ready, 200)
		inTurn(n, func(i int) { makeLike(t, pattern, fmt.Sprintf("many-%d", ready+i)) })
		ready += n
		fmt.Printf("%d environments of 10 pods ready after %v, %d at once; controller: %s\n", ready, time.Since(began).Round(time.Second), manyAtOnce, memoryOf(t, first))
	}
	fmt.Printf("passes until then: %s\n", passesOf(t, first))

	time.Sleep(time.Minute) // the last endpoints have been written
	from := time.Now()
	time.Sleep(idle)
	calls, all := callsSince(t, home, from)
	perHour := float64(all) / float64(many) / time.Since(from).Hours()
	fmt.Printf("idle for %v: %.1f API calls per environment and hour: %s\n", idle, perHour, calls)
	fmt.Printf("controller: %s\n", memoryOf(t, first))
	if now := leadingController(t); now.Name != first.Name {
		t.Errorf("the controller that led, %s, no longer does", first.Name)
	}

	kubectl(t, "-n", system, "delete", "pod", first.Name) // whoever leads next looks at all of them
	taken := time.Now()
	time.Sleep(20 * time.Second)
	second := leadingController(t)
	await(t, 5*time.Minute, "it has looked at all", func() error {
		time.Sleep(time.Second)
		if n := metricsOf(t, second).sum("controller_runtime_reconcile_time_seconds_count", `controller="environments"`); int(n) < many {
			return fmt.Errorf("%.0f passes", n)
		}
		return nil
	})
	fmt.Printf("another controller: has looked at all after %v; %s; passes: %s\n", time.Since(taken).Round(time.Second), memoryOf(t, second), passesOf(t, second))
	began = time.Now()
	endMany(t, home)
	fmt.Printf("all are gone after %v\n", time.Since(began).Round(time.Second))
}

// inTurn does n things, as many at once as environments are to be on their way.
func inTurn(n int, do func(i int)) {
	var wg sync.WaitGroup
	places := make(chan struct{}, manyAtOnce)
	for i := range n {
		places <- struct{}{}
		wg.Go(func() { defer func() { <-places }(); do(i) })
	}
	wg.Wait()
}

// makeLike makes an environment of the Blueprint of another, and waits until it is ready.
func makeLike(t *testing.T, pattern *v1alpha1.Environment, name string) {
	e := &v1alpha1.Environment{ObjectMeta: metav1.ObjectMeta{Namespace: pattern.Namespace, Name: name}, Spec: *pattern.Spec.DeepCopy()}
	if err := cluster.Create(t.Context(), e); err != nil {
		t.Error(err)
		return
	}
	for deadline := time.Now().Add(manyWait); ; time.Sleep(time.Second) {
		err := cluster.Get(t.Context(), client.ObjectKeyFromObject(e), e)
		if err == nil && meta.IsStatusConditionTrue(e.Status.Conditions, v1alpha1.ConditionReady) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("environment %s is not ready: %v, %+v", name, err, e.Status.Conditions)
			return
		}
	}
}

// endMany ends all environments of a home, and returns when they are gone.
func endMany(t *testing.T, home string) {
	ctx := context.Background()
	names := environmentsOf(home)
	inTurn(len(names), func(i int) {
		e := &v1alpha1.Environment{ObjectMeta: metav1.ObjectMeta{Namespace: home, Name: names[i]}}
		_ = cluster.Delete(ctx, e)
		for deadline := time.Now().Add(manyWait); cluster.Get(ctx, client.ObjectKeyFromObject(e), e) == nil; time.Sleep(time.Second) {
			if time.Now().After(deadline) {
				t.Errorf("environment %s does not end: %+v", e.Name, e.Status.Conditions)
				return
			}
		}
	})
}

// simulateNodes has kwok play nodes that take only what asks for them.
func simulateNodes(t *testing.T, n int) {
	t.Helper()
	said, err := os.Create(t.TempDir() + "/kwok.log")
	must(t, err)
	kwok := exec.Command(binary("kwok"), "--kubeconfig", os.Getenv("KUBECONFIG"), "--config", binary("kwok")+".yaml", "--manage-nodes-with-annotation-selector", simulatedBy+"=fake",
		"--cidr", "10.128.0.1/14", "--node-lease-duration-seconds", "40")
	kwok.Stdout, kwok.Stderr = said, said
	must(t, kwok.Start())
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(said.Name())
			t.Logf("kwok: %s", log[max(0, len(log)-2000):])
		}
		_ = kwok.Process.Kill()
		_ = kwok.Wait()
	})
	room := corev1.ResourceList{"cpu": resource.MustParse("1000"), "memory": resource.MustParse("1Ti"), "pods": resource.MustParse(strconv.Itoa(podsOfNode))}
	for i := range n {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("simulated-%d", i), Labels: map[string]string{simulated: ""}, Annotations: map[string]string{simulatedBy: "fake"}}}
		node.Spec.Taints = []corev1.Taint{{Key: simulated, Effect: corev1.TaintEffectNoSchedule}}
		node.Status = corev1.NodeStatus{Capacity: room, Allocatable: room}
		must(t, cluster.Create(t.Context(), node))
		t.Cleanup(func() { _ = cluster.Delete(context.Background(), node) })
	}
	kubectl(t, "wait", "--for=condition=Ready", "--timeout=2m", "node", "-l", simulated)
}

// manyFolder is an application of five components of two pods each, with a ConfigMap and a Secret.
func manyFolder(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	all.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: b}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: password}\nstringData: {a: b}\n")
	for i := range 5 {
		fmt.Fprintf(&all, `---
apiVersion: v1
kind: Service
metadata: {name: app-%[1]d}
spec: {selector: {app: app-%[1]d}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app-%[1]d}
spec:
  replicas: 2
  selector: {matchLabels: {app: app-%[1]d}}
  template:
    metadata: {labels: {app: app-%[1]d}}
    spec:
      nodeSelector: {%[2]s: ""}
      tolerations: [{key: %[2]s, operator: Exists}]
      terminationGracePeriodSeconds: 0
      containers: [{name: app, image: example.com/app}]
`, i, simulated)
	}
	return folder(t, map[string]string{"app.yaml": all.String()})
}

// memoryOf says what the process of a controller takes, without those in which it renders.
func memoryOf(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", processOf(t, pod, "dayfly")))
	must(t, err)
	size := func(field string) int {
		_, after, _ := strings.Cut(string(data), "\n"+field+":")
		kib, _ := strconv.Atoi(strings.Fields(after + " 0")[0])
		return kib >> 10
	}
	return fmt.Sprintf("%d MiB resident, of it %d MiB pages of the binary; at most %d MiB", size("VmRSS"), size("RssFile"), size("VmHWM"))
}

// metricsOf asks a pod of dayfly's from its own node, which its network policy lets in.
func metricsOf(t *testing.T, pod *corev1.Pod) series {
	t.Helper()
	out, err := testcluster("exec", pod.Spec.NodeName, "--", binTestapp, "get", "http://"+pod.Status.PodIP+":8081/metrics").Output()
	must(t, err)
	all := series{}
	for line := range strings.Lines(string(out)) {
		at := strings.LastIndex(line, " ")
		if strings.HasPrefix(line, "#") || at < 0 {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		must(t, err)
		all[line[:at]] = v
	}
	return all
}

// sum adds up the series of a name that have all these labels.
func (s series) sum(name string, labels ...string) (out float64) {
	for k, v := range s {
		if strings.HasPrefix(k, name+"{") && !slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(k, l) }) {
			out += v
		}
	}
	return out
}

// passesOf says how many passes over environments a controller has made, and how long they took.
func passesOf(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	m := metricsOf(t, pod)
	const name, ours = "controller_runtime_reconcile_time_seconds", `controller="environments"`
	all := m.sum(name+"_count", ours)
	within := func(le string) float64 { return m.sum(name+"_bucket", ours, `le="`+le+`"`) }
	return fmt.Sprintf("%.0f, %.0f ms on average, %.2f%% within 0.1 s, %.2f%% within 0.5 s, %.0f longer than 1 s, %.0f than 5 s", all, 1000*m.sum(name+"_sum", ours)/max(all, 1),
		100*within("0.1")/max(all, 1), 100*within("0.5")/max(all, 1), all-within("1"), all-within("5"))
}

// callsSince counts, by the API server's audit log, what the controller has asked about environments since a time, itself or as their accounts.
func callsSince(t *testing.T, home string, from time.Time) (says string, all int) {
	t.Helper()
	out, err := testcluster("logs", "audit").Output()
	must(t, err)
	calls := map[string]int{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var e struct {
			Verb                     string
			User                     struct{ Username string }
			ObjectRef                struct{ Namespace, Resource, Name string }
			RequestReceivedTimestamp time.Time
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.User.Username != ofController || e.RequestReceivedTimestamp.Before(from) {
			continue
		}
		if ns := cmp.Or(e.ObjectRef.Namespace, e.ObjectRef.Name); ns == home || strings.HasPrefix(ns, "env-"+home+"-") || e.ObjectRef.Resource == "environments" {
			calls[e.Verb+" "+e.ObjectRef.Resource]++
			all++
		}
	}
	var list []string
	for _, what := range slices.SortedFunc(maps.Keys(calls), func(a, b string) int { return calls[b] - calls[a] }) {
		list = append(list, fmt.Sprintf("%d × %s", calls[what], what))
	}
	return strings.Join(list, ", "), all
}
