package session

import (
	"fmt"

	"dayfly.dev/dayfly/api/v1alpha1"
	"k8s.io/apimachinery/pkg/api/meta"
)

// Bounds are how many sessions a namespace holds, and how many of them one owner has; 0 is no bound. They are kept by
// whoever decides, not at admission: there two that come at once would both be let in.
type Bounds struct{ Namespace, Owner int }

// ReasonTooMany is why a session beyond the bounds is refused.
const ReasonTooMany = "TooMany"

// beyond says of sessions, oldest first, which are too many, by ID, and why. Only those that stand count for their owner,
// so that nobody is kept out by what is refused anyway.
func beyond(sessions []*v1alpha1.Session, b Bounds) map[string]string {
	out := map[string]string{}
	all, of := 0, map[string]int{}
	for _, s := range sessions {
		owner := s.Spec.Owner.Username
		switch {
		case b.Owner > 0 && of[owner] >= b.Owner:
			out[ID(s)] = fmt.Sprintf("%s has %d sessions in namespace %s already, and may have %d: close one (dayfly session list)",
				owner, of[owner], s.Namespace, b.Owner)
		case b.Namespace > 0 && all >= b.Namespace:
			out[ID(s)] = fmt.Sprintf("namespace %s holds %d sessions already, and may hold %d: close one, or install dayfly with a higher "+
				"--sessions-per-namespace", s.Namespace, all, b.Namespace)
		default:
			all++
			of[owner]++
		}
	}
	return out
}

// tooMany says whether a session was refused for being beyond the bounds; routers are not told of it.
func tooMany(s *v1alpha1.Session) bool {
	c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionStalled)
	return c != nil && c.Reason == ReasonTooMany
}
