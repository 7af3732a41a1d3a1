package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// stageResult is what `stage run -o json` says.
type stageResult struct {
	Environment, Namespace, Result, Artifacts string
	ExitCode                                  int
	Kept                                      bool
	Tests                                     struct{ Passed, Failed int }
}

func readStage(t *testing.T, out string) (r stageResult) {
	t.Helper()
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return r
}

// A stage brings an environment up, its command reaches every component and the cluster, and nothing of it is left; what the
// pods printed, and the reports, are.
func TestStageRunsBesideAnEnvironmentOfItsOwn(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	dir := t.TempDir()
	script := `set -e
$GET $DAYFLY_URL_STOREFRONT/api/shop > ` + dir + `/shop
$GET $DAYFLY_URL_CATALOG/products > ` + dir + `/products
echo '<testsuite><testcase name="buys"/><testcase name="pays"><failure/></testcase></testsuite>' > ` + dir + `/report.xml
cp $KUBECONFIG ` + dir + `/kubeconfig
echo $DAYFLY_ENVIRONMENT $DAYFLY_NAMESPACE > ` + dir + `/names`
	l.env = append(l.env, "GET="+binTestapp+" get")
	start := time.Now()
	out, says, code := l.try("stage", "run", "test", "-f", "../../examples/shop/deploy", "--junit", dir+"/*.xml", "--artifacts", dir+"/out", "-o", "json", "--", "sh", "-c", script)
	if code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out, says)
	}
	t.Logf("after %v:\n%s", time.Since(start).Round(10*time.Millisecond), says)
	r := readStage(t, out)
	if r.Result != "passed" || r.Tests.Passed != 1 || r.Tests.Failed != 1 || r.Artifacts != dir+"/out" || !strings.HasPrefix(r.Environment, "test-") {
		t.Errorf("%+v", r)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		return string(data)
	}
	if !strings.Contains(read("shop"), "v1") || !strings.Contains(read("products"), `"version": "v1"`) {
		t.Errorf("the components said %s, %s", read("shop"), read("products"))
	}
	if got := read("names"); got != r.Environment+" "+r.Namespace+"\n" {
		t.Errorf("names: %s", got)
	}
	if !strings.Contains(read("kubeconfig"), "namespace: "+r.Namespace) {
		t.Error("the kubeconfig is not of the environment's namespace")
	}
	for _, pattern := range []string{"out/logs/catalog-*.log", "out/logs/storefront-*.log", "out/events.txt", "out/junit/report.xml"} {
		if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) == 0 {
			t.Errorf("there is no %s", pattern)
		}
	}
	if left := environmentsOf(home); len(left) > 0 {
		t.Errorf("left over: %s", left)
	}
	checkNobodySpeaksOf(t, r.Namespace)
	if left, _ := filepath.Glob(filepath.Join(l.state, "dayfly", "stages", "*")); len(left) > 0 {
		t.Errorf("files are left: %s", left)
	}
}

