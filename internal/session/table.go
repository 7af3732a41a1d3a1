package session

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/intercept"
)

// Compile makes the routers' table from what is recorded. It is pure, and the same for the same objects whatever their
// order. OriginKey says what the listeners' origins mean.
func Compile(alterations []v1alpha1.Alteration, sessions []v1alpha1.Session) ([]intercept.Listener, []control.Laptop) {
	sessions = slices.Clone(sessions)
	slices.SortFunc(sessions, func(a, b v1alpha1.Session) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	var listeners []intercept.Listener
	for i := range alterations {
		for k := range alterations[i].Spec.Ports {
			listeners = append(listeners, compileListener(&alterations[i], &alterations[i].Spec.Ports[k], sessions))
		}
	}
	slices.SortFunc(listeners, func(a, b intercept.Listener) int { return cmp.Compare(a.Port, b.Port) })
	var laptops []control.Laptop
	for i := range sessions {
		if s := &sessions[i]; s.DeletionTimestamp.IsZero() && !tooMany(s) {
			laptops = append(laptops, laptopOf(s))
		}
	}
	return listeners, laptops
}

func compileListener(a *v1alpha1.Alteration, p *v1alpha1.CapturedPort, sessions []v1alpha1.Session) intercept.Listener {
	id := capturedPortOf(p)
	l := intercept.Listener{
		Port: int(p.RouterPort), Service: a.Namespace + "/" + a.Spec.Target.Name, ServicePort: int(p.Port), UDP: id.UDP,
		Origin: OriginKey(a.Namespace, a.Spec.Origin, id), AffinitySeconds: affinity(a),
	}
	if st := portStatus(a, id); st != nil && st.DrainUntil != nil {
		l.DrainUntil = new(st.DrainUntil.Time)
	}
	for i := range sessions {
		s := &sessions[i]
		if s.Namespace != a.Namespace || !s.DeletionTimestamp.IsZero() {
			continue
		}
		for _, ic := range s.Spec.Intercepts {
			if ic.Service == a.Spec.Target.Name && PortOf(ic) == id && !refusedIn(s, ic) {
				l.Routes = append(l.Routes, routeOf(s, ic))
			}
		}
	}
	return dedupe(l)
}

// dedupe keeps the oldest of several routes that take everything; Decide refuses the others, this holds until it has.
func dedupe(l intercept.Listener) intercept.Listener {
	all := false
	l.Routes = slices.DeleteFunc(l.Routes, func(r intercept.Route) bool {
		again := r.All && all
		all = all || r.All
		return again
	})
	return l
}

func affinity(a *v1alpha1.Alteration) int {
	var before struct {
		Spec struct {
			SessionAffinity       string
			SessionAffinityConfig struct{ ClientIP struct{ TimeoutSeconds int } }
		}
	}
	if unmarshal(a.Spec.Before.Raw, &before) != nil || before.Spec.SessionAffinity != "ClientIP" {
		return 0
	}
	return cmp.Or(before.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, 10800)
}

func refusedIn(s *v1alpha1.Session, ic v1alpha1.Intercept) bool {
	for _, st := range s.Status.Intercepts {
		if StatusRoute(st) == Route(ic) {
			return st.State == v1alpha1.StateRefused
		}
	}
	return true // not judged yet: the owner's right has not been asked for
}

// OriginKey names the endpoints of one port of an origin Service.
func OriginKey(namespace, origin string, port Port) string {
	return fmt.Sprintf("%s/%s:%s", namespace, origin, originPortName(port))
}

func laptopOf(s *v1alpha1.Session) control.Laptop {
	l := control.Laptop{Session: ID(s), Name: s.Namespace + "/" + s.Name, PublicKey: s.Spec.PublicKey, Routes: []string{},
		Drain: s.Spec.Drain.Duration}
	for _, ic := range s.Spec.Intercepts {
		l.Routes = append(l.Routes, Route(ic))
	}
	return l
}

// routeOf is an intercept in the form that the routers know.
func routeOf(s *v1alpha1.Session, ic v1alpha1.Intercept) intercept.Route {
	r := intercept.Route{ID: ID(s) + "/" + Route(ic), Session: s.Namespace + "/" + s.Name, All: ic.All, Datagrams: PortOf(ic).UDP}
	switch {
	case ic.All:
	case ic.Rule != nil:
		r.Match.SNI = ic.Rule.SNI
		for _, h := range ic.Rule.Headers {
			r.Match.Headers = append(r.Match.Headers, intercept.HeaderMatch{Name: h.Name, Value: h.Value})
		}
		for _, b := range ic.Rule.Baggage {
			r.Match.Baggage = append(r.Match.Baggage, intercept.BaggageMatch{Key: b.Key, Value: b.Value})
		}
	default:
		r.Match.AnyOf = []intercept.Match{
			{Baggage: []intercept.BaggageMatch{{Key: v1alpha1.BaggageRoutingKey, Value: s.Spec.RoutingKey}}},
			{Headers: []intercept.HeaderMatch{{Name: v1alpha1.HeaderRoutingKey, Value: s.Spec.RoutingKey}}},
		}
	}
	return r
}
