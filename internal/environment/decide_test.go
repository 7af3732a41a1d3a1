package environment

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func anEnvironment() *v1alpha1.Environment {
	e := &v1alpha1.Environment{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "pr-1", UID: "u1", Generation: 1, CreationTimestamp: metav1.NewTime(t0)}}
	e.Spec = v1alpha1.EnvironmentSpec{Owner: v1alpha1.Owner{Username: "ada"}, Blueprint: "pr-1-000000000000", TTL: metav1.Duration{Duration: time.Hour}}
	return e
}

func anObject(apiVersion, kind, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name}}}
	if kind == "Deployment" {
		_ = unstructured.SetNestedMap(u.Object, map[string]any{"matchLabels": map[string]any{"app": name}}, "spec", "selector")
		_ = unstructured.SetNestedMap(u.Object, map[string]any{"image": "v1"}, "spec", "template", "spec")
		_ = unstructured.SetNestedField(u.Object, int64(1), "spec", "replicas")
	}
	return u
}

// world is a cluster of one environment, in which steps do what they say.
type world struct {
	Observed
	content []source.Component
	made    int               // objects
	ready   bool              // deployments come up
	server  map[string]string // password by the name of a database on a server elsewhere
	class   string            // of what is there
	held    map[key]bool
}

func newWorld(content ...source.Component) *world {
	w := &world{content: content, ready: true, held: map[key]bool{}}
	w.Now, w.Env, w.Live, w.Refused, w.Health = t0.Add(time.Second), anEnvironment(), map[key]*unstructured.Unstructured{}, map[key]refusal{}, map[string]string{}
	return w
}

// pass decides and does, and returns the step's name.
func (w *world) pass() string {
	w.Content = nil
	if !settled(&w.Observed) {
		w.Content = w.content
	}
	p := Decide(&w.Observed)
	w.Env.Status = p.Status
	switch s := p.Step.(type) {
	case nil:
		return ""
	case Hold:
		w.Env.Finalizers = []string{v1alpha1.EnvironmentFinalizer}
	case Release:
		w.Env.Finalizers = nil
	case MakeNamespace:
		w.Namespace = namespaceFor(w.Env, s.Guards, "dayfly-system")
	case Guard:
		w.Guarded = true
	case Apply:
		for _, o := range s.Objects {
			w.apply(o)
		}
	case Remove:
		for _, o := range s.Objects {
			if w.held[keyOf(o)] {
				o.SetDeletionTimestamp(new(metav1.NewTime(w.Now)))
				continue
			}
			delete(w.Live, keyOf(o))
		}
	case Clone:
		for _, c := range s.Databases {
			w.clone(c)
		}
	case Drop:
		for _, c := range s.Databases {
			w.drop(c)
		}
	case RemoveNamespace:
		w.Namespace, w.Guarded, w.Live = nil, false, map[key]*unstructured.Unstructured{}
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", p.Step), "environment.")
}

func (w *world) apply(o *unstructured.Unstructured) {
	live := o.DeepCopy()
	annotations := maps.Clone(o.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationHash] = hashOf(o)
	live.SetAnnotations(annotations)
	live.SetGeneration(1)
	w.made++
	live.SetUID(types.UID(fmt.Sprint("made-", w.made)))
	if o.GetKind() == "Deployment" && w.ready {
		bringUp(live)
	}
	w.Live[keyOf(o)] = live
}

func bringUp(u *unstructured.Unstructured) {
	n, _, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	u.Object["status"] = map[string]any{"observedGeneration": int64(1), "replicas": n, "updatedReplicas": n, "readyReplicas": n, "availableReplicas": n,
		"conditions": []any{map[string]any{"type": "Available", "status": "True"}, map[string]any{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}}}
}

func (w *world) passes() []string {
	var out []string
	for range 30 {
		s := w.pass()
		if s == "" {
			return out
		}
		out = append(out, s)
	}
	return append(out, "and so on")
}

func reason(e *v1alpha1.Environment) string {
	return meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionReady).Reason
}

func shop() []source.Component {
	return []source.Component{
		{Name: "", Objects: []*unstructured.Unstructured{anObject("v1", "ConfigMap", "settings")}},
		{Name: "front", Needs: []string{"stock"}, Said: true, Objects: []*unstructured.Unstructured{anObject("v1", "Service", "front"), anObject("apps/v1", "Deployment", "front")}},
		{Name: "stock", Objects: []*unstructured.Unstructured{anObject("v1", "Service", "stock"), anObject("apps/v1", "Deployment", "stock")}},
	}
}

