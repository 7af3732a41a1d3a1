package environment

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// annotationHash on an object of an environment is the hash of what was applied.
const annotationHash = "dayfly.dev/applied"

// part is a component: what must be there of it.
type part struct {
	name    string
	needs   []string
	said    bool // somebody has declared the needs
	health  *source.Health
	data    string // the class of what it keeps; "": nothing is said of it
	cloned  string // the database elsewhere that it keeps it in; "": none
	members []member
}

// member is one object of a component.
type member struct {
	key
	object *unstructured.Unstructured // to be applied; nil where the content is not known: then it is enough that it is there
	step   string                     // of the component's data that it is, as source.Steps has it; "": none
	of     string                     // for a step: what it must have been done to; "": it is not all there yet
	rests  bool                       // for a step: the environment is asleep
	clone  *source.Clone              // what the database is a copy of that it opens; nil: it opens none
	shut   bool                       // it opens one, and how is not known
}

// parts are the components in an order in which each comes after those that it needs.
func parts(o *Observed) []part {
	var out []part
	for _, c := range o.Content {
		p := part{name: c.Name, needs: c.Needs, said: c.Said, health: c.Health, data: classOf(o, c)}
		for _, obj := range c.Objects {
			p.members = append(p.members, member{key: keyOf(obj), object: obj, step: stepOf(obj), clone: source.CloneOf(obj)})
		}
		out = append(out, p)
	}
	if o.Content == nil {
		for _, c := range o.Env.Status.Components {
			p := part{name: c.Name, needs: c.Needs, data: c.Data}
			for _, i := range o.Env.Status.Inventory {
				if i.Component == c.Name {
					p.members = append(p.members, member{key: itemKey(i), step: stepOf(o.Live[itemKey(i)]), clone: source.CloneOf(o.Live[itemKey(i)])})
				}
			}
			out = append(out, p)
		}
	}
	for i := range out {
		out[i].open(o)
		out[i].follow(o)
	}
	depth := depths(out)
	slices.SortStableFunc(out, func(a, b part) int { return cmp.Or(depth[a.name]-depth[b.name], strings.Compare(a.name, b.name)) })
	return out
}

// depths are the lengths of the longest chains of needs. What all share comes before everything.
func depths(ps []part) map[string]int {
	out := map[string]int{}
	for range ps { // no chain is longer than there are components
		for _, p := range ps {
			if p.name == source.Shared {
				continue
			}
			out[p.name] = max(out[p.name], 1)
			for _, n := range p.needs {
				out[p.name] = max(out[p.name], out[n]+1)
			}
		}
	}
	return out
}

func itemKey(i v1alpha1.InventoryItem) key {
	return key{schema.FromAPIVersionAndKind(i.APIVersion, i.Kind).Group, i.Kind, i.Name}
}

// applied says whether an object is in the cluster as it is to be.
func applied(o *Observed, m member) bool {
	live := o.Live[m.key]
	if m.step != "" {
		return m.rests || m.of != "" && live != nil && live.GetDeletionTimestamp() == nil && m.doneTo(live)
	}
	return live != nil && live.GetDeletionTimestamp() == nil && !m.shut && (m.object == nil || live.GetAnnotations()[annotationHash] == hashOf(m.object)) && !drifted(o, m.key)
}

// allReady says whether every component of what was applied is ready.
func allReady(o *Observed) bool {
	for _, p := range parts(o) {
		if s, _ := judge(o, p); s != v1alpha1.ComponentReady {
			return false
		}
	}
	return true
}

// judge says how a component stands of which everything that can be is applied.
func judge(o *Observed, p part) (v1alpha1.ComponentState, string) {
	worst, says := v1alpha1.ComponentReady, ""
	for _, m := range p.members {
		state, message := judgeOne(o, m)
		if state == v1alpha1.ComponentFailing && worst != state || state == v1alpha1.ComponentStarting && worst == v1alpha1.ComponentReady {
			worst, says = state, message
		}
	}
	if wrong := o.Health[p.name]; worst == v1alpha1.ComponentReady && wrong != "" {
		return v1alpha1.ComponentStarting, wrong
	}
	return worst, says
}

func judgeOne(o *Observed, m member) (v1alpha1.ComponentState, string) {
	if m.rests {
		return v1alpha1.ComponentReady, ""
	}
	if !applied(o, m) {
		if r, ok := o.Refused[m.key]; ok && m.object != nil && r.hash == hashOf(m.object) {
			return v1alpha1.ComponentFailing, fmt.Sprintf("%s is refused: %s", m.key, clean(r.why))
		}
		if o.Live[m.key] != nil && o.Live[m.key].GetDeletionTimestamp() != nil {
			return v1alpha1.ComponentStarting, fmt.Sprintf("%s is being deleted", m.key)
		}
		if m.clone != nil { // what opens it only memory holds until it is applied: a word in between would be a write, and may be the last
			return o.cloneState(m)
		}
		if m.step != "" && m.of == "" {
			return v1alpha1.ComponentStarting, fmt.Sprintf("%s waits for what it is to be done to", m.key)
		}
		return v1alpha1.ComponentStarting, fmt.Sprintf("%s is being applied", m.key)
	}
	live := o.Live[m.key]
	state, message := readiness(live)
	if old := ending(o, live); state == v1alpha1.ComponentReady && m.object != nil && old != "" {
		return v1alpha1.ComponentStarting, fmt.Sprintf("%s: pod/%s is ending, and may still be asked", m.key, old)
	}
	if state == v1alpha1.ComponentReady {
		return state, ""
	}
	says := fmt.Sprintf("%s: %s", m.key, message)
	if why := trouble(o, live); why != "" {
		state, says = v1alpha1.ComponentFailing, fmt.Sprintf("%s: %s", m.key, why)
	}
	return state, says + lastEvents(o, live)
}

