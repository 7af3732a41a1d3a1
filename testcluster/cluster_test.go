package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/testcluster/internal/build"
	"dayfly.dev/dayfly/testcluster/internal/cluster"
)

// TestCluster drives the command on a cluster of its own, from nothing to nothing.
func TestCluster(t *testing.T) {
	needRoot(t)
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			if _, err := exec.LookPath("iptables"); mode == "iptables" && err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal("apt-get install iptables")
				}
				t.Skip("apt-get install iptables")
			}
			c := newTestcluster(t, mode)
			before := host(t)
			t.Run("up survives being killed", c.upSurvivesKill)
			if t.Failed() {
				c.explain(t)
				t.FailNow()
			}
			t.Run("each machine has a network of its own", c.networksAreApart)
			t.Run("up leaves a running cluster alone", c.upIsIdempotent)
			t.Run("up refuses another shape", c.upRefusesOtherShape)
			t.Run("workloads", c.runWorkloads)
			t.Run("pods reach each other, themselves through their Service, and names resolve", c.podsReach)
			t.Run("the API server's proxy reaches a Service", c.apiProxies)
			t.Run("nothing leaves the cluster", c.nothingLeaves)
			t.Run("exec reaches pods", c.execReachesPods)
			t.Run("policies are enforced", c.policiesAreEnforced)
			t.Run("storage is provisioned", c.storageIsProvisioned)
			t.Run("nodes pull what was pushed, by digest", c.nodesPull)
			t.Run("a cut node is joined again", c.cutAndJoin)
			if mode == "nftables" { // once is enough, it takes long
				t.Run("a node without power starts again", c.killAndStart)
			}
			if t.Failed() {
				c.explain(t)
			}
			t.Run("down leaves nothing", func(t *testing.T) { c.downLeavesNothing(t, before) })
		})
	}
}

// needRoot skips, or fails in CI, where clusters cannot be made.
func needRoot(t *testing.T) {
	skip := t.Skip
	if os.Getenv("CI") == "true" {
		skip = t.Fatal
	}
	if testing.Short() {
		t.Skip("-short: takes minutes")
	}
	if os.Geteuid() != 0 {
		skip("only root can make a cluster")
	}
	for _, program := range []string{"runc", "nft", "ip", "/usr/lib/cni/ptp"} {
		if _, err := exec.LookPath(program); err != nil {
			skip("apt-get install --no-install-recommends runc nftables iproute2 containernetworking-plugins: ", err)
		}
	}
}

type testcluster struct {
	binary, dir, mode string
	members           map[string]string // processes of the cluster, with when they started
}

func newTestcluster(t *testing.T, mode string) *testcluster {
	tmp := t.TempDir()
	c := &testcluster{binary: filepath.Join(tmp, "testcluster"), dir: filepath.Join(tmp, "cluster"), mode: mode}
	if out, err := exec.Command("go", "build", "-o", c.binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { c.command("down").Run() }) // a test that failed may not have got there
	return c
}

// command runs as in a shell that is set to another cluster.
func (c *testcluster) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.binary, append([]string{"--dir", c.dir}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(c.dir, "of another cluster"))
	return cmd
}

func (c *testcluster) upCommand(nodes int) *exec.Cmd {
	return c.command("up", "--nodes", strconv.Itoa(nodes), "--proxy-mode", c.mode)
}