// What is needed starts first, what runs nothing waits for nobody, and nothing is applied before the guards stand.
func TestEnvironmentIsMadeInTheOrderOfNeeds(t *testing.T) {
	w := newWorld(shop()...)
	got := strings.Join(w.passes(), " ")
	if want := "Hold MakeNamespace Guard Apply Apply Apply"; got != want {
		t.Errorf("steps: %s, want %s", got, want)
	}
	st := w.Env.Status
	if reason(w.Env) != ReasonReady || st.Revisions.Ready == "" || st.Revisions.Ready != st.Revisions.Requested || st.Revisions.Applied != st.Revisions.Requested {
		t.Errorf("status: %+v", st)
	}
	if len(st.Inventory) != 5 {
		t.Errorf("inventory: %+v", st.Inventory)
	}
	w = newWorld(shop()...)
	w.ready = false
	w.passes()
	if w.Live[key{"apps", "Deployment", "stock"}] == nil || w.Live[key{"apps", "Deployment", "front"}] != nil || w.Live[key{"", "Service", "front"}] == nil {
		t.Errorf("with nothing ready there is: %v", slices.Collect(maps.Keys(w.Live)))
	}
	if c := w.Env.Status.Components[len(w.Env.Status.Components)-1]; c.Name != "front" || c.State != v1alpha1.ComponentWaiting || c.Message != "needs stock" {
		t.Errorf("front: %+v", c)
	}
}

// An update is ready only when what it changed has come up and what it no longer has is gone; the revision that was ready stays
// named until then.
func TestUpdateIsNeverReadyTooEarly(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	first := w.Env.Status.Revisions.Ready
	w.Env.Spec.Blueprint, w.Env.Generation = "pr-1-111111111111", 2
	changed := shop()[:2]
	changed[1].Needs = nil
	_ = unstructured.SetNestedField(changed[1].Objects[1].Object, "v2", "spec", "template", "spec", "image")
	w.content = changed
	w.ready = false
	w.passes()
	st := w.Env.Status
	if st.Revisions.Ready != first || st.Revisions.Applied == first || reason(w.Env) != ReasonStarting {
		t.Errorf("while it comes up: %+v, %s", st.Revisions, reason(w.Env))
	}
	if w.Live[key{"apps", "Deployment", "stock"}] == nil {
		t.Error("what is no longer in it went before the new was ready")
	}
	bringUp(w.Live[key{"apps", "Deployment", "front"}])
	w.Pods = []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "front-old", Labels: map[string]string{"app": "front"}, DeletionTimestamp: new(metav1.NewTime(w.Now))}}}
	w.passes()
	if w.Env.Status.Revisions.Ready != first || reason(w.Env) == ReasonReady {
		t.Error("ready while a pod of the old revision may still be asked")
	}
	w.Pods = nil
	w.held[key{"apps", "Deployment", "stock"}] = true
	w.passes()
	if w.Env.Status.Revisions.Ready != first || reason(w.Env) == ReasonReady {
		t.Error("ready while something of the old revision is there")
	}
	delete(w.Live, key{"apps", "Deployment", "stock"})
	w.passes()
	if st := w.Env.Status; st.Revisions.Ready == first || reason(w.Env) != ReasonReady || len(st.Inventory) != 3 {
		t.Errorf("in the end: %+v", st)
	}
}

