package environment

import (
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func guessed() []source.Component {
	cs := shop()
	cs[1].Said = false
	return cs
}

// Needs that were only inferred hold nothing up, unless what has them, or what they are of, runs once.
func TestInferredNeedsHoldNothingUp(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]source.Component)
		want   string
	}{
		"inferred":            {func([]source.Component) {}, "Hold MakeNamespace Guard Apply Apply"}, // what all share, and then everything
		"declared":            {func(cs []source.Component) { cs[1].Said = true }, "Hold MakeNamespace Guard Apply Apply Apply"},
		"what needs is a Job": {func(cs []source.Component) { cs[1].Objects = []*unstructured.Unstructured{aJob("front")} }, "Hold MakeNamespace Guard Apply Apply Apply"},
		"a Job is needed":     {func(cs []source.Component) { cs[2].Objects = append(cs[2].Objects, aJob("seed")) }, "Hold MakeNamespace Guard Apply Apply"},
	} {
		cs := guessed()
		c.change(cs)
		w := newWorld(cs...)
		w.ready = name != "a Job is needed" // then stock never is
		if got := strings.Join(w.passes(), " "); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		front := w.Live[key{"apps", "Deployment", "front"}]
		if name == "a Job is needed" && front != nil {
			t.Errorf("%s: front is there", name)
		}
	}
}

func aJob(name string) *unstructured.Unstructured {
	u := anObject("batch/v1", "Job", name)
	_ = unstructured.SetNestedMap(u.Object, map[string]any{"image": "v1"}, "spec", "template", "spec")
	_ = unstructured.SetNestedSlice(u.Object, []any{map[string]any{"type": "Complete", "status": "True"}}, "status", "conditions")
	return u
}

// A pod that failed before what it calls was there is no failure, and is made anew once that is there: once, and only if it waits
// for its turn.
func TestWhatWasStartedTooEarlyIsStartedAgain(t *testing.T) {
	w := newWorld(guessed()...)
	w.ready = false
	w.passes()
	failed := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "front-1", UID: "p1", Labels: map[string]string{"app": "front"}}}
	failed.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", RestartCount: 2, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, StartedAt: metav1.NewTime(w.Now)}}}}
	w.Pods = []corev1.Pod{failed}
	if got := w.pass(); got != "" || reason(w.Env) != ReasonStarting {
		t.Errorf("while stock is not ready: %q, %s", got, reason(w.Env))
	}
	for _, c := range w.Env.Status.Components {
		if c.Name == "front" && (c.State != v1alpha1.ComponentStarting || !strings.Contains(c.Message, "needs stock")) {
			t.Errorf("front: %+v", c)
		}
	}
	w.Now = w.Now.Add(5 * time.Second)
	ready := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "stock-1", UID: "p2", Labels: map[string]string{"app": "stock"}}}
	ready.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.Now)}}
	w.Pods = append(w.Pods, ready)
	bringUp(w.Live[key{"apps", "Deployment", "stock"}])
	w.Content = w.content
	p := Decide(&w.Observed)
	r, ok := p.Step.(Remove)
	if !ok || len(r.Objects) != 1 || r.Objects[0].GetName() != "front-1" || r.Objects[0].GetUID() != "p1" {
		t.Fatalf("once stock is ready: %T %+v", p.Step, p.Step)
	}
	status := &w.Pods[0].Status.ContainerStatuses[0]
	waiting := *status
	status.State, status.LastTerminationState = waiting.LastTerminationState, corev1.ContainerState{} // as an init container is shown
	if r, ok := Decide(&w.Observed).Step.(Remove); !ok || len(r.Objects) != 1 {
		t.Error("one that is shown as failed, not as waiting, is left to wait")
	}
	*status = waiting
	if c := p.Status.Components[2]; c.Name != "front" || c.State != v1alpha1.ComponentStarting {
		t.Errorf("about to be started again: %+v", c)
	}
	// One that was started since then, when every node knows the way, has a reason of its own; and one that runs has none.
	w.Now = w.Now.Add(knownTime + time.Second)
	w.Pods[0].Status.ContainerStatuses[0].LastTerminationState.Terminated.StartedAt = metav1.NewTime(w.Now)
	if p := Decide(&w.Observed); p.Step != nil {
		t.Errorf("it was started since: %T", p.Step)
	}
	w.Pods[0].Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	if p := Decide(&w.Observed); p.Step != nil {
		t.Errorf("it runs: %T", p.Step)
	}
}
