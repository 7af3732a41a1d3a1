package session

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// report writes into every session what became of it, lets go of those on whose account nothing is altered any more, and
// closes those whose lease is over.
func (e *Engine) report(ctx context.Context, o *Observed, plan Plan) error {
	for i := range o.Sessions {
		s := &o.Sessions[i]
		v, ok := plan.Sessions[ID(s)]
		if !ok {
			continue
		}
		changed := s.DeepCopy()
		e.sum(ctx, o, changed, v)
		if !reflect.DeepEqual(s.Status, changed.Status) {
			if err := e.client.Status().Patch(ctx, changed, client.MergeFrom(s)); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("writing the status of session %s: %w", s.Name, err)
			}
		}
		if err := e.letGo(ctx, changed, v); err != nil {
			return err
		}
		e.changed(o, changed, s.Status.Intercepts)
		o.Sessions[i] = *changed // the steps that follow hold pointers to it, and need its new version
	}
	return nil
}

func (e *Engine) letGo(ctx context.Context, s *v1alpha1.Session, v Verdict) error {
	if v.Release && slices.Contains(s.Finalizers, v1alpha1.Finalizer) {
		before := s.DeepCopy()
		controllerutil.RemoveFinalizer(s, v1alpha1.Finalizer)
		if err := client.IgnoreNotFound(e.client.Patch(ctx, s, client.MergeFrom(before))); err != nil {
			return fmt.Errorf("letting go of session %s: %w", s.Name, err)
		}
		e.metrics.restored(s.DeletionTimestamp.Time)
		e.event(s, nil, corev1.EventTypeNormal, "Restored", "Close", "everything is as it was: %s", proofs(s.Status.Restored))
	}
	if v.Expire {
		e.log.Info("lease is over", "session", s.Namespace+"/"+s.Name, "owner", s.Spec.Owner.Username)
		if err := client.IgnoreNotFound(e.client.Delete(ctx, s, client.Preconditions{UID: &s.UID})); err != nil {
			return fmt.Errorf("closing session %s: %w", s.Name, err)
		}
	}
	return nil
}

// sum puts the verdict into the status.
func (e *Engine) sum(ctx context.Context, o *Observed, s *v1alpha1.Session, v Verdict) {
	st := &s.Status
	st.ObservedGeneration = s.Generation
	if e.system.Namespace != "" { // a laptop that restores by itself has no routers to name
		st.Version, st.Tunnel = e.system.Version, new(e.system.Tunnel)
	}
	st.Connected = v.Connected
	st.Intercepts = v.Intercepts
	st.Summary = summary(v.Intercepts)
	st.ExpiresAt = lease(s, v.Connected, o.Now)
	for _, c := range conditions(s, v) {
		c.ObservedGeneration = s.Generation
		meta.SetStatusCondition(&st.Conditions, c)
	}
	if v.Release {
		e.proveShared(ctx, o, s)
	}
}

// proveShared adds what is still altered for others to the proof of a session that closes.
func (e *Engine) proveShared(ctx context.Context, o *Observed, s *v1alpha1.Session) {
	for i := range o.Alterations {
		a := &o.Alterations[i]
		if !slices.ContainsFunc(s.Spec.Intercepts, func(ic v1alpha1.Intercept) bool { return ic.Service == a.Spec.Target.Name }) {
			continue
		}
		p, err := e.prove(ctx, a)
		if err != nil {
			continue // the next pass proves it; the session is not let go without its own alterations undone
		}
		p.Note = "still captured for " + strings.Join(slices.DeleteFunc(slices.Clone(a.Status.Sessions),
			func(n string) bool { return n == s.Name }), ", ") + ": your rule is gone"
		if !slices.ContainsFunc(s.Status.Restored, func(old v1alpha1.Proof) bool { return old.Object == p.Object }) {
			setProof(&s.Status, p)
		}
	}
}

// lease is when the session ends unless its laptop connects: it moves while the laptop is connected, in steps of a tenth
// of the lease so that it is not written all the time.
func lease(s *v1alpha1.Session, connected bool, now time.Time) *metav1.Time {
	full := now.Add(s.Spec.Lease.Duration)
	old := s.Status.ExpiresAt
	switch {
	case old == nil:
	case connected && old.Before(&metav1.Time{Time: now.Add(s.Spec.Lease.Duration * 9 / 10)}):
	case !connected && s.Status.Connected: // it has just left: the full lease runs from now
	default:
		return old
	}
	return new(metav1.NewTime(full.Truncate(time.Second).Add(time.Second)))
}

func summary(is []v1alpha1.InterceptStatus) string {
	var out []string
	for _, i := range is {
		out = append(out, fmt.Sprintf("%s %s", StatusRoute(i), strings.ToLower(string(i.State))))
	}
	return strings.Join(out, ", ")
}

// conditions sums the intercepts up as kstatus reads them: the worst one speaks.
func conditions(s *v1alpha1.Session, v Verdict) []metav1.Condition {
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Armed", Message: summary(v.Intercepts)}
	reconciling := metav1.Condition{Type: v1alpha1.ConditionReconciling, Status: metav1.ConditionFalse, Reason: "Done"}
	stalled := metav1.Condition{Type: v1alpha1.ConditionStalled, Status: metav1.ConditionFalse, Reason: "Fine"}
	rank := map[v1alpha1.InterceptState]int{v1alpha1.StateArmed: 0, v1alpha1.StateParked: 1, v1alpha1.StatePending: 2, v1alpha1.StateArming: 3, v1alpha1.StateRefused: 4}
	worst := 0
	for _, i := range v.Intercepts {
		if r := rank[i.State]; r > worst {
			worst = r
			ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, string(i.State), i.Message
			if i.State == v1alpha1.StateRefused {
				ready.Reason = i.Reason
			}
		}
	}
	switch {
	case !s.DeletionTimestamp.IsZero():
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "Restoring", "everything is being put back"
		reconciling.Status, reconciling.Reason = metav1.ConditionTrue, "Restoring"
	case v.TooMany != "":
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, ReasonTooMany, v.TooMany
		stalled.Status, stalled.Reason, stalled.Message = metav1.ConditionTrue, ReasonTooMany, v.TooMany
	case len(v.Intercepts) == 0:
		ready.Reason, ready.Message = "Empty", "nothing is altered"
	case worst == rank[v1alpha1.StateRefused]:
		stalled.Status, stalled.Reason, stalled.Message = metav1.ConditionTrue, ready.Reason, ready.Message
	case worst >= rank[v1alpha1.StatePending]:
		reconciling.Status, reconciling.Reason, reconciling.Message = metav1.ConditionTrue, ready.Reason, ready.Message
	}
	return []metav1.Condition{ready, reconciling, stalled}
}
