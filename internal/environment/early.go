package environment

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// waits says whether a component is not started before another is ready. Needs that were only inferred hold nothing up: what calls
// another mostly starts without it, and what does not is started again (tooEarly). But what runs once would have failed for good,
// and what another does once, such as a seed, is not to be missed.
func (p part) waits(all []part, need string) bool {
	if p.said || p.once() {
		return true
	}
	return slices.ContainsFunc(all, func(other part) bool { return other.name == need && other.once() })
}

// once says whether a component has something that runs to its end, or is made for it elsewhere.
func (p part) once() bool {
	return p.cloned != "" || slices.ContainsFunc(p.members, func(m member) bool { return m.kind == "Job" || m.kind == "Pod" })
}

// knownTime is how long after a pod is ready nodes may not lead to it yet.
const knownTime = 2 * time.Second

// tooEarly are the pods of a component that were started before all that it needs was ready, have failed, and now wait for their
// turn to be started again.
func tooEarly(o *Observed, all []part, p part) []*unstructured.Unstructured {
	var complete time.Time
	for _, other := range all {
		if !slices.Contains(p.needs, other.name) {
			continue
		}
		for _, pod := range podsOfPart(o, other) {
			for _, c := range pod.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && c.LastTransitionTime.After(complete) {
					complete = c.LastTransitionTime.Time
				}
			}
		}
	}
	var out []*unstructured.Unstructured
	for _, pod := range podsOfPart(o, p) {
		if p.said || p.once() || complete.IsZero() || !waitsItsTurn(&pod, complete.Add(knownTime)) {
			continue
		}
		out = append(out, podObject(&pod))
	}
	return out
}

// podObject is a pod as what is to be removed: this one, and no other of its name.
func podObject(p *corev1.Pod) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("v1")
	u.SetKind("Pod")
	u.SetName(p.Name)
	u.SetUID(p.UID)
	return u
}

// waitsItsTurn says whether a container that was started before a time has failed, and waits to be started again.
func waitsItsTurn(p *corev1.Pod, before time.Time) bool {
	return slices.ContainsFunc(slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses), func(c corev1.ContainerStatus) bool {
		t := c.State.Terminated
		if w := c.State.Waiting; w != nil && w.Reason == "CrashLoopBackOff" {
			t = c.LastTerminationState.Terminated
		}
		return t != nil && t.ExitCode != 0 && !t.StartedAt.After(before)
	})
}

func podsOfPart(o *Observed, p part) []corev1.Pod {
	var out []corev1.Pod
	for _, m := range p.members {
		if live := o.Live[m.key]; live != nil {
			out = append(out, podsOf(o, live)...)
		}
	}
	return out
}
