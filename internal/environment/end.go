package environment

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

const (
	// inOrderFor is how long components end one after the other; then all the rest is asked to end at once.
	inOrderFor = 45 * time.Second
	// blockedAfter is how long something may take to end, after its own grace period, before it is named.
	blockedAfter = 10 * time.Second
	// mostBlockers are named.
	mostBlockers = 20
)

// end decides for an environment that is to be gone.
func (d *decision) end() Step {
	d.recheck = d.soon()
	d.st.Blocked = nil
	if !controllerutil.ContainsFinalizer(d.Env, v1alpha1.EnvironmentFinalizer) {
		return nil
	}
	d.working(ReasonEnding, "")
	if d.Namespace == nil || !owns(d.Env, d.Namespace) {
		step, holds := d.drop(d.st.Clones) // nobody of it is connected any more
		if len(d.st.Clones) == 0 {
			return Release{}
		}
		d.working(ReasonEnding, fmt.Sprintf("database %s is being taken away", d.st.Clones[0].Name))
		for _, says := range holds {
			d.st.Blocked = append(d.st.Blocked, v1alpha1.Blocker{Object: says})
		}
		d.blocked()
		return step
	}
	if !d.Namespace.DeletionTimestamp.IsZero() {
		d.namespaceEnds()
		return nil
	}
	if remove, waits := d.ending(); waits {
		d.name()
		if len(remove) == 0 {
			return nil
		}
		return Remove{remove}
	}
	return RemoveNamespace{}
}

// ending are the objects to be deleted now, and whether any must be gone before the namespace may be deleted: those that
// were applied, in the order of needs, and whatever else holds on by a finalizer. The rest goes with the namespace.
func (d *decision) ending() (remove []*unstructured.Unstructured, waits bool) {
	there := map[string]bool{}
	for _, i := range d.st.Inventory {
		if d.Live[itemKey(i)] != nil {
			there[i.Component] = true
		}
	}
	inOrder := d.Now.Sub(d.Env.DeletionTimestamp.Time) < inOrderFor
	needed := func(component string) bool { // by a component that is still there
		return slices.ContainsFunc(d.st.Components, func(c v1alpha1.ComponentStatus) bool {
			return there[c.Name] && c.Name != component && (component == "" || slices.Contains(c.Needs, component))
		})
	}
	applied := map[key]bool{}
	for _, i := range d.st.Inventory {
		u := d.Live[itemKey(i)]
		if u == nil {
			continue
		}
		applied[itemKey(i)], waits = true, true
		if u.GetDeletionTimestamp() == nil && (!inOrder || !needed(i.Component)) {
			remove = append(remove, u)
		}
	}
	for k, u := range d.Live {
		if applied[k] || len(u.GetFinalizers()) == 0 {
			continue
		}
		waits = true
		if u.GetDeletionTimestamp() == nil && !slices.ContainsFunc(u.GetOwnerReferences(), func(r metav1.OwnerReference) bool {
			return d.Live[key{schema.FromAPIVersionAndKind(r.APIVersion, r.Kind).Group, r.Kind, r.Name}] != nil
		}) {
			remove = append(remove, u)
		}
	}
	return remove, waits
}

// name puts down what does not end.
func (d *decision) name() {
	for k, u := range d.Live {
		asked := u.GetDeletionTimestamp()
		if asked == nil || d.Now.Sub(asked.Time) < blockedAfter || k.kind == "EndpointSlice" || k.kind == "Endpoints" {
			continue
		}
		b := v1alpha1.Blocker{Object: k.String(), Finalizers: slices.DeleteFunc(u.GetFinalizers(), func(f string) bool { return f == "foregroundDeletion" })}
		if len(b.Finalizers) == 0 {
			if k.kind != "Pod" { // it waits for its pods, which are named themselves
				continue
			}
			node, _, _ := unstructured.NestedString(u.Object, "spec", "nodeName")
			b.Object += " on node " + node
		}
		d.st.Blocked = append(d.st.Blocked, b)
	}
	d.blocked()
}

// namespaceEnds reads what Kubernetes says of the end of the namespace.
func (d *decision) namespaceEnds() {
	if d.Now.Sub(d.Namespace.DeletionTimestamp.Time) < blockedAfter {
		return
	}
	for _, c := range d.Namespace.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			d.st.Blocked = append(d.st.Blocked, v1alpha1.Blocker{Object: "namespace/" + d.Namespace.Name + ": " + clean(c.Message)})
		}
	}
	if f := d.Namespace.Finalizers; len(f) > 0 {
		d.st.Blocked = append(d.st.Blocked, v1alpha1.Blocker{Object: "namespace/" + d.Namespace.Name, Finalizers: f})
	}
	d.blocked()
}

func (d *decision) blocked() {
	if len(d.st.Blocked) == 0 {
		return
	}
	slices.SortFunc(d.st.Blocked, func(a, b v1alpha1.Blocker) int { return strings.Compare(a.Object, b.Object) })
	d.st.Blocked = d.st.Blocked[:min(len(d.st.Blocked), mostBlockers)]
	var says []string
	for _, b := range d.st.Blocked {
		says = append(says, BlockerText(b))
	}
	d.stalled(ReasonBlocked, strings.Join(says, "; "))
	d.recheck = 2 * time.Second
}

// BlockerText says in words what holds up the end of an environment.
func BlockerText(b v1alpha1.Blocker) string {
	if len(b.Finalizers) == 0 {
		return b.Object + " does not end"
	}
	return fmt.Sprintf("%s waits for whoever takes off its finalizer %s", b.Object, strings.Join(b.Finalizers, ", "))
}
