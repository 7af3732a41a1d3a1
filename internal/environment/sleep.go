package environment

import (
	"slices"
	"time"

	"dayfly.dev/dayfly/internal/source"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// nodeOfTheSleeping is a label that no node has: a DaemonSet that asks for it has no pods.
const nodeOfTheSleeping = "dayfly.dev/asleep"

// sleeps says whether an object of a kind runs nothing while its environment is asleep.
func sleeps(kind string) bool {
	return slices.Contains([]string{"Deployment", "StatefulSet", "ReplicaSet", "ReplicationController", "Rollout", "DaemonSet", "CronJob"}, kind)
}

// putToSleep makes workloads run nothing. What it writes is given up again on waking: an autoscaler, which rests while there are
// no replicas, finds the number to be its own as before.
func putToSleep(cs []source.Component) {
	for _, c := range cs {
		for _, o := range c.Objects {
			if !sleeps(o.GetKind()) {
				continue
			}
			switch o.GetKind() { // where a spec is no object, the API server refuses it, and says so
			case "DaemonSet":
				_ = unstructured.SetNestedField(o.Object, "true", "spec", "template", "spec", "nodeSelector", nodeOfTheSleeping)
			case "CronJob":
				_ = unstructured.SetNestedField(o.Object, true, "spec", "suspend")
			default:
				_ = unstructured.SetNestedField(o.Object, int64(0), "spec", "replicas")
			}
		}
	}
}

// nodTime is how long requests that are under way have to end before an environment falls asleep: the gateway holds new ones from
// its beginning, and they wake it.
const nodTime = 3 * time.Second // a second of which may be over when it is first seen

// nodsOff says whether an environment that is to fall asleep still runs, for the requests that are under way.
func (d *decision) nodsOff() bool {
	left := d.st.RequestedAt.Add(nodTime).Sub(d.Now)
	if d.Domain == "" || !d.Env.Spec.Asleep() || d.st.Revisions.Applied == d.st.Revisions.Requested || d.st.Revisions.Ready == "" || left <= 0 {
		return false
	}
	d.recheck = min(d.recheck, left)
	return true
}

// idle says why an environment that is ready, or long since should be, falls asleep by itself now; "" if it does not.
func (d *decision) idle() string {
	spec := &d.Env.Spec
	ready := d.st.Revisions.Ready == d.st.Revisions.Requested || d.Wait != nil // which runs as it was
	if spec.Asleep() || d.rules().pinned(spec) || !ready && d.Now.Sub(d.began()) < d.within() {
		return ""
	}
	if d.byTheClock() {
		return "by the schedule of policy " + d.Policy.Name
	}
	after := d.rules().sleepAfter(spec)
	if after == 0 || d.Domain == "" || !ready {
		return ""
	}
	left := latest(d.began(), d.st.LastRequest).Add(after).Sub(d.Now)
	d.recheck = min(d.recheck, max(left, time.Second))
	if left > 0 {
		return ""
	}
	return "nobody has asked for " + after.String()
}

// quietFor is how long nobody must have asked for an environment to fall asleep by the clock.
const quietFor = 5 * time.Minute

// byTheClock says whether a sleep window has begun since the environment was last woken or changed, and nobody uses it.
func (d *decision) byTheClock() bool {
	s := d.rules().lifetime().Sleep
	if s == nil {
		return false
	}
	began, next := window(s, d.Now)
	if !next.IsZero() {
		d.recheck = min(d.recheck, max(next.Sub(d.Now), time.Second))
	}
	if began.IsZero() || !d.began().Before(began) {
		return false
	}
	quiet := time.Duration(0)
	if r := d.st.LastRequest; r != nil {
		quiet = r.Add(quietFor).Sub(d.Now)
	}
	d.recheck = min(d.recheck, max(quiet, time.Second))
	return quiet <= 0
}
