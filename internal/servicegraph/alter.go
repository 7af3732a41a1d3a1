package servicegraph

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/session"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func keyOf(namespace, name string) client.ObjectKey {
	return client.ObjectKey{Namespace: namespace, Name: name}
}

func itoa(n int32) string { return strconv.Itoa(int(n)) }

// alter draws the sessions' intercepts on their nodes, and what is altered on behalf of no session that can be seen.
func (b *builder) alter() {
	wanted := map[client.ObjectKey]bool{}
	for i := range b.o.Sessions {
		s := &b.o.Sessions[i]
		for _, ic := range s.Spec.Intercepts {
			key := keyOf(s.Namespace, ic.Service)
			wanted[key] = true
			b.draw(key, ofIntercept(s, ic))
		}
	}
	for i := range b.o.Alterations {
		a := &b.o.Alterations[i]
		key := keyOf(a.Namespace, a.Spec.Target.Name)
		if wanted[key] {
			continue
		}
		for _, p := range a.Spec.Ports {
			was := Alteration{
				Owner: cmp.Or(a.Status.By, "nobody"), Service: key.Name, Port: p.Port, Rule: "captured", State: "Restoring",
				Message: a.Status.Summary, Since: a.CreationTimestamp.UTC(), Until: utc(a.Status.Until),
			}
			if p.Protocol == "UDP" {
				was.Protocol = p.Protocol
			}
			b.draw(key, was)
		}
	}
	for _, n := range b.nodes {
		slices.SortFunc(n.Alterations, func(x, y Alteration) int {
			return cmp.Or(cmp.Compare(x.Service, y.Service), cmp.Compare(x.Port, y.Port), x.Since.Compare(y.Since), cmp.Compare(x.Session, y.Session))
		})
	}
}

// draw puts an alteration on its node; what names a Service that is not there has a node too.
func (b *builder) draw(key client.ObjectKey, a Alteration) {
	n := b.byService[key]
	if n == nil {
		n = b.elsewhere(key.Namespace, key.Name)
	}
	n.Alterations = append(n.Alterations, a)
}

func ofIntercept(s *v1alpha1.Session, ic v1alpha1.Intercept) Alteration {
	a := Alteration{
		Session: s.Name, Owner: s.Spec.Owner.Username, Host: s.Spec.Host, Service: ic.Service, Port: ic.Port, LaptopPort: ic.LaptopPort,
		Rule: session.RuleShown(s.Spec.RoutingKey, ic), State: "New", Since: s.CreationTimestamp.UTC(), Until: utc(s.Status.ExpiresAt),
	}
	if ic.Protocol == "UDP" {
		a.Protocol = ic.Protocol
	}
	for _, st := range s.Status.Intercepts {
		if session.StatusRoute(st) == session.Route(ic) {
			a.State, a.Message = string(st.State), st.Message
			if st.ArmedAt != nil {
				a.Since = st.ArmedAt.UTC()
			}
		}
	}
	if !s.DeletionTimestamp.IsZero() {
		a.State, a.Message = "Restoring", ""
	}
	if s.Status.Connected && s.DeletionTimestamp.IsZero() {
		a.Until = nil // it lasts as long as the laptop is connected
	}
	return a
}

func utc(t *metav1.Time) *time.Time {
	if t == nil {
		return nil
	}
	return new(t.UTC())
}
