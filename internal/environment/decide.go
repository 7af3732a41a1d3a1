package environment

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/fetch"
	"dayfly.dev/dayfly/internal/source"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// Plan is what becomes of an environment now.
type Plan struct {
	Status  v1alpha1.EnvironmentStatus // written before the step is done
	Step    Step                       // nil: there is nothing to do
	Recheck time.Duration              // without a step: when to look again at the latest
	Healed  []Healing                  // what the step puts back that somebody has changed
}

// Step is one change of the cluster. It may be done again, and may be interrupted.
type Step interface{ step() }

type (
	Expire          struct{}                                       // delete the Environment
	Sleep           struct{ Why string }                           // have it fall asleep
	Hold            struct{}                                       // put the finalizer on it
	Release         struct{}                                       // take the finalizer off: nothing of it is left
	Keep            struct{ Blueprint *v1alpha1.Blueprint }        // what was fetched
	MakeNamespace   struct{ Guards v1alpha1.PolicyGuards }         // its namespace
	Guard           struct{ Guards v1alpha1.PolicyGuards }         // what protects others from it
	Apply           struct{ Objects []*unstructured.Unstructured } // as its account
	Remove          struct{ Objects []*unstructured.Unstructured } // likewise
	RemoveNamespace struct{}                                       // with all that is in it
	Clone           struct{ Databases []v1alpha1.DatabaseClone }   // has them made, where they are to be
	Drop            struct{ Databases []v1alpha1.DatabaseClone }   // has them taken away
)

func (Expire) step()          {}
func (Sleep) step()           {}
func (Hold) step()            {}
func (Release) step()         {}
func (Keep) step()            {}
func (MakeNamespace) step()   {}
func (Guard) step()           {}
func (Apply) step()           {}
func (Remove) step()          {}
func (RemoveNamespace) step() {}
func (Clone) step()           {}
func (Drop) step()            {}

// The reasons of the condition Ready.
const (
	ReasonReady          = "Ready"
	ReasonAsleep         = "Asleep"         // it runs nothing, as it is to be
	ReasonFetching       = "Fetching"       // its source
	ReasonQueued         = "Queued"         // it waits for its turn among those that its policy lets be awake
	ReasonMaking         = "Making"         // its namespace and guards
	ReasonStarting       = "Starting"       // components are not ready yet
	ReasonFailing        = "Failing"        // a component is not ready for a reason that seldom goes by itself
	ReasonNoBlueprint    = "NoBlueprint"    // the Blueprint is not there
	ReasonInvalid        = "Invalid"        // the Blueprint cannot be rendered, or holds what an environment may not; or its policy cannot be followed
	ReasonNamespaceTaken = "NamespaceTaken" // there is a namespace of that name which is not this environment's
	ReasonNotInTime      = "NotInTime"      // it was not ready in time
	ReasonEnding         = "Ending"
	ReasonBlocked        = "Blocked" // something holds up its end

	ReasonSourceUnavailable = "SourceUnavailable" // its source cannot be reached or opened
	ReasonAwaitingImages    = "AwaitingImages"    // images are not in their registries yet, and there is time left for them
	ReasonNoImage           = "NoImage"           // an image was not in its registry in time
)

// readyWithin is how long a revision may take until the environment is called stalled. It goes on trying.
const readyWithin = 10 * time.Minute

// retryRefused is how long an object that the API server refused is not offered again.
const retryRefused = 10 * time.Second

// Decide says what becomes of an environment. It is pure.
func Decide(o *Observed) Plan {
	st := *o.Env.Status.DeepCopy()
	st.ObservedGeneration, st.Namespace, st.Policy = o.Env.Generation, NamespaceOf(o.Env), o.rules().held()
	now := new(metav1.NewTime(o.Now.Truncate(time.Second)))
	if r := RevisionOf(&o.Env.Spec); st.Revisions.Requested != r && !held(o) {
		if !sameContent(st.Revisions.Requested, r) {
			st.ChangedAt = now
		}
		st.Revisions.Requested, st.RequestedAt = r, now
	}
	if st.RequestedAt == nil {
		st.RequestedAt = now // of what is not known yet
	}
	d := &decision{Observed: o, st: st}
	ends := d.ends()
	var step Step
	switch {
	case !o.Env.DeletionTimestamp.IsZero():
		step = d.end()
	case !ends.at.IsZero() && !o.Now.Before(ends.at):
		d.working(ReasonEnding, ends.why)
		step = Expire{}
	default:
		d.source()
		step = d.live()
		if !ends.at.IsZero() {
			d.recheck = min(d.recheck, ends.at.Sub(o.Now))
		}
		d.warn(ends)
		if o.Env.Spec.Lease != nil {
			d.recheck = min(d.recheck, o.Env.Spec.Lease.Duration/4)
		}
	}
	d.reckon()
	return Plan{d.st, step, d.recheck, d.healed}
}