// An environment falls asleep all at once and wakes in the order of its needs. It is asleep only when no pod is left, and what it
// is made of does not change.
func TestEnvironmentSleepsAndWakesInOrder(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	first, inventory := w.Env.Status.Revisions.Ready, len(w.Env.Status.Inventory)
	w.Env.Spec.Replicas = new(int32(0))
	asleep := shop()
	putToSleep(asleep)
	w.content = asleep
	w.Pods = []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "front-1", Labels: map[string]string{"app": "front"}, DeletionTimestamp: new(metav1.NewTime(w.Now))}}}
	if got := strings.Join(w.passes(), " "); got != "Apply" {
		t.Errorf("falling asleep: %s", got)
	}
	if reason(w.Env) == ReasonAsleep {
		t.Error("asleep while there is a pod")
	}
	w.Pods = nil
	w.passes()
	st := w.Env.Status
	if reason(w.Env) != ReasonAsleep || st.Revisions.Ready != first+"-asleep" || len(st.Inventory) != inventory ||
		meta.IsStatusConditionTrue(st.Conditions, v1alpha1.ConditionReady) || meta.IsStatusConditionTrue(st.Conditions, v1alpha1.ConditionReconciling) {
		t.Errorf("asleep: %s, %+v", reason(w.Env), st)
	}
	for _, c := range st.Components {
		if want := map[bool]v1alpha1.ComponentState{true: v1alpha1.ComponentReady, false: v1alpha1.ComponentAsleep}[c.Name == ""]; c.State != want {
			t.Errorf("component %q is %s", c.Name, c.State)
		}
	}
	for _, name := range []string{"front", "stock"} {
		if n, _, _ := unstructured.NestedInt64(w.Live[key{"apps", "Deployment", name}].Object, "spec", "replicas"); n != 0 {
			t.Errorf("%s has %d replicas", name, n)
		}
	}
	w.Env.Spec.Replicas, w.content, w.ready = nil, shop(), false
	w.passes()
	for name, want := range map[string]int64{"stock": 1, "front": 0} { // which needs stock
		if n, _, _ := unstructured.NestedInt64(w.Live[key{"apps", "Deployment", name}].Object, "spec", "replicas"); n != want {
			t.Errorf("waking: %s has %d replicas, want %d", name, n, want)
		}
	}
	w.ready = true
	bringUp(w.Live[key{"apps", "Deployment", "stock"}])
	w.passes()
	if reason(w.Env) != ReasonReady || w.Env.Status.Revisions.Ready != first {
		t.Errorf("awake: %s, %+v", reason(w.Env), w.Env.Status.Revisions)
	}
}

// An update that is taken back half way is taken back whole, though the revision that is asked for was ready before.
func TestUpdateTakenBackHalfWay(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	first := w.Env.Spec.Blueprint
	w.Env.Spec.Blueprint = "pr-1-111111111111"
	w.content = shop()
	for _, c := range w.content {
		for _, o := range c.Objects {
			set(o, "new", "metadata", "labels", "is")
		}
	}
	w.ready = false
	if got := w.pass(); got != "Apply" {
		t.Fatalf("step %s", got)
	}
	w.Env.Spec.Blueprint, w.content, w.ready = first, shop(), true
	w.passes()
	for k, o := range w.Live {
		if o.GetLabels()["is"] != "" {
			t.Errorf("%s is still the new one", k)
		}
	}
	if reason(w.Env) != ReasonReady {
		t.Errorf("in the end: %s", reason(w.Env))
	}
}

// The last few revisions that were ready are remembered, each once, the newest first; one that never was is not.
func TestHistoryOfWhatWasReady(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	revisions := []string{w.Env.Status.Revisions.Ready}
	next := func(blueprint string, ready bool) {
		w.Env.Spec.Blueprint, w.ready = blueprint, ready
		w.content = shop()
		for _, c := range w.content {
			for _, o := range c.Objects {
				set(o, blueprint, "metadata", "labels", "is")
			}
		}
		w.passes()
		if ready {
			revisions = slices.Insert(slices.DeleteFunc(revisions, func(r string) bool { return r == w.Env.Status.Revisions.Ready }), 0, w.Env.Status.Revisions.Ready)
		}
	}
	for i := range MostPast + 2 {
		next(fmt.Sprintf("pr-1-%d", i), i != 3)
	}
	next("pr-1-5", true) // again
	var got []string
	for _, p := range w.Env.Status.History {
		got = append(got, p.Revision)
	}
	if want := revisions[:MostPast]; !slices.Equal(got, want) {
		t.Errorf("history %v, want %v", got, want)
	}
	w.Env.Spec.Parameters = &runtime.RawExtension{Raw: []byte(`{"a":"` + strings.Repeat("b", mostPastParameters) + `"}`)}
	w.passes()
	if len(w.Env.Status.History) != MostPast || w.Env.Status.History[0].Parameters != nil {
		t.Error("parameters that are too large were remembered")
	}
}