// run returns what the command prints.
func (c *testcluster) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := output(c.command(args...))
	if err != nil {
		t.Fatalf("testcluster %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// inPod runs the test server's client in a pod.
func (c *testcluster) inPod(pod string, args ...string) (string, error) {
	return output(c.command(append([]string{"kubectl", "exec", pod, "--", "/testserver"}, args...)...))
}

func output(cmd *exec.Cmd) (string, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), err
}

// eventually asks until there is no complaint.
func eventually(t *testing.T, limit time.Duration, ask func() error) {
	t.Helper()
	began := time.Now()
	for {
		err := ask()
		if err == nil {
			t.Logf("after %s", time.Since(began).Round(time.Millisecond))
			return
		}
		if time.Since(began) > limit {
			t.Fatalf("still after %s: %v", limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// get expects the pod to get the answer from the URL.
func (c *testcluster) get(pod, url, answer string) error {
	out, err := c.inPod(pod, "get", url)
	if err == nil && out != answer {
		err = fmt.Errorf("%s says %q, not %q", url, out, answer)
	}
	return err
}

func (c *testcluster) podIP(t *testing.T, pod string) string {
	t.Helper()
	return c.run(t, "kubectl", "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
}

func (c *testcluster) upSurvivesKill(t *testing.T) {
	for _, delay := range []time.Duration{30 * time.Millisecond, 150 * time.Millisecond, time.Second, 2 * time.Second} {
		up := c.upCommand(2)
		if err := up.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(delay)
		up.Process.Kill()
		up.Wait()
	}
	began := time.Now()
	if _, err := output(c.upCommand(2)); err != nil {
		t.Fatal(err)
	}
	t.Logf("up took %s", time.Since(began).Round(time.Millisecond))
}

// networksAreApart would fail if a machine were seen in the network that it is plugged into: to kill it would kill that.
func (c *testcluster) networksAreApart(t *testing.T) {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{own: "the host"}
	for line := range strings.Lines(c.run(t, "node", "list")) {
		fields := strings.Fields(line)
		if len(fields) != 4 || fields[1] != "on" {
			continue
		}
		ns, err := os.Readlink("/proc/" + fields[2] + "/ns/net")
		if other := seen[ns]; err != nil || other != "" {
			t.Errorf("%s is in the network of %q (%v)", fields[0], other, err)
		}
		seen[ns] = fields[0]
	}
	if len(seen) != 4 {
		t.Errorf("networks: %v", seen)
	}
}

func (c *testcluster) upIsIdempotent(t *testing.T) {
	machines := c.run(t, "node", "list")
	began := time.Now()
	if _, err := output(c.upCommand(2)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %s", took)
	}
	if again := c.run(t, "node", "list"); again != machines {
		t.Errorf("machines were\n%s\nand are\n%s", machines, again)
	}
	c.run(t, "status")
}

func (c *testcluster) upRefusesOtherShape(t *testing.T) {
	if _, err := output(c.upCommand(1)); err == nil || !strings.Contains(err.Error(), "testcluster down") {
		t.Errorf("got %v", err)
	}
}

const workloads = `
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: one}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  containers: [{name: server, image: docker.io/dayfly/testserver:1, args: [serve, ":80"], ports: [{name: http, containerPort: 80}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: near}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 0
  containers: [{name: server, image: docker.io/dayfly/testserver:1, args: [serve, ":80"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 0
  containers: [{name: server, image: docker.io/dayfly/testserver:1, args: [serve, ":80"], ports: [{name: http, containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: one}
spec: {selector: {app: one}, ports: [{port: 8080, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {selector: {app: two}, type: NodePort, ports: [{port: 8080, targetPort: http, nodePort: 30080}]}
`

func (c *testcluster) apply(t *testing.T, manifest string) {
	t.Helper()
	cmd := c.command("kubectl", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if _, err := output(cmd); err != nil {
		t.Fatal(err)
	}
}

func (c *testcluster) runWorkloads(t *testing.T) {
	c.run(t, "load", c.serverImage(t, "docker.io/dayfly/testserver:1"))
	c.apply(t, workloads)
	c.run(t, "kubectl", "wait", "--for=condition=Ready", "--timeout=60s", "pod/one", "pod/two", "pod/near")
}

// serverImage makes an image of the test server that no other name has.
func (c *testcluster) serverImage(t *testing.T, name string) (file string) {
	t.Helper()
	programs, err := build.Paths(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "testserver.tar")
	c.run(t, "image", "-o", file, name, programs["testserver"]+"=/testserver", "--entrypoint", "/testserver", "--env", "NAME="+name)
	return file
}

func (c *testcluster) podsReach(t *testing.T) {
	one, two := "http://"+c.podIP(t, "one"), "http://"+c.podIP(t, "two")
	for _, reach := range []struct{ pod, url, answer, why string }{
		{"one", two, "two", "from node to node"},
		{"two", one, "one", "and back"},
		{"near", one, "one", "on the same node"},
		{"near", "http://one:8080", "one", "through a Service on the same node, by name"},
		{"one", "http://two.default.svc.cluster.local:8080", "two", "through a Service on another node"},
		{"one", "http://one.default:8080", "one", "itself through its Service"},
		{"two", "http://two.default:8080", "two", "itself through its Service, on another node"},
		{"one", "http://10.245.0.11:30080", "two", "through a port of its own node"},
		{"one", "http://10.245.0.12:30080", "two", "through a port of the other node"},
	} {
		if err := c.get(reach.pod, reach.url, reach.answer); err != nil {
			t.Errorf("%s (%s, from %s): %v", reach.why, reach.url, reach.pod, err)
		}
	}
}

func (c *testcluster) apiProxies(t *testing.T) {
	for _, path := range []string{"services/two:8080/proxy/", "pods/one:80/proxy/"} {
		if out := c.run(t, "kubectl", "get", "--raw", "/api/v1/namespaces/default/"+path); out != "two" && out != "one" {
			t.Errorf("%s: %q", path, out)
		}
	}
}

func (c *testcluster) nothingLeaves(t *testing.T) {
	if out, err := c.inPod("one", "resolve", "example.com"); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("example.com: %q, %v", out, err)
	}
	for _, ns := range []string{"control", "node-1"} {
		if routes := c.run(t, "exec", ns, "--", "ip", "route", "show", "default"); routes != "" {
			t.Errorf("%s has a default route: %s", ns, routes)
		}
	}
	if _, err := c.inPod("one", "get", "http://"+c.link(t)+":22"); err == nil || strings.Contains(err.Error(), "refused") {
		t.Errorf("a pod reaches the host: %v", err)
	}
}

// link is the host's address on the cable to control.
func (c *testcluster) link(t *testing.T) string {
	opened, err := cluster.Open(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	return opened.Link.Addr().Next().String()
}

func (c *testcluster) execReachesPods(t *testing.T) {
	programs, err := build.Paths(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, machine := range []string{"control", "node-1", "node-2"} {
		if out := c.run(t, "exec", machine, "--", programs["testserver"], "get", "http://"+c.podIP(t, "two")); out != "two" {
			t.Errorf("from %s: %q", machine, out)
		}
	}
}

const denyAll = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
`

const allowNear = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec:
  podSelector: {matchLabels: {app: one}}
  ingress: [{from: [{podSelector: {matchLabels: {app: near}}}], ports: [{port: http}]}]
`

const denyEgress = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: confine}
spec: {podSelector: {matchLabels: {app: near}}, policyTypes: [Egress]}
`

func (c *testcluster) policiesAreEnforced(t *testing.T) {
	denied := func(pod, url string) func() error {
		return func() error {
			if out, err := c.inPod(pod, "get", url); err == nil {
				return fmt.Errorf("%s reaches %s: %q", pod, url, out)
			}
			return nil
		}
	}
	allowed := func(pod, url, answer string) func() error {
		return func() error { return c.get(pod, url, answer) }
	}
	defer c.run(t, "kubectl", "delete", "networkpolicy", "--all")
	const react = 5 * time.Second // it takes less than one; the machine may be busy
	c.apply(t, denyAll)
	eventually(t, react, denied("near", "http://one:8080"))                         // same node, through the Service
	eventually(t, react, denied("one", "http://"+c.podIP(t, "two")))                // other node
	eventually(t, react, allowed("one", "http://one.default:8080", "one"))          // itself
	c.run(t, "kubectl", "wait", "--for=condition=Ready", "--timeout=5s", "pod/one") // probes and exec pass
	c.apply(t, allowNear)
	eventually(t, react, allowed("near", "http://one:8080", "one"))
	eventually(t, react, denied("two", "http://one:8080"))
	c.apply(t, denyEgress)
	eventually(t, react, denied("near", "http://"+c.podIP(t, "one")))
	c.run(t, "kubectl", "delete", "networkpolicy", "--all")
	eventually(t, react, allowed("near", "http://one:8080", "one"))
	eventually(t, react, allowed("one", "http://two:8080", "two"))
}

const storage = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: stateful}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}
  containers:
    - name: server
      image: docker.io/dayfly/testserver:1
      args: [touch, /disk/file]
      volumeMounts: [{name: disk, mountPath: /disk}]
  restartPolicy: Never
  volumes: [{name: disk, persistentVolumeClaim: {claimName: disk}}]
`

func (c *testcluster) storageIsProvisioned(t *testing.T) {
	c.apply(t, storage)
	c.run(t, "kubectl", "wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=20s", "pod/stateful")
	c.run(t, "kubectl", "delete", "pod/stateful", "pvc/disk")
	eventually(t, 10*time.Second, func() error {
		if left := c.run(t, "kubectl", "get", "pv", "-o", "name"); left != "" {
			return errors.New(left + " is still there")
		}
		return nil
	})
}

const pulled = `
apiVersion: v1
kind: Pod
metadata: {name: pulled}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 0
  containers: [{name: server, image: %q, imagePullPolicy: Always, args: [serve, ":80"]}]
`

func (c *testcluster) nodesPull(t *testing.T) {
	file := c.serverImage(t, "registry.test/dayfly/testserver:1")
	if _, err := output(c.command("push", file, "docker.io/dayfly/testserver:1")); err == nil || !strings.Contains(err.Error(), "registry.test/dayfly/testserver") {
		t.Errorf("a name of another registry: %v", err)
	}
	ref := c.run(t, "push", file, "registry.test/dayfly/testserver:1")
	if !strings.HasPrefix(ref, "registry.test/dayfly/testserver@sha256:") {
		t.Fatalf("push printed %q", ref)
	}
	if again := c.run(t, "push", file, "registry.test/dayfly/testserver:1"); again != ref {
		t.Errorf("pushed again it is %s, and was %s", again, ref)
	}
	c.apply(t, fmt.Sprintf(pulled, ref))
	c.run(t, "kubectl", "wait", "--for=condition=Ready", "--timeout=30s", "pod/pulled")
	if err := c.get("one", "http://"+c.podIP(t, "pulled"), "pulled"); err != nil {
		t.Error(err)
	}
	c.run(t, "kubectl", "delete", "pod/pulled")
}

func (c *testcluster) cutAndJoin(t *testing.T) {
	url := "http://" + c.podIP(t, "two")
	c.run(t, "node", "cut", "node-2")
	if err := c.get("one", url, "two"); err == nil {
		t.Error("a pod of a node without network is reached")
	}
	c.run(t, "node", "join", "node-2")
	eventually(t, 10*time.Second, func() error { return c.get("one", url, "two") })
}

func (c *testcluster) killAndStart(t *testing.T) {
	c.run(t, "node", "kill", "node-2")
	if err := c.get("one", "http://two:8080", "two"); err == nil {
		t.Error("a pod of a node without power is reached")
	}
	ready := func() string {
		return c.run(t, "kubectl", "get", "node", "node-2", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	}
	eventually(t, 60*time.Second, func() error {
		if s := ready(); s != "Unknown" {
			return errors.New("node-2 is dead, but its status is " + s)
		}
		return nil
	})
	c.run(t, "node", "start", "node-2")
	eventually(t, 60*time.Second, func() error { return c.get("one", "http://two:8080", "two") })
	c.run(t, "status")
}

func (c *testcluster) downLeavesNothing(t *testing.T, before map[string]string) {
	c.members = descendants(t, c.run(t, "node", "list"))
	if len(c.members) < 15 {
		t.Errorf("only %d processes found: the test looks in the wrong place", len(c.members))
	}
	opened, err := cluster.Open(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	guest := c.command("exec", "control", "--", "sleep", "1000") // would hold the network
	if err := guest.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	go guest.Wait()
	c.run(t, "down")
	for pid, started := range c.members {
		if startTime(pid) == started {
			t.Errorf("process %s is still there", pid)
		}
	}
	after := host(t)
	for _, what := range []string{"nftables", "addresses", "mounts"} {
		if strings.Contains(after[what], opened.ID) || strings.Contains(after[what], c.dir) {
			t.Errorf("%s are left:\n%s", what, after[what])
		}
	}
	if before["nftables"] != after["nftables"] {
		t.Errorf("nftables were\n%s\nand are\n%s", before["nftables"], after["nftables"])
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/dayfly-" + opened.ID + "*"); len(left) > 0 {
		t.Errorf("cgroups are left: %s", left)
	}
	if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there", c.dir)
	}
}

// host is what a cluster must not change. Other clusters may come and go meanwhile.
func host(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	for what, command := range map[string][]string{
		"nftables": {"nft", "list", "tables"}, "addresses": {"ip", "address"},
		"mounts": {"sh", "-c", "cat /proc/[0-9]*/mountinfo 2>/dev/null | sort -u"},
	} {
		out, err := exec.Command(command[0], command[1:]...).Output()
		if err != nil {
			t.Fatalf("%v: %v", command, err)
		}
		state[what] = string(out)
	}
	return state
}

// descendants returns all processes of the machines in the list.
func descendants(t *testing.T, list string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(list) {
		if fields := strings.Fields(line); len(fields) == 4 && fields[1] == "on" {
			found[fields[2]] = startTime(fields[2])
		}
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for grown := true; grown; {
		grown = false
		for _, stat := range stats {
			pid := filepath.Base(filepath.Dir(stat))
			fields := statFields(pid)
			if fields == nil || found[pid] != "" || found[fields[1]] == "" {
				continue
			}
			found[pid] = startTime(pid)
			grown = true
		}
	}
	return found
}

// startTime tells processes with the same id apart. It is empty if there is none.
func startTime(pid string) string {
	if fields := statFields(pid); fields != nil && fields[0] != "Z" {
		return fields[19]
	}
	return ""
}

// statFields are the fields of /proc/PID/stat from the state on.
func statFields(pid string) []string {
	content, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
}

// explain logs what may tell why a test failed.
func (c *testcluster) explain(t *testing.T) {
	for _, args := range [][]string{
		{"node", "list"}, {"kubectl", "get", "nodes,pods", "-A", "-o", "wide"}, {"kubectl", "get", "events", "-A"},
	} {
		out, err := c.command(args...).CombinedOutput()
		t.Logf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	logs, _ := filepath.Glob(filepath.Join(c.dir, "machines/*/logs/*.log"))
	for _, file := range logs {
		if content, err := os.ReadFile(file); err == nil && !slices.Contains([]string{"audit.log", "containerd.log"}, filepath.Base(file)) {
			t.Logf("%s:\n%s", file, content[max(0, len(content)-1500):])
		}
	}
}