// Whatever ends a stage, it says so by its exit code, and nothing of its environment is left; if the runner itself is told to go,
// it goes at once.
func TestWhateverEndsAStageNothingIsLeft(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	web := webFolder(t, "")
	greedy := folder(t, map[string]string{"web.yaml": appManifest("web", "", "command: [/testapp, serve], resources: {requests: {cpu: 5}}")})
	for _, c := range []struct {
		name   string
		args   []string
		cmd    string
		signal syscall.Signal // to the runner, once the command runs
		code   int
		says   string
		within time.Duration // of the end, in which nothing is left
	}{
		{"fails", nil, "exit 7", 0, 1, "the command ended with exit code 7", 0},
		{"crashes", nil, "kill -SEGV $$", 0, 1, "the command ended with exit code 139", 0},
		{"too-slow", []string{"--timeout", "2s"}, "sleep 100", 0, 1, "the command did not end within 2s", 0},
		{"never-ready", []string{"--image", "web=docker.io/dayfly/testapp:nowhere", "--ready-timeout", "4s"}, "true", 0, 2, "was not ready within 4s", 0},
		{"over-quota", []string{"-f", greedy, "--ready-timeout", "10s"}, "true", 0, 2, "exceeded quota", 0},
		{"not-in-time", []string{"--ttl", "1m"}, "sleep 300", 0, 2, "the environment is being deleted", 0},
		{"interrupted", nil, "sleep 100", syscall.SIGINT, 130, "the cluster takes environment", 60 * time.Second},
		{"terminated", nil, "trap '' TERM; sleep 100", syscall.SIGTERM, 143, "the cluster takes environment", 60 * time.Second},
		{"killed", nil, "sleep 100", syscall.SIGKILL, -1, "", 120 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			args := append([]string{"stage", "run", c.name, "-f", web, "--artifacts", dir}, c.args...)
			cmd := l.command(append(args, "--", "sh", "-c", "touch "+dir+"/runs; "+c.cmd)...)
			said, err := os.Create(filepath.Join(dir, "said")) // no pipe: what outlives a runner that is killed would hold it
			must(t, err)
			defer said.Close()
			cmd.Stdout, cmd.Stderr = said, said
			must(t, cmd.Start())
			var told time.Time
			if c.signal != 0 {
				await(t, time.Minute, "the command runs", func() error { _, err := os.Stat(dir + "/runs"); return err })
				told = time.Now()
				must(t, cmd.Process.Signal(c.signal))
			}
			err = cmd.Wait()
			says, _ := os.ReadFile(said.Name())
			ended := time.Now()
			if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != c.code {
				t.Errorf("%v, want exit code %d\n%s", err, c.code, says)
			}
			if took := ended.Sub(told); c.signal != 0 && took > promise(2*time.Second) {
				t.Errorf("the runner went %v after it was told", took)
			}
			if !strings.Contains(string(says), c.says) {
				t.Errorf("it does not say %q:\n%s", c.says, says)
			}
			if c.signal != syscall.SIGKILL && c.name != "not-in-time" { // there, nothing is left to be kept
				if found, _ := filepath.Glob(filepath.Join(dir, "events.txt")); len(found) == 0 {
					t.Error("nothing was kept")
				}
			}
			await(t, promise(c.within)+time.Second, "nothing is left", func() error {
				var list v1alpha1.EnvironmentList
				if err := cluster.List(t.Context(), &list, client.InNamespace(home), client.MatchingLabels{"dayfly.dev/stage": c.name}); err != nil {
					return err
				}
				if len(list.Items) > 0 {
					return fmt.Errorf("%s: %+v", list.Items[0].Name, list.Items[0].Status.Conditions)
				}
				return nil
			})
			t.Logf("nothing was left %v after the runner had ended", time.Since(ended).Round(10*time.Millisecond))
		})
	}
}