// What somebody changes by hand of what was applied is put back; how often it runs, and what an intercept alters, are not.
func TestDriftIsHealed(t *testing.T) {
	owns := func(manager, op, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationType(op), Time: new(metav1.NewTime(t0)), FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}}
	}
	mine := owns(v1alpha1.EnvironmentManager, "Apply", `{"f:spec":{"f:replicas":{},"f:template":{}}}`)
	for what, c := range map[string]struct {
		after []metav1.ManagedFieldsEntry
		want  string
	}{
		"nothing":                 {[]metav1.ManagedFieldsEntry{mine}, ""},
		"a change by hand":        {[]metav1.ManagedFieldsEntry{owns(v1alpha1.EnvironmentManager, "Apply", `{"f:spec":{"f:replicas":{}}}`), owns("kubectl-edit", "Update", `{"f:spec":{"f:template":{}}}`)}, "Apply"},
		"scaled":                  {[]metav1.ManagedFieldsEntry{owns(v1alpha1.EnvironmentManager, "Apply", `{"f:spec":{"f:template":{}}}`), owns("kubectl", "Update", `{"f:spec":{"f:replicas":{}}}`)}, ""},
		"altered by an intercept": {[]metav1.ManagedFieldsEntry{owns(v1alpha1.EnvironmentManager, "Apply", `{}`), owns(v1alpha1.FieldManager, "Update", `{"f:spec":{"f:template":{}}}`)}, ""},
	} {
		w := newWorld(shop()...)
		w.passes()
		d := w.Live[key{"apps", "Deployment", "stock"}]
		d.SetManagedFields([]metav1.ManagedFieldsEntry{mine})
		w.passes()
		d.SetManagedFields(c.after)
		w.Content = nil
		if !settled(&w.Observed) {
			w.Content = w.content
		}
		p := Decide(&w.Observed)
		got := strings.TrimPrefix(fmt.Sprintf("%T", p.Step), "environment.")
		if p.Step == nil {
			got = ""
		}
		if got != c.want || (len(p.Healed) == 1) != (c.want != "") || c.want != "" && !strings.Contains(p.Healed[0].Says, "deployment/stock: what kubectl-edit has changed") {
			t.Errorf("%s: step %q, want %q; healed %v", what, got, c.want, p.Healed)
		}
	}
}

// An environment with a lease lives while somebody renews it; time in which nobody looked does not count.
func TestLeaseEndsWhatNobodyRenews(t *testing.T) {
	w := newWorld(shop()...)
	w.Env.Spec.Lease = &metav1.Duration{Duration: time.Minute}
	w.Env.Annotations = map[string]string{v1alpha1.AnnotationRenewed: "1"}
	w.passes()
	w.Now = w.Now.Add(50 * time.Second)
	w.Env.Annotations[v1alpha1.AnnotationRenewed] = "2"
	w.passes()
	w.Now = w.Now.Add(50 * time.Second)
	if got := w.pass(); got != "" || reason(w.Env) != ReasonReady {
		t.Errorf("renewed, and %s %s", got, reason(w.Env))
	}
	w.Now, w.Away = w.Now.Add(time.Hour/2), true
	if got := w.pass(); got != "" {
		t.Errorf("looked at again after a while: %s", got)
	}
	w.Now, w.Away = w.Now.Add(59*time.Second), false
	if got := w.pass(); got != "" {
		t.Errorf("before its time: %s", got)
	}
	w.Now = w.Now.Add(2 * time.Second)
	if got := w.pass(); got != "Expire" || reason(w.Env) != ReasonEnding {
		t.Errorf("not renewed: %s %s", got, reason(w.Env))
	}
	w.Env.Spec.Lease = nil
	if got := w.pass(); got != "" || w.Env.Status.RenewedAt != nil {
		t.Errorf("without a lease: %s, %v", got, w.Env.Status.RenewedAt)
	}
}

// A deployment whose status speaks of an older generation, or that still has an old pod, is not ready.
func TestOldPodsAreNoGreen(t *testing.T) {
	for what, change := range map[string]func(*unstructured.Unstructured){
		"unobserved generation": func(u *unstructured.Unstructured) { u.SetGeneration(2) },
		"an old pod more":       func(u *unstructured.Unstructured) { set(u, int64(2), "status", "replicas") },
		"not updated":           func(u *unstructured.Unstructured) { set(u, int64(0), "status", "updatedReplicas") },
		"not available":         func(u *unstructured.Unstructured) { set(u, int64(0), "status", "availableReplicas") },
	} {
		w := newWorld(shop()[2])
		w.passes()
		if reason(w.Env) != ReasonReady {
			t.Fatal(w.Env.Status)
		}
		change(w.Live[key{"apps", "Deployment", "stock"}])
		w.passes()
		if reason(w.Env) == ReasonReady {
			t.Errorf("%s: ready", what)
		}
	}
}

func set(u *unstructured.Unstructured, v any, path ...string) {
	_ = unstructured.SetNestedField(u.Object, v, path...)
}