// readiness reads one live object as kstatus does, but a Job is ready when it is done, and a claim when it is there: what it is
// for says whether it can be bound.
func readiness(u *unstructured.Unstructured) (v1alpha1.ComponentState, string) {
	if u.GetKind() == "PersistentVolumeClaim" {
		return v1alpha1.ComponentReady, ""
	}
	r, err := status.Compute(u)
	if err != nil {
		return v1alpha1.ComponentStarting, clean(err.Error())
	}
	if u.GetKind() == "Job" && r.Status == status.CurrentStatus && !strings.HasPrefix(r.Message, "Job Completed") {
		return v1alpha1.ComponentStarting, r.Message
	}
	switch r.Status {
	case status.CurrentStatus:
		return v1alpha1.ComponentReady, ""
	case status.FailedStatus:
		return v1alpha1.ComponentFailing, clean(r.Message)
	}
	return v1alpha1.ComponentStarting, clean(r.Message)
}

// waits are the reasons for which a container waits that seldom go by themselves.
var waits = []string{"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
	"CreateContainerError", "RunContainerError", "CrashLoopBackOff"}

// unschedulableFor is how long a pod may find no node before that is called a failure.
const unschedulableFor = 10 * time.Second

// trouble says why a workload is not ready, if that seldom goes by itself.
func trouble(o *Observed, u *unstructured.Unstructured) string {
	for _, c := range conditionsOf(u) {
		if c["type"] == "ReplicaFailure" && c["status"] == "True" {
			return clean(fmt.Sprint(c["message"]))
		}
	}
	for _, p := range podsOf(o, u) {
		if why := troubleOfPod(o.Now, &p); why != "" {
			return fmt.Sprintf("pod/%s: %s", p.Name, why)
		}
	}
	return ""
}

func troubleOfPod(now time.Time, p *corev1.Pod) string {
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		w := c.State.Waiting
		if w == nil || !slices.Contains(waits, w.Reason) {
			continue
		}
		if t := c.LastTerminationState.Terminated; t != nil && w.Reason == "CrashLoopBackOff" { // its message may be what the program printed
			return fmt.Sprintf("container %s has ended %d times, the last time with exit code %d (%s)", c.Name, c.RestartCount, t.ExitCode, clean(t.Reason))
		}
		return fmt.Sprintf("container %s: %s: %s", c.Name, w.Reason, clean(w.Message))
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable &&
			now.Sub(c.LastTransitionTime.Time) > unschedulableFor {
			return "no node takes it: " + clean(c.Message)
		}
	}
	return ""
}

// ending is a pod of a workload that is going: nodes may send it requests until it is gone.
func ending(o *Observed, u *unstructured.Unstructured) string {
	for _, p := range selected(o, u) {
		if !p.DeletionTimestamp.IsZero() {
			return p.Name
		}
	}
	return ""
}

// podsOf are the pods of a workload that are to stay.
func podsOf(o *Observed, u *unstructured.Unstructured) []corev1.Pod {
	return slices.DeleteFunc(selected(o, u), func(p corev1.Pod) bool { return !p.DeletionTimestamp.IsZero() })
}

// selected are the pods that a workload selects.
func selected(o *Observed, u *unstructured.Unstructured) []corev1.Pod {
	if u.GetKind() == "Pod" {
		return slices.DeleteFunc(slices.Clone(o.Pods), func(p corev1.Pod) bool { return p.Name != u.GetName() })
	}
	raw, ok, _ := unstructured.NestedMap(u.Object, "spec", "selector")
	if !ok || u.GetKind() == "Service" {
		return nil
	}
	var s metav1.LabelSelector
	if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &s) != nil {
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(&s)
	if err != nil || selector.Empty() {
		return nil
	}
	var out []corev1.Pod
	for _, p := range o.Pods {
		if selector.Matches(labels.Set(p.Labels)) {
			out = append(out, p)
		}
	}
	return out
}

func conditionsOf(u *unstructured.Unstructured) []map[string]any {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	var out []map[string]any
	for _, c := range list {
		if m, ok := c.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// mostEvents are told of one object.
const mostEvents = 2

// lastEvents are the last warnings about a workload and what it made, whose names begin with its own.
func lastEvents(o *Observed, u *unstructured.Unstructured) string {
	var mine []corev1.Event
	for _, e := range o.Events {
		name := e.InvolvedObject.Name
		if e.Type == corev1.EventTypeWarning && (name == u.GetName() && e.InvolvedObject.Kind == u.GetKind() || strings.HasPrefix(name, u.GetName()+"-")) {
			mine = append(mine, e)
		}
	}
	slices.SortFunc(mine, func(a, b corev1.Event) int { return happened(b).Compare(happened(a)) })
	var out []string
	for _, e := range mine {
		text := clean(e.Reason + ": " + e.Message)
		if len(out) < mostEvents && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "; events: " + strings.Join(out, "; ")
}

// happened is when an event was last seen.
func happened(e corev1.Event) time.Time {
	if e.Series != nil {
		return e.Series.LastObservedTime.Time
	}
	return slices.MaxFunc([]time.Time{e.LastTimestamp.Time, e.EventTime.Time, e.CreationTimestamp.Time}, time.Time.Compare)
}

const longestText = 300

// clean bounds what others wrote, and takes from it what a terminal would obey.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if r := []rune(s); len(r) > longestText {
		return string(r[:longestText]) + "…"
	}
	return s
}

func lower(kind string) string { return strings.ToLower(kind) }