// sameContent says whether two revisions differ in nothing but sleep.
func sameContent(a, b string) bool {
	return strings.TrimSuffix(a, v1alpha1.SuffixAsleep) == strings.TrimSuffix(b, v1alpha1.SuffixAsleep)
}

// lease is when an environment ends unless somebody renews it; zero if it has no lease. The clock is the controller's alone, and
// stands still while the controller does not look: nobody could be heard then.
func lease(o *Observed, st *v1alpha1.EnvironmentStatus) time.Time {
	l := o.Env.Spec.Lease
	if l == nil {
		st.Renewed, st.RenewedAt = "", nil
		return time.Time{}
	}
	said := o.Env.Annotations[v1alpha1.AnnotationRenewed]
	said = said[:min(len(said), 64)]
	if st.RenewedAt == nil || st.Renewed != said || o.Away {
		st.Renewed, st.RenewedAt = said, new(metav1.NewTime(o.Now.Truncate(time.Second)))
	}
	return st.RenewedAt.Add(l.Duration)
}

// decision is a plan in the making.
type decision struct {
	*Observed
	st      v1alpha1.EnvironmentStatus
	recheck time.Duration
	healed  []Healing

	awaited  []string // images that are not in their registries yet, by component
	unpushed bool     // some were not there in time
}

// live decides for an environment that is to be there.
func (d *decision) live() Step {
	d.recheck = d.soon()
	if !controllerutil.ContainsFinalizer(d.Env, v1alpha1.EnvironmentFinalizer) {
		d.working(ReasonMaking, "")
		return Hold{}
	}
	if d.Source != nil && d.Source.Keep != nil {
		d.working(ReasonFetching, fetch.Name(d.Env.Spec.Source))
		return Keep{d.Source.Keep}
	}
	defer d.fetching() // says more than what is made of what was found before
	if held(d.Observed) {
		return nil
	}
	if step, done := d.content(); done {
		return step
	}
	if !d.place() {
		return d.queued()
	}
	ns := d.Namespace
	switch {
	case ns == nil:
		d.working(ReasonMaking, "namespace "+d.st.Namespace)
		return MakeNamespace{d.rules().guards()}
	case !owns(d.Env, ns):
		d.stalled(ReasonNamespaceTaken, taken(ns))
		return nil
	case !ns.DeletionTimestamp.IsZero():
		d.working(ReasonMaking, "namespace "+ns.Name+" is being deleted: it is made again once it is gone")
		return nil
	case !d.Guarded && d.refusedGuards() != "":
		d.stalled(ReasonInvalid, d.refusedGuards())
		return nil
	case !d.Guarded:
		d.working(ReasonMaking, "the guards of namespace "+ns.Name)
		return Guard{d.rules().guards()}
	case d.Outdated && d.refusedGuards() == "": // if they are refused, those that stand go on
		return Guard{d.rules().guards()}
	}
	if d.nodsOff() {
		d.working(ReasonStarting, "about to fall asleep")
		return nil
	}
	if d.Env.Spec.Asleep() {
		d.st.Replicas = 0 // before anything is taken down
	}
	step := d.objects()
	d.addresses()
	d.public()
	d.arrived()
	if why := d.idle(); step == nil && why != "" {
		return Sleep{why}
	}
	return step
}

