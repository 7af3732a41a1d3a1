package environment

import (
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// holds says whether an environment has a place among those that are awake.
func holds(env *v1alpha1.Environment) bool {
	if a := env.Status.Admission; a != nil {
		return a.At != nil
	}
	return len(env.Status.Inventory) > 0 && !resting(env) // it was made before there were places
}

// inLine says whether an environment waits for a place, and has none.
func inLine(env *v1alpha1.Environment) bool {
	a := env.Status.Admission
	return a != nil && a.At == nil && a.Since != nil
}

// resting says whether an environment is asleep: nothing of it runs, and nothing is to be done.
func resting(env *v1alpha1.Environment) bool {
	return env.Spec.Asleep() && env.Status.Revisions.Ready == RevisionOf(&env.Spec)
}

// measured is what an environment's revision asks for, if that was ever measured.
func measured(env *v1alpha1.Environment) (size, bool) {
	a := env.Status.Admission
	if a == nil || a.Revision != RevisionOf(&env.Spec) {
		return size{}, false
	}
	return sizeOf(a.Requests), true
}

// entryOf is what the queue is to know of an environment: s is what its revision asks for, nil if nobody knows.
func entryOf(env *v1alpha1.Environment, s *size) entry {
	e := entry{at: client.ObjectKeyFromObject(env), uid: env.UID, owner: env.Spec.Owner.Username, priority: env.Spec.Priority, holds: holds(env)}
	a := env.Status.Admission
	if a != nil && a.Since != nil {
		e.since = a.Since.UTC()
	}
	switch {
	case e.holds && a != nil && a.Requests != nil:
		e.held = sizeOf(a.Requests)
	case e.holds && s != nil: // nobody has measured it before: what it has, it has
		e.held = *s
	}
	if s != nil && env.DeletionTimestamp.IsZero() && !resting(env) && needsPlace(env, *s) {
		e.wants, e.size = true, *s
	}
	return e
}

// needsPlace says whether an environment takes a place. One that is asleep needs none, but to run Jobs and pods that no workload made.
func needsPlace(env *v1alpha1.Environment, s size) bool {
	return !env.Spec.Asleep() || s.pods > 0
}

// place writes down the environment's place, and says whether it has one, or needs none.
func (d *decision) place() bool {
	a := v1alpha1.Admission{}
	if d.st.Admission != nil {
		a = *d.st.Admission
	}
	a.Since, a.Position = nil, 0
	had := holds(d.Env)
	switch {
	case resting(d.Env):
		a.At = nil
	case d.Wait != nil:
		a.Position = int32(d.Wait.Position)
		if !d.Wait.Since.IsZero() {
			a.Since = new(metav1.NewMicroTime(d.Wait.Since))
		}
	case a.At == nil && (had || d.Size == nil || needsPlace(d.Env, *d.Size)):
		a.At = new(metav1.NewTime(d.Now.Truncate(time.Second)))
	}
	if d.Size != nil && (d.Wait == nil || !had) {
		d.count(&a, *d.Size, had)
	}
	d.st.Admission = &a
	return d.Wait == nil
}

// count writes down what the environment takes: while one revision takes another's place, the more of the two.
func (d *decision) count(a *v1alpha1.Admission, s size, had bool) {
	before := sizeOf(a.Requests)
	if d.Env.Spec.Asleep() {
		s.storage = max(s.storage, before.storage) // claims stay
	}
	revision := d.st.Revisions.Requested
	if had && a.Revision != revision && d.st.Revisions.Ready != revision && before.larger(s) != s {
		s, revision = before.larger(s), ""
	}
	if sizeOf(a.Requests) != s || a.Requests == nil {
		a.Requests = s.resources()
	}
	a.Revision = revision
}

// arrived gives up the place once the environment sleeps, and what was kept for the revision before once the new one is ready.
func (d *decision) arrived() {
	if d.st.Revisions.Ready != d.st.Revisions.Requested || d.st.Admission == nil {
		return
	}
	if d.Env.Spec.Asleep() {
		d.st.Admission.At = nil
	}
	if d.Size != nil {
		d.count(d.st.Admission, *d.Size, false)
	}
}

// began is when the revision that is asked for could begin to come up.
func (d *decision) began() time.Time {
	at := d.st.RequestedAt.Time
	if a := d.st.Admission; a != nil && a.At != nil && a.At.After(at) {
		return a.At.Time
	}
	return at
}

// queued says that the environment waits for its turn. What runs of it meanwhile may fall asleep.
func (d *decision) queued() Step {
	says := d.Wait.Says
	if holds(d.Env) {
		says += "; until then it stays as it was"
	}
	d.recheck = lookAgain // the queue wakes us
	if d.Wait.Never {
		d.stalled(ReasonQueued, says)
	} else {
		d.working(ReasonQueued, says)
	}
	if why := d.idle(); why != "" && holds(d.Env) {
		return Sleep{why}
	}
	return nil
}

// sizeOfContent is what the rendered revision asks for; nil if it was not rendered.
func sizeOfContent(o *Observed) *size {
	if o.Content == nil {
		if s, ok := measured(o.Env); ok {
			return &s
		}
		return nil
	}
	g := o.rules().guards()
	s := measure(o.Content, containerDefaults(g).Requests, o.Env.Spec.Asleep()).within(merged(quota, g.Quota))
	return &s
}
