package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// stagePoint is where a stage is when something happens to it, and what holds it there.
type stagePoint struct {
	name    string
	probe   string // of its pod: how long it is not ready yet
	grace   int    // of its pod, in seconds
	serve   string // and how long it goes on when it is to end
	command string
	reached func(e *v1alpha1.Environment) bool
}

// stagePoints are all but the first, which is that there is an Environment.
var stagePoints = []stagePoint{
	{"making", ", initialDelaySeconds: 30", 1, "", "sleep 1", func(e *v1alpha1.Environment) bool { return len(e.Status.Inventory) > 0 }},
	{"ready", "", 1, "", "sleep 30", func(e *v1alpha1.Environment) bool { return e.Status.Revisions.Ready != "" }},
	{"ending", "", 40, ", -linger, 30s", "true", func(e *v1alpha1.Environment) bool { return !e.DeletionTimestamp.IsZero() }},
}

// What a stage rests on fails at each point of it. The runner says what it knows: 3 if something may be left, and only then, and what was
// printed is kept wherever it could be read. Nothing is left in the end. All points are hit by the same fault. `make stages` has every
// fault; otherwise it is the controller alone that is killed. Not parallel: it shakes others as well.
func TestFaultsAtAnyPointOfAStage(t *testing.T) {
	shakes(t)
	for _, fault := range []struct {
		name   string
		always bool
		code   int                                   // of the runners
		strike func(t *testing.T) (mend func())      // mend returns once the fault is over
		during func(t *testing.T, stages []*atPoint) // while it lasts; nil: it is over at once
	}{
		{"controller-killed", true, 0, func(t *testing.T) func() {
			killPod(t, leadingController(t))
			return func() {}
		}, nil},
		{"api-server-away", false, 0, func(t *testing.T) func() {
			back := takeAPIServerAway(t)
			return func() { back() }
		}, func(*testing.T, []*atPoint) { time.Sleep(apiServerAway) }},
		{"node-lost", false, 3, func(t *testing.T) func() {
			power(t, "kill", faultyNode)
			t.Cleanup(func() { _ = testcluster("node", "start", faultyNode).Run() })
			return func() { power(t, "start", faultyNode) }
		}, awaitNamed},
	} {
		if !fault.always && os.Getenv("STAGES") != "all" {
			continue
		}
		t.Run(fault.name, func(t *testing.T) {
			home, l := newHome(t)
			var stages []*atPoint
			for _, p := range stagePoints {
				stages = append(stages, startStage(t, l, home, p, fault.name == "node-lost"))
			}
			for _, s := range stages {
				s.reach(t)
			}
			begun := startStage(t, l, home, stagePoint{"begun", "", 1, "", "sleep 1", func(*v1alpha1.Environment) bool { return true }}, fault.name == "node-lost")
			begun.reach(t) // it does not stay there
			stages = append(stages, begun)
			mend := fault.strike(t)
			if fault.during != nil {
				fault.during(t, stages)
			}
			mend()
			over := time.Now()
			for _, s := range stages {
				t.Run(s.name, func(t *testing.T) { s.judge(t, over, fault.code) })
			}
			if left := environmentsOf(home); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// faultyNode is the one that is lost.
const faultyNode = "node-2"

// atPoint is a stage under way.
type atPoint struct {
	stagePoint
	home, lives string // the namespaces
	artifacts   string
	said        string // the file in which it is
	wait        func() (code int)
	ended       time.Time
}

// startStage runs a stage that stays at a point.
func startStage(t *testing.T, l *laptop, home string, p stagePoint, pinned bool) *atPoint {
	t.Helper()
	s := &atPoint{stagePoint: p, home: home, artifacts: t.TempDir()}
	s.said = filepath.Join(s.artifacts, "said")
	said, err := os.Create(s.said)
	must(t, err)
	args := []string{"stage", "run", s.name, "-f", stageFolder(t, p, pinned), "--artifacts", s.artifacts}
	if pinned { // the node is away for longer than it waits
		args = append(args, "--ready-timeout", "20s", "--teardown-timeout", "60s")
	} else {
		args = append(args, "--teardown-timeout", "5m")
	}
	cmd := l.command(append(args, "--", "sh", "-c", p.command)...)
	cmd.Stdout, cmd.Stderr = said, said
	must(t, cmd.Start())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer said.Close()
		_ = cmd.Wait()
		s.ended = time.Now()
	}()
	s.wait = sync.OnceValue(func() int {
		<-done
		return cmd.ProcessState.ExitCode()
	})
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	return s
}

// reach waits until the stage is at its point.
func (s *atPoint) reach(t *testing.T) {
	t.Helper()
	await(t, promise(20*time.Second), s.name, func() error {
		e := s.environment()
		if e == nil || !s.reached(e) {
			return fmt.Errorf("the point is not reached")
		}
		s.lives = "env-" + s.home + "-" + e.Name
		return nil
	})
}

// stageFolder is testapp as the point needs it, on the node that is to be lost, if so.
func stageFolder(t *testing.T, p stagePoint, pinned bool) string {
	t.Helper()
	where := ""
	if pinned {
		where = "\n      nodeSelector: {kubernetes.io/hostname: " + faultyNode + "}"
	}
	web := appManifest("web", "", "command: [/testapp, serve"+p.serve+"], readinessProbe: {periodSeconds: 1, httpGet: {path: /, port: 8080}"+p.probe+"}")
	web = strings.Replace(web, "terminationGracePeriodSeconds: 1", fmt.Sprint("terminationGracePeriodSeconds: ", p.grace, where), 1)
	return folder(t, map[string]string{"web.yaml": web})
}

// environment is that of the stage; nil if there is none, or nobody can tell.
func (s *atPoint) environment() *v1alpha1.Environment {
	var list v1alpha1.EnvironmentList
	if cluster.List(context.Background(), &list, client.InNamespace(s.home), client.MatchingLabels{"dayfly.dev/stage": s.name}) != nil || len(list.Items) == 0 {
		return nil
	}
	return &list.Items[0]
}

// awaitNamed waits until every runner has given up on the lost node: what is asked to end and does not is named within a minute.
func awaitNamed(t *testing.T, stages []*atPoint) {
	for _, s := range stages {
		await(t, promise(2*time.Minute), s.name+": what holds up the end is named, or it has ended", func() error {
			e := s.environment()
			if e == nil {
				return nil // it had no pod yet
			}
			for _, b := range e.Status.Blocked {
				if strings.HasPrefix(b.Object, "pod/web-") && strings.HasSuffix(b.Object, "on node "+faultyNode) {
					took := time.Since(e.DeletionTimestamp.Time)
					t.Logf("%s: %s: seen %v after it was to end", s.name, b.Object, took.Round(time.Second))
					return nil
				}
			}
			return fmt.Errorf("%+v", e.Status)
		})
	}
	for _, s := range stages {
		s.wait()
	}
}

// judge holds a stage against what was promised, once the fault is over.
func (s *atPoint) judge(t *testing.T, over time.Time, want int) {
	code := s.wait()
	data, err := os.ReadFile(s.said)
	must(t, err)
	says := string(data)
	proved := strings.Contains(says, "nothing of it is left")
	if want == 3 && proved { // it had no pod yet that could hold it up
		want = 2
	}
	if code != want || (code == 3) == proved {
		t.Errorf("exit code %d, want %d\n%s", code, want, says)
	}
	if want == 0 {
		for _, pattern := range []string{"events.txt", "logs/web-*.log"} {
			if found, _ := filepath.Glob(filepath.Join(s.artifacts, pattern)); len(found) == 0 {
				t.Errorf("no %s was kept:\n%s", pattern, says)
			}
		}
	}
	await(t, promise(120*time.Second), "nothing is left", func() error {
		if err := cluster.Ping(context.Background()); err != nil {
			return err
		}
		if e := s.environment(); e != nil {
			return fmt.Errorf("%s: %+v", e.Name, e.Status.Conditions)
		}
		if err := cluster.Get(context.Background(), client.ObjectKey{Name: s.lives}, &corev1.Namespace{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("its namespace: %v", err)
		}
		return nil
	})
	t.Logf("exit code %d; the runner ended %v, and nothing was left %v after the fault was over", code, s.ended.Sub(over).Round(100*time.Millisecond), time.Since(over).Round(100*time.Millisecond))
}