// content decides where it is not known what the environment consists of. Without that nothing is made.
func (d *decision) content() (Step, bool) {
	err := d.ContentErr
	switch {
	case err == nil:
		return nil, false
	case errors.Is(err, errRendering):
		d.recheck = 2 * renderTime // whoever renders wakes us
		// What is said of this revision already stays said: a controller that takes over renders anew, and that is no news.
		said := meta.FindStatusCondition(d.st.Conditions, v1alpha1.ConditionReady)
		if d.st.Revisions.Ready != d.st.Revisions.Requested && (said == nil || said.ObservedGeneration != d.Env.Generation) {
			d.working(ReasonMaking, "rendering")
		}
		return nil, true
	case errors.Is(err, errNoBlueprint):
		d.recheck = min(d.recheck, 5*time.Second)
		if d.Now.Sub(d.st.RequestedAt.Time) < time.Minute {
			d.working(ReasonNoBlueprint, fmt.Sprintf("there is no blueprint %s yet", d.Env.Spec.Blueprint))
		} else {
			d.stalled(ReasonNoBlueprint, fmt.Sprintf("there is no blueprint %s in namespace %s", d.Env.Spec.Blueprint, d.Env.Namespace))
		}
		return nil, true
	}
	d.recheck = time.Minute
	d.stalled(ReasonInvalid, saysOf(err))
	return nil, true
}

// taken says whose a namespace is.
func taken(ns *corev1.Namespace) string {
	name, home := ns.Labels[v1alpha1.LabelEnvironment], ns.Labels[v1alpha1.LabelHome]
	if ns.Labels[v1alpha1.LabelManaged] != "dayfly" || name == "" {
		return fmt.Sprintf("namespace %s exists and is not dayfly's", ns.Name)
	}
	return fmt.Sprintf("namespace %s is that of environment %s of namespace %s, or left over from one: delete that first", ns.Name, name, home)
}

// objects decides what is applied and what is removed, and whether the environment is ready.
func (d *decision) objects() Step {
	ps := parts(d.Observed)
	state := map[string]v1alpha1.ComponentState{}
	var apply, anew []*unstructured.Unstructured
	var clone []v1alpha1.DatabaseClone
	d.st.Components = nil
	d.cloned()
	whole := true
	for _, p := range ps {
		c, early := d.component(ps, p, state)
		anew = append(anew, early...)
		for _, m := range p.members {
			changed := again(d.Observed, m)
			if changed != nil {
				anew = append(anew, changed)
			}
			if applied(d.Observed, m) {
				d.note(m.key)
				continue
			}
			whole = false
			if m.shut {
				clone = append(clone, d.cloneNow(p, m)...)
				continue
			}
			if changed != nil || m.step != "" && !p.due(d.Observed, m) {
				continue
			}
			r, refused := d.Refused[m.key]
			if m.object == nil || refused && r.hash == hashOf(m.object) && d.Now.Sub(r.when) < retryRefused || going(d.Observed, m.key) ||
				c.State == v1alpha1.ComponentWaiting && runs(m.object) {
				continue
			}
			if drifted(d.Observed, m.key) && !d.heal(d.Live[m.key]) {
				continue
			}
			apply = append(apply, m.object)
			d.record(m.object, p.name)
		}
		state[p.name] = c.State
		d.st.Components = append(d.st.Components, c)
	}
	if whole && d.Content != nil {
		d.st.Revisions.Applied = d.st.Revisions.Requested
	}
	if len(clone) > 0 {
		d.conclude()
		return Clone{clone}
	}
	if len(apply) > 0 {
		if d.st.Revisions.Applied != d.st.Revisions.Requested {
			d.st.Revisions.Applied = "" // from now on, it may be some of each
		}
		d.conclude()
		return Apply{apply}
	}
	if len(anew) > 0 {
		d.conclude()
		return Remove{anew} // and their workloads make new ones, that need not wait for their turn; Jobs are applied again
	}
	return d.finish(ps, whole)
}

// finish decides once there is nothing to apply: what the revision no longer has goes when all it has is ready, and then it is.
func (d *decision) finish(ps []part, whole bool) Step {
	old := d.old(ps)
	if whole && d.allReady() && len(old) > 0 {
		d.working(ReasonStarting, fmt.Sprintf("%s is no longer in it", keyOf(old[0])))
		remove := slices.DeleteFunc(old, func(u *unstructured.Unstructured) bool { return u.GetDeletionTimestamp() != nil })
		if len(remove) == 0 {
			return nil
		}
		return Remove{remove}
	}
	if whole && d.allReady() {
		step, holds := d.drop(d.stale(ps))
		if left := d.stale(ps); len(left) > 0 {
			d.working(ReasonStarting, strings.Join(append(holds, fmt.Sprintf("database %s is no longer in it", left[0].Name)), "; "))
			return step
		}
	}
	if whole && d.Content != nil && d.allReady() {
		d.st.Revisions.Ready = d.st.Revisions.Requested
		d.remember()
	}
	d.conclude()
	return nil
}

