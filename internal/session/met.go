package session

import (
	"slices"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/intercept"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// met are the known callers of an alteration's ports and those that routers have seen since. There are at most as many as
// a port remembers, and nothing but a new one changes the list: it costs that many writes in an alteration's life, whatever the
// traffic.
func (d *decision) met(a *v1alpha1.Alteration) []v1alpha1.Caller {
	out := slices.Clip(a.Status.Callers)
	for _, p := range a.Spec.Ports {
		for i := range d.Routers {
			for _, address := range d.Routers[i].Met[int(p.RouterPort)] {
				known := slices.ContainsFunc(out, func(c v1alpha1.Caller) bool { return c.Port == p.Port && c.Address == address.String() })
				if !known && len(out) < intercept.MostMet {
					out = append(out, v1alpha1.Caller{Port: p.Port, Address: address.String(), Since: metav1.NewTime(d.Now)})
				}
			}
		}
	}
	return out
}