// The runner is told to go, or is killed, at each point of a stage: it goes at once, and the cluster takes down what there is.
func TestRunnerMayGoAtAnyPointOfAStage(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	web := webFolder(t, "")
	environmentOf := func(stage string) *v1alpha1.Environment {
		var list v1alpha1.EnvironmentList
		must(t, cluster.List(context.Background(), &list, client.InNamespace(home), client.MatchingLabels{"dayfly.dev/stage": stage}))
		if len(list.Items) == 0 {
			return nil
		}
		return &list.Items[0]
	}
	points := []struct {
		name    string
		reached func(e *v1alpha1.Environment) bool
	}{
		{"begun", func(*v1alpha1.Environment) bool { return true }},
		{"making", func(e *v1alpha1.Environment) bool { return len(e.Status.Inventory) > 0 }},
		{"ready", func(e *v1alpha1.Environment) bool { return e.Status.Revisions.Ready != "" }},
		{"ending", func(e *v1alpha1.Environment) bool { return !e.DeletionTimestamp.IsZero() }},
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		for _, point := range points {
			stage := strings.ToLower(strings.ReplaceAll(signal.String(), " ", "-")) + "-" + point.name
			t.Run(stage, func(t *testing.T) {
				t.Parallel()
				said, err := os.Create(filepath.Join(t.TempDir(), "said"))
				must(t, err)
				defer said.Close()
				cmd := l.command("stage", "run", stage, "-f", web, "--artifacts", t.TempDir(), "--", "sleep", "1")
				cmd.Stdout, cmd.Stderr = said, said
				must(t, cmd.Start())
				for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
					if e := environmentOf(stage); e != nil && point.reached(e) {
						break
					}
					if time.Since(begun) > time.Minute {
						t.Fatal("the point is not reached")
					}
				}
				told := time.Now()
				must(t, cmd.Process.Signal(signal))
				_ = cmd.Wait()
				if took := time.Since(told); took > promise(2*time.Second) {
					says, _ := os.ReadFile(said.Name())
					t.Errorf("the runner went %v after it was told:\n%s", took, says)
				}
				await(t, promise(120*time.Second), "nothing is left", func() error {
					if e := environmentOf(stage); e != nil {
						return fmt.Errorf("%s: %+v", e.Name, e.Status.Conditions)
					}
					return nil
				})
				t.Logf("nothing was left %v after the runner had gone", time.Since(told).Round(10*time.Millisecond))
			})
		}
	}
}

// A finalizer that holds up the end is named, by the exit code too, and nothing is left once it is gone.
func TestStageSaysWhatHoldsUpItsEnd(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	_, says, code := l.try("stage", "run", "held", "-f", webFolder(t, "example.com/held"), "--artifacts", t.TempDir(), "--teardown-timeout", "20s", "--", "true")
	if code != 3 || !strings.Contains(says, "configmap/settings") || !strings.Contains(says, "example.com/held") {
		t.Errorf("exit code %d, want 3\n%s", code, says)
	}
	for _, name := range environmentsOf(home) {
		kubectl(t, "-n", "env-"+home+"-"+name, "patch", "configmap", "settings", "--type", "json", "-p", `[{"op": "remove", "path": "/metadata/finalizers"}]`)
	}
	await(t, promise(120*time.Second), "nothing is left", func() error {
		if left := environmentsOf(home); len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return nil
	})
}

// A matrix is a stage for each combination, each with its own environment and values; the worst result counts.
func TestStageMatrix(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	web := webFolder(t, "")
	data, err := os.ReadFile(filepath.Join(web, "dayfly.yaml"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(web, "dayfly.yaml"), append(data, "  parameters: {type: object, properties: {db: {type: integer, default: 1}}}\n"...), 0o600))
	dir := t.TempDir()
	script := "echo runs $DAYFLY_MATRIX_DB in $DAYFLY_NAMESPACE; echo \"<testsuite><testcase name='a'/></testsuite>\" > " + dir + "/$DAYFLY_MATRIX_DB.xml; test $DAYFLY_MATRIX_DB != 16"
	out, says, code := l.try("stage", "run", "m", "-f", web, "--matrix", "db=15,16,17", "--parallel", "2", "--junit", dir+"/{db}.xml", "--artifacts", dir+"/out", "-o", "json", "--", "sh", "-c", script)
	var list struct{ Items []stageResult }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Items) != 3 || code != 1 {
		t.Fatalf("exit code %d, %v\n%s\n%s", code, err, out, says)
	}
	for i, want := range []string{"passed", "failed", "passed"} {
		r := list.Items[i]
		if r.Result != want || r.Tests.Passed != 1 || !strings.Contains(says, fmt.Sprintf("db=%d | runs %d in %s\n", 15+i, 15+i, r.Namespace)) {
			t.Errorf("%+v, want %s", r, want)
		}
		if found, _ := filepath.Glob(fmt.Sprintf("%s/out/db=%d/logs/web-*.log", dir, 15+i)); len(found) == 0 {
			t.Errorf("no logs are kept of stage %d", i)
		}
	}
	if left := environmentsOf(home); len(left) > 0 || t.Failed() {
		t.Errorf("left over: %s\n%s", left, says)
	}
	if _, says, code := l.try("stage", "run", "m", "-f", web, "--matrix", "nonsense=1,2", "--", "true"); code == 0 || !strings.Contains(says, "nonsense") {
		t.Errorf("a parameter that there is none of: exit code %d\n%s", code, says)
	}
}