// component says how one component stands, given the states of those before it, and which of its pods are to be made anew.
func (d *decision) component(ps []part, p part, before map[string]v1alpha1.ComponentState) (c v1alpha1.ComponentStatus, again []*unstructured.Unstructured) {
	c = v1alpha1.ComponentStatus{Name: p.name, Needs: p.needs, Data: p.data}
	if p.personal(d.Observed) {
		c.Data = source.Personal
	}
	missing := "" // it is started without, and may not come up until that is there
	for _, n := range slices.Concat([]string{""}, p.needs) {
		if s, ok := before[n]; !ok || n == p.name || s == v1alpha1.ComponentReady || d.Env.Spec.Asleep() { // all may end at once
			continue
		}
		if missing = nameOf(n); n == "" || p.waits(ps, n) {
			c.State, c.Message = v1alpha1.ComponentWaiting, "needs "+missing
			return c, nil
		}
	}
	c.State, c.Message = judge(d.Observed, p)
	again = d.awaitImages(p, &c)
	if c.State == v1alpha1.ComponentReady {
		if d.Env.Spec.Asleep() && slices.ContainsFunc(p.members, func(m member) bool { return sleeps(m.kind) }) {
			c.State = v1alpha1.ComponentAsleep
		}
		return c, nil
	}
	if missing != "" {
		if c.State == v1alpha1.ComponentFailing {
			c.State, c.Message = v1alpha1.ComponentStarting, "needs "+missing+": "+c.Message
		}
		return c, again
	}
	if early := tooEarly(d.Observed, ps, p); len(early) > 0 {
		c.State, again = v1alpha1.ComponentStarting, append(again, early...)
	}
	return c, again
}

// runs says whether an object starts something: only that waits for what its component needs.
func runs(u *unstructured.Unstructured) bool {
	for _, path := range [][]string{{"spec", "template", "spec"}, {"spec", "jobTemplate"}, {"spec", "containers"}} {
		if _, ok, _ := unstructured.NestedFieldNoCopy(u.Object, path...); ok {
			return true
		}
	}
	return false
}

// going says whether an object of that name is still being deleted.
func going(o *Observed, k key) bool {
	return o.Live[k] != nil && o.Live[k].GetDeletionTimestamp() != nil
}

func nameOf(component string) string {
	if component == "" {
		return "what all share"
	}
	return component
}

func (d *decision) allReady() bool {
	return !slices.ContainsFunc(d.st.Components, func(c v1alpha1.ComponentStatus) bool {
		return c.State != v1alpha1.ComponentReady && c.State != v1alpha1.ComponentAsleep
	})
}

// record puts an object into the inventory before it is applied.
func (d *decision) record(u *unstructured.Unstructured, component string) {
	item := v1alpha1.InventoryItem{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Name: u.GetName(), Component: component}
	for i, have := range d.st.Inventory {
		if itemKey(have) == keyOf(u) {
			d.st.Inventory[i] = item
			return
		}
	}
	d.st.Inventory = append(d.st.Inventory, item)
}

// old are the objects of the inventory that the content no longer has. What is gone is forgotten.
func (d *decision) old(ps []part) []*unstructured.Unstructured {
	if d.Content == nil {
		return nil
	}
	want := map[key]bool{}
	for _, p := range ps {
		for _, m := range p.members {
			want[m.key] = true
		}
	}
	var out []*unstructured.Unstructured
	d.st.Inventory = slices.DeleteFunc(d.st.Inventory, func(i v1alpha1.InventoryItem) bool {
		if want[itemKey(i)] {
			return false
		}
		u := d.Live[itemKey(i)]
		if u != nil {
			out = append(out, u)
		}
		return u == nil
	})
	return out
}

// MostPast revisions can be gone back to. Their Blueprints are kept.
const MostPast = 5

// mostPastParameters is the size of parameters, in bytes, up to which a revision is remembered: all are in one object.
const mostPastParameters = 64 << 10

