package environment

import (
	"fmt"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// term is when an environment ends by itself.
type term struct {
	at   time.Time // zero: it does not end
	soon time.Time // from when on it is said to end soon; zero: it is not said
	why  string
}

// ends says when the environment ends by itself.
func (d *decision) ends() term {
	var out term
	if !d.rules().pinned(&d.Env.Spec) {
		if d.st.ExpiresAt == nil && d.Env.Status.ObservedGeneration > 0 { // it was, until now
			d.st.UnpinnedAt = new(metav1.NewTime(d.Now.Truncate(time.Second)))
		}
		out = d.ttl()
	}
	if leased := lease(d.Observed, &d.st); !leased.IsZero() && (out.at.IsZero() || leased.Before(out.at)) {
		out = term{at: leased, why: "nobody renews its lease"} // which is renewed at the last moment, mostly
	}
	d.st.ExpiresAt = nil
	if !out.at.IsZero() {
		d.st.ExpiresAt = new(metav1.NewTime(out.at))
	}
	return out
}

// over says whether an environment is to end now, by the clock. Nothing that cannot be read of it may hold that up.
func over(o *Observed) bool {
	if !o.Env.DeletionTimestamp.IsZero() {
		return false
	}
	d := &decision{Observed: o, st: *o.Env.Status.DeepCopy()}
	at := d.ends().at
	return !at.IsZero() && !o.Now.Before(at)
}

// ttl is when the environment's time is over.
func (d *decision) ttl() term {
	made, from, lives := d.Env.CreationTimestamp.Time, d.Env.CreationTimestamp.Time, d.rules().lives(&d.Env.Spec)
	switch d.Env.Spec.TTLFrom {
	case v1alpha1.TTLFromRevision:
		from = latest(from, d.st.ChangedAt)
	case v1alpha1.TTLFromActivity:
		from = latest(from, d.st.ChangedAt, d.st.RequestedAt, d.st.LastRequest)
	}
	from = latest(from, d.st.UnpinnedAt)
	out := term{at: from.Add(lives), why: "its time is over"}
	if most := d.rules().lifetime().MaxTTL; most != nil && made.Add(most.Duration).Before(out.at) {
		out.at, out.why, lives = made.Add(most.Duration), fmt.Sprintf("policy %s lets it live for %s", d.Policy.Name, most.Duration), most.Duration
	}
	out.soon = out.at.Add(-d.rules().warnBefore(lives))
	return out
}

func latest(t time.Time, others ...*metav1.Time) time.Time {
	for _, o := range others {
		if o != nil && o.After(t) {
			t = o.Time
		}
	}
	return t
}

// warn says in a condition that the environment ends soon, while that is so.
func (d *decision) warn(e term) {
	if e.soon.IsZero() || d.Now.Before(e.soon) {
		meta.RemoveStatusCondition(&d.st.Conditions, v1alpha1.ConditionExpiresSoon)
		if !e.soon.IsZero() {
			d.recheck = min(d.recheck, e.soon.Sub(d.Now))
		}
		return
	}
	says := fmt.Sprintf("it can be extended: dayfly env extend %s -n %s", d.Env.Name, d.Env.Namespace)
	if strings.HasPrefix(e.why, "policy") {
		says = e.why
	}
	d.set(v1alpha1.ConditionExpiresSoon, metav1.ConditionTrue, "TTL", says)
}