// Somebody deleted an object: it is applied again.
func TestWhatIsMissingIsAppliedAgain(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	delete(w.Live, key{"", "Service", "stock"})
	if got := strings.Join(w.passes(), " "); got != "Apply" || w.Live[key{"", "Service", "stock"}] == nil || reason(w.Env) != ReasonReady {
		t.Errorf("steps %q, %s", got, reason(w.Env))
	}
}

// A failure names the object, the reason and the last events, and comes to be called stalled after a while.
func TestFailureSaysWhichObjectAndWhy(t *testing.T) {
	w := newWorld(shop()...)
	w.ready = false
	w.passes()
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "stock-7d9-x", Labels: map[string]string{"app": "stock"}}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "registry/stock:nope:\x1b[31m not found\n"}}}}
	w.Pods = []corev1.Pod{pod}
	w.Events = []corev1.Event{{Type: "Warning", Reason: "Failed", Message: "Failed to pull", InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "stock-7d9-x"}}}
	w.passes()
	c := meta.FindStatusCondition(w.Env.Status.Conditions, v1alpha1.ConditionReady)
	want := "stock: deployment/stock: pod/stock-7d9-x: container app: ErrImagePull: registry/stock:nope:[31m not found ; events: Failed: Failed to pull"
	if c.Reason != ReasonFailing || c.Message != want {
		t.Errorf("%s: %s\nwant %s", c.Reason, c.Message, want)
	}
	w.Now = w.Now.Add(readyWithin + time.Second)
	w.passes()
	if reason(w.Env) != ReasonNotInTime || !meta.IsStatusConditionTrue(w.Env.Status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("after %s: %s", readyWithin, reason(w.Env))
	}
}

func TestRefusedObjectIsNamedAndNotOfferedAllTheTime(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	w = newWorld(shop()...)
	bad := w.content[0].Objects[0]
	w.Refused[keyOf(bad)] = refusal{hashOf(bad), "quota exceeded", w.Now}
	w.passes()
	if c := w.Env.Status.Components[0]; c.State != v1alpha1.ComponentFailing || c.Message != "configmap/settings is refused: quota exceeded" || w.Live[keyOf(bad)] != nil {
		t.Errorf("%+v", c)
	}
	w.Now = w.Now.Add(retryRefused + time.Second)
	w.passes()
	if w.Live[keyOf(bad)] == nil || reason(w.Env) != ReasonReady {
		t.Error("not offered again")
	}
}

// The end: those that need others go first, what holds on is named, the namespace is last, and nothing keeps the Environment then.
func TestEndIsInOrderAndNamesWhatHoldsItUp(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	w.Env.DeletionTimestamp = new(metav1.NewTime(w.Now))
	stuck := key{"", "ConfigMap", "settings"}
	w.held[stuck] = true
	w.Live[stuck].SetFinalizers([]string{"example.com/stuck"})
	if s := w.pass(); s != "Remove" || w.Live[key{"apps", "Deployment", "front"}] != nil || w.Live[key{"apps", "Deployment", "stock"}] == nil {
		t.Errorf("first %s leaves %v", s, slices.Collect(maps.Keys(w.Live)))
	}
	w.passes()
	if len(w.Live) != 1 || w.Namespace == nil || len(w.Env.Finalizers) == 0 {
		t.Errorf("there is %v, namespace %v", slices.Collect(maps.Keys(w.Live)), w.Namespace)
	}
	w.Now = w.Now.Add(blockedAfter + time.Second)
	w.passes()
	if st := w.Env.Status; len(st.Blocked) != 1 || reason(w.Env) != ReasonBlocked ||
		meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionReady).Message != "configmap/settings waits for whoever takes off its finalizer example.com/stuck" {
		t.Errorf("%+v", st)
	}
	delete(w.Live, stuck)
	if got := strings.Join(w.passes(), " "); got != "RemoveNamespace Release" || len(w.Env.Finalizers) > 0 {
		t.Errorf("then %s", got)
	}
}

// After a while nothing waits for its turn any more.
func TestWhatIsStuckHoldsUpNobodyElse(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	w.Env.DeletionTimestamp = new(metav1.NewTime(w.Now))
	w.held[key{"apps", "Deployment", "front"}] = true
	w.passes()
	if w.Live[key{"apps", "Deployment", "stock"}] == nil {
		t.Error("stock went before front, which needs it")
	}
	w.Now = w.Now.Add(inOrderFor + time.Second)
	w.passes()
	if len(w.Live) != 1 {
		t.Errorf("there is %v", slices.Collect(maps.Keys(w.Live)))
	}
}