// remember puts the revision that is ready into the history.
func (d *decision) remember() {
	s, now := &d.Env.Spec, d.st.Revisions.Ready
	if s.Asleep() || len(d.st.History) > 0 && d.st.History[0].Revision == now || s.Parameters != nil && len(s.Parameters.Raw) > mostPastParameters {
		return
	}
	past := slices.DeleteFunc(slices.Clone(d.st.History), func(p v1alpha1.PastRevision) bool { return p.Revision == now })
	past = slices.Insert(past, 0, v1alpha1.PastRevision{Revision: now, ReadyAt: metav1.NewTime(d.Now.Truncate(time.Second)), Blueprint: s.Blueprint, Source: pinned(s.Source, d.st.Source),
		Parameters: s.Parameters, Components: s.Components, Only: s.Only})
	d.st.History = past[:min(len(past), MostPast)]
}

// conclude says in the conditions how the environment stands.
func (d *decision) conclude() {
	var failing, waiting []string
	for _, c := range d.st.Components {
		switch c.State {
		case v1alpha1.ComponentFailing:
			failing = append(failing, nameOf(c.Name)+": "+c.Message)
		case v1alpha1.ComponentStarting:
			waiting = append(waiting, nameOf(c.Name))
		}
	}
	late := d.Now.Sub(d.began()) > d.within()
	current := d.st.Revisions.Ready == d.st.Revisions.Requested
	switch {
	case d.unpushed && !current:
		d.stalled(ReasonNoImage, strings.Join(failing, "; "))
	case len(failing) > 0 && late && !current:
		d.stalled(ReasonNotInTime, fmt.Sprintf("not ready within %s: %s", d.within(), strings.Join(failing, "; ")))
	case len(failing) > 0:
		d.working(ReasonFailing, strings.Join(failing, "; "))
	case d.allReady() && current:
		ready, reason := metav1.ConditionTrue, ReasonReady
		if d.Env.Spec.Asleep() {
			ready, reason = metav1.ConditionFalse, ReasonAsleep
		}
		d.set(v1alpha1.ConditionReady, ready, reason, "")
		d.set(v1alpha1.ConditionReconciling, metav1.ConditionFalse, reason, "")
		d.set(v1alpha1.ConditionStalled, metav1.ConditionFalse, reason, "")
		d.recheck = lookAgain
		if !d.Env.Spec.Asleep() {
			d.st.Replicas = 1
		}
	case late && !current:
		d.stalled(ReasonNotInTime, fmt.Sprintf("not ready within %s: %s", d.within(), strings.Join(waiting, ", ")))
	case len(d.awaited) > 0:
		d.working(ReasonAwaitingImages, strings.Join(d.awaited, "; "))
	default:
		d.working(ReasonStarting, strings.Join(waiting, ", "))
	}
}

// lookAgain is when an environment that is ready is looked at though nothing woke us: what a watch shows does (watch.go), and what
// none shows is looked at by the patrol.
const lookAgain = 4 * time.Hour

// soon is when to look again at what is on its way: changes of endpoints wake us too, so this is for what has none.
func (d *decision) soon() time.Duration {
	since := d.Now.Sub(d.began())
	if !d.Env.DeletionTimestamp.IsZero() {
		since = d.Now.Sub(d.Env.DeletionTimestamp.Time)
	}
	switch {
	case since < 30*time.Second:
		return 500 * time.Millisecond
	case since < 3*time.Minute:
		return 2 * time.Second
	}
	return 10 * time.Second
}

func (d *decision) set(kind string, status metav1.ConditionStatus, reason, message string) {
	if r := []rune(message); len(r) > 2000 {
		message = string(r[:2000]) + "…"
	}
	meta.SetStatusCondition(&d.st.Conditions, metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message,
		ObservedGeneration: d.Env.Generation, LastTransitionTime: metav1.NewTime(d.Now)})
}

func (d *decision) working(reason, message string) {
	d.set(v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message)
	d.set(v1alpha1.ConditionReconciling, metav1.ConditionTrue, reason, message)
	d.set(v1alpha1.ConditionStalled, metav1.ConditionFalse, reason, "")
}

// stalled says that nothing gets better without somebody's doing. It is tried again all the same.
func (d *decision) stalled(reason, message string) {
	d.recheck = max(d.recheck, 10*time.Second)
	d.set(v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message)
	d.set(v1alpha1.ConditionReconciling, metav1.ConditionFalse, reason, "")
	d.set(v1alpha1.ConditionStalled, metav1.ConditionTrue, reason, message)
}