// The stages of a file run beside each other, each after those that it needs; what needs one that failed is skipped.
func TestPipelineOfStages(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	web := webFolder(t, "")
	dir := filepath.Dir(web)
	file := filepath.Join(dir, "pipeline.yaml")
	stage := func(name, run, needs string) string {
		return fmt.Sprintf("  - {name: %s, file: \"%s\", run: '%s', needs: [%s]}\n", name, filepath.Base(web), run, needs)
	}
	must(t, os.WriteFile(file, []byte("apiVersion: cli.dayfly.dev/v1\nkind: Pipeline\nstages:\n"+
		stage("first", "touch "+dir+"/first", "")+stage("beside", "exit 3", "")+stage("after", "test -e "+dir+"/first && echo $DAYFLY_NAMESPACE", "first")+
		stage("never", "touch "+dir+"/never", "beside, first")), 0o600))
	out, says, code := l.try("pipeline", "run", "-f", file, "--artifacts", dir+"/out", "-o", "json")
	var list struct{ Items []stageResult }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Items) != 4 || code != 1 {
		t.Fatalf("exit code %d, %v\n%s\n%s", code, err, out, says)
	}
	for i, want := range []string{"passed", "failed", "passed", "skipped: beside has not passed"} {
		if r := list.Items[i]; r.Result != want {
			t.Errorf("%+v, want %s", r, want)
		}
	}
	if !strings.Contains(says, "after | "+list.Items[2].Namespace+"\n") {
		t.Errorf("it says\n%s", says)
	}
	if _, err := os.Stat(dir + "/never"); err == nil {
		t.Error("what needs one that failed has run")
	}
	if found, _ := filepath.Glob(dir + "/out/beside/logs/web-*.log"); len(found) == 0 {
		t.Error("no logs are kept of the one that failed")
	}
	if left := environmentsOf(home); len(left) > 0 {
		t.Errorf("left over: %s", left)
	}
}

// What fails can be kept to be looked at; it ends by itself.
func TestStageThatFailsIsKept(t *testing.T) {
	t.Parallel()
	home, l := newHome(t)
	out, says, code := l.try("stage", "run", "look", "-f", webFolder(t, ""), "--artifacts", t.TempDir(), "--keep-on-failure", "30m", "-o", "json", "--", "false")
	r := readStage(t, out)
	if code != 1 || !r.Kept || r.Result != "failed" || !strings.Contains(says, "is kept for 30m0s") {
		t.Errorf("exit code %d\n%s%s", code, out, says)
	}
	e := getEnv(t, home, r.Environment)
	if left := time.Until(e.CreationTimestamp.Add(e.Spec.TTL.Duration)); e.Spec.Lease != nil || left < 29*time.Minute || left > 30*time.Minute+2*time.Second { // the API server counts whole seconds
		t.Errorf("it has a lease (%v), or ends in %v", e.Spec.Lease, left)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"stage", "run", "x", "-f", "nowhere", "--", "true"}, "-f nowhere is no folder"},
		{[]string{"stage", "run", "x", "--", "true"}, "there is nothing to make an environment from"},
		{[]string{"stage", "run", "x", "-f", "."}, "a command after --"},
		{[]string{"stage", "run", "x", "-f", ".", "--", "no-such-command"}, "the command cannot be started"},
	} {
		if _, says, code := l.try(c.args...); code != 2 || !strings.Contains(says, c.says) {
			t.Errorf("%s: exit code %d, want 2 and %q:\n%s", c.args, code, c.says, says)
		}
	}
}