// A namespace that is not this environment's is neither used nor deleted.
func TestNamespaceOfOthersIsNotTouched(t *testing.T) {
	for what, ns := range map[string]*corev1.Namespace{
		"somebody's": {ObjectMeta: metav1.ObjectMeta{Name: "env-team-pr-1"}},
		"an older environment's": {ObjectMeta: metav1.ObjectMeta{Name: "env-team-pr-1", Annotations: map[string]string{v1alpha1.AnnotationUID: "u0"},
			Labels: map[string]string{v1alpha1.LabelManaged: "dayfly", v1alpha1.LabelEnvironment: "pr-1", v1alpha1.LabelHome: "team"}}},
	} {
		w := newWorld(shop()...)
		w.Namespace, w.Guarded = ns, true
		w.passes()
		if reason(w.Env) != ReasonNamespaceTaken || len(w.Live) > 0 {
			t.Errorf("%s: %s, %v", what, reason(w.Env), w.Live)
		}
		w.Env.DeletionTimestamp = new(metav1.NewTime(w.Now))
		if got := strings.Join(w.passes(), " "); got != "Release" || w.Namespace == nil {
			t.Errorf("%s: at the end %s", what, got)
		}
	}
}

func TestTimeIsOver(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	w.Now = t0.Add(59 * time.Minute)
	if s := w.pass(); s != "" {
		t.Errorf("%s before its time", s)
	}
	if p := Decide(&w.Observed); p.Recheck > time.Minute {
		t.Errorf("looks again in %s", p.Recheck)
	}
	w.Now = t0.Add(time.Hour)
	if s := w.pass(); s != "Expire" {
		t.Errorf("%q when its time is over", s)
	}
}

func TestNamesOfNamespacesFit(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range []*v1alpha1.Environment{anEnvironment(), {ObjectMeta: metav1.ObjectMeta{Namespace: strings.Repeat("a", 63), Name: strings.Repeat("b", 40)}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: strings.Repeat("a", 63), Name: strings.Repeat("b", 39)}}} {
		name := NamespaceOf(e)
		if len(name) > 63 || seen[name] || !strings.HasPrefix(name, "env-") {
			t.Errorf("%s", name)
		}
		seen[name] = true
	}
	if NamespaceOf(anEnvironment()) != "env-team-pr-1" {
		t.Error(NamespaceOf(anEnvironment()))
	}
}

// What an environment may not hold is named before anything is made.
func TestForbiddenObjectsAreNamed(t *testing.T) {
	node := anObject("v1", "Service", "web")
	set(node, "NodePort", "spec", "type")
	for _, o := range []*unstructured.Unstructured{
		anObject("networking.k8s.io/v1", "NetworkPolicy", "web"), anObject("v1", "ResourceQuota", "web"), anObject("networking.k8s.io/v1", "Ingress", "web"),
		anObject("v1", "ServiceAccount", guardName), node,
	} {
		err := Check([]source.Component{{Objects: []*unstructured.Unstructured{o}}})
		if err == nil || !strings.Contains(err.Error(), keyOf(o).String()) {
			t.Errorf("%s: %v", keyOf(o), err)
		}
	}
	if err := Check(shop()); err != nil {
		t.Error(err)
	}
}

// That its objects are being rendered is said of a revision of which nothing is known yet. A controller that takes over renders anew,
// and writes nothing for that: one that ends after each write would get nowhere.
func TestRenderingAnewIsNoNews(t *testing.T) {
	w := newWorld(shop()...)
	rendering := func() Plan {
		w.Content, w.ContentErr = nil, errRendering
		defer func() { w.ContentErr = nil }()
		return Decide(&w.Observed)
	}
	w.Env.Finalizers = []string{v1alpha1.EnvironmentFinalizer}
	w.Env.Status = rendering().Status
	if c := meta.FindStatusCondition(w.Env.Status.Conditions, v1alpha1.ConditionReady); c == nil || c.Message != "rendering" {
		t.Errorf("at first: %+v", c)
	}
	for range 4 { // and each time, a controller ends
		w.pass()
		if p := rendering(); !reflect.DeepEqual(p.Status.Conditions, w.Env.Status.Conditions) || p.Step != nil {
			t.Fatalf("rendering anew: %+v, %T", p.Status.Conditions, p.Step)
		}
	}
	w.passes()
	if reason(w.Env) != ReasonReady {
		t.Errorf("in the end it is %s", reason(w.Env))
	}
}
