package session

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/intercept"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	maxReverts = 3
	recheck    = 30 * time.Second // how often rights and leases are looked at when nothing happens
)

// Plan is what Decide wants: steps that are independent of one another, and what people should read.
type Plan struct {
	Steps    []Step
	Sessions map[string]Verdict // by session ID
	Recheck  time.Duration      // look again at the latest after this time; 0: only when something changes
}

// Verdict is what became of one session.
type Verdict struct {
	Intercepts []v1alpha1.InterceptStatus
	Release    bool // nothing is altered on its account any more
	Expire     bool // its lease is over
	Connected  bool
	TooMany    string // why it is one too many; "" if it is not
}

// want is one session's wish for one port.
type want struct {
	session   *v1alpha1.Session
	intercept v1alpha1.Intercept
}

func (w want) route() string { return Route(w.intercept) }

// portKey names one port of one Service.
type portKey struct {
	service string
	port    Port
}

// Decide says what to do next about everything observed.
func Decide(o *Observed) Plan {
	d := &decision{Observed: o, plan: Plan{Sessions: map[string]Verdict{}, Recheck: recheck}, wants: map[portKey][]want{},
		refused: map[string]v1alpha1.InterceptStatus{}}
	d.collect()
	for _, name := range d.services() {
		d.service(name)
	}
	for i := range o.Sessions {
		d.session(&o.Sessions[i])
	}
	return d.plan
}

type decision struct {
	*Observed
	plan    Plan
	wants   map[portKey][]want
	refused map[string]v1alpha1.InterceptStatus // by session ID + route
	beyond  map[string]string                   // by session ID: why it is one too many
}

func (d *decision) step(s Step) { d.plan.Steps = append(d.plan.Steps, s) }

func (d *decision) within(t time.Duration) {
	if t > 0 && (d.plan.Recheck == 0 || t < d.plan.Recheck) {
		d.plan.Recheck = t
	}
}

func (d *decision) refuse(s *v1alpha1.Session, i v1alpha1.Intercept, reason, message string) {
	st := interceptStatusOf(i)
	st.State, st.Reason, st.Message = v1alpha1.StateRefused, reason, message
	d.refused[ID(s)+"/"+Route(i)] = st
}

// interceptStatusOf is an empty status of an intercept.
func interceptStatusOf(i v1alpha1.Intercept) v1alpha1.InterceptStatus {
	return v1alpha1.InterceptStatus{Service: i.Service, Port: i.Port, Protocol: emptyStatus(PortOf(i)).Protocol}
}

// collect finds who wants which port, oldest session first, leaving out what is refused.
func (d *decision) collect() {
	sessions := make([]*v1alpha1.Session, 0, len(d.Sessions))
	for i := range d.Sessions {
		if s := &d.Sessions[i]; s.DeletionTimestamp.IsZero() && !expired(s, d.connected(s), d.Now) {
			sessions = append(sessions, s)
		}
	}
	slices.SortFunc(sessions, func(a, b *v1alpha1.Session) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	d.beyond = beyond(sessions, d.Bounds)
	for _, s := range sessions {
		for _, i := range s.Spec.Intercepts {
			d.consider(s, i)
		}
	}
}

func (d *decision) consider(s *v1alpha1.Session, i v1alpha1.Intercept) {
	key := portKey{i.Service, PortOf(i)}
	if why := d.beyond[ID(s)]; why != "" {
		d.refuse(s, i, ReasonTooMany, why)
		return
	}
	if why, denied := d.Denied[ID(s)+"/"+Route(i)]; denied {
		d.refuse(s, i, "Forbidden", why)
		return
	}
	if reason, message := d.check(i); reason != "" {
		d.refuse(s, i, reason, message)
		return
	}
	for _, st := range s.Status.Intercepts { // once contested, always: it never flaps
		if StatusRoute(st) == Route(i) && st.Reason == "Contested" {
			d.refuse(s, i, st.Reason, st.Message)
			return
		}
	}
	for _, other := range d.wants[key] {
		if ruleText(other.session, other.intercept) == ruleText(s, i) {
			d.refuse(s, i, "Conflict", fmt.Sprintf("the same rule (%s) is held by session %s of %s", RuleShown(s.Spec.RoutingKey, i),
				other.session.Name, other.session.Spec.Owner.Username))
			return
		}
	}
	d.wants[key] = append(d.wants[key], want{s, i})
}

// ruleText is a rule in the form that people write it; two rules with the same text take the same requests.
func ruleText(s *v1alpha1.Session, i v1alpha1.Intercept) string {
	return RuleText(s.Spec.RoutingKey, i)
}

// RuleText is an intercept's rule in the form that people write it.
func RuleText(routingKey string, i v1alpha1.Intercept) string {
	switch {
	case i.All:
		return "all"
	case i.Rule == nil:
		return "routing key " + routingKey
	}
	var lines []string
	if i.Rule.SNI != "" {
		lines = append(lines, "sni: "+i.Rule.SNI)
	}
	for _, h := range i.Rule.Headers {
		lines = append(lines, strings.ToLower(h.Name)+": "+h.Value)
	}
	for _, b := range i.Rule.Baggage {
		lines = append(lines, "baggage: "+b.Key+"="+b.Value)
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), ", ")
}

// services are the names of all that is captured or wanted, in order.
func (d *decision) services() []string {
	var names []string
	for k := range d.wants {
		names = append(names, k.service)
	}
	for _, a := range d.Alterations {
		names = append(names, a.Spec.Target.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (d *decision) alteration(service string) *v1alpha1.Alteration {
	for i := range d.Alterations {
		if d.Alterations[i].Spec.Target.Name == service {
			return &d.Alterations[i]
		}
	}
	return nil
}

// connected says whether any router holds a connection of the session's laptop.
func (d *decision) connected(s *v1alpha1.Session) bool {
	for _, r := range d.Routers {
		if _, ok := r.Connected[ID(s)]; ok {
			return true
		}
	}
	return false
}

// answers says on how many of the routers the session's laptop answers the route.
func (d *decision) answers(w want) int {
	n := 0
	for _, r := range d.Routers {
		if slices.Contains(r.Connected[ID(w.session)], w.route()) {
			n++
		}
	}
	return n
}

func expired(s *v1alpha1.Session, connected bool, now time.Time) bool {
	return !connected && s.Status.ExpiresAt != nil && now.After(s.Status.ExpiresAt.Time)
}

// session sums up what became of one session.
func (d *decision) session(s *v1alpha1.Session) {
	v := Verdict{Connected: d.connected(s), TooMany: d.beyond[ID(s)]}
	v.Expire = s.DeletionTimestamp.IsZero() && expired(s, v.Connected, d.Now)
	if !v.Connected && s.Status.ExpiresAt != nil {
		d.within(s.Status.ExpiresAt.Sub(d.Now) + 100*time.Millisecond)
	}
	v.Release = !s.DeletionTimestamp.IsZero()
	for _, i := range s.Spec.Intercepts {
		v.Intercepts = append(v.Intercepts, d.lived(s, i, d.interceptStatus(s, i, v.Connected)))
		if a := d.alteration(i.Service); a != nil && capturedPort(a, PortOf(i)) != nil && len(d.wants[portKey{i.Service, PortOf(i)}]) == 0 {
			v.Release = false // still being restored
		}
	}
	for i := range d.Alterations {
		a := &d.Alterations[i]
		if slices.Contains(a.Status.Sessions, s.Name) && d.onlyFor(a, s) {
			v.Release = false
		}
	}
	d.plan.Sessions[ID(s)] = v
}

// onlyFor says whether nobody but s keeps any port of an alteration captured.
func (d *decision) onlyFor(a *v1alpha1.Alteration, s *v1alpha1.Session) bool {
	for i := range a.Spec.Ports {
		for _, w := range d.wants[portKey{a.Spec.Target.Name, capturedPortOf(&a.Spec.Ports[i])}] {
			if w.session.Name != s.Name {
				return false
			}
		}
	}
	return true
}

// lived adds by which rule an intercept is in force, and since when.
func (d *decision) lived(s *v1alpha1.Session, i v1alpha1.Intercept, st v1alpha1.InterceptStatus) v1alpha1.InterceptStatus {
	if st.State == v1alpha1.StateRefused {
		return st
	}
	st.Rule = RuleShown(s.Spec.RoutingKey, i)
	if old := statusOf(s.Status.Intercepts, Route(i)); old != nil && old.Rule == st.Rule {
		st.Since = old.Since
	}
	if st.Since == nil && st.State == v1alpha1.StateArmed && s.DeletionTimestamp.IsZero() {
		st.Since = new(metav1.NewMicroTime(d.Now))
	}
	return st
}

func (d *decision) interceptStatus(s *v1alpha1.Session, i v1alpha1.Intercept, connected bool) v1alpha1.InterceptStatus {
	if st, ok := d.refused[ID(s)+"/"+Route(i)]; ok {
		return st
	}
	st := interceptStatusOf(i)
	st.Capture, st.State = "service", v1alpha1.StatePending
	w := want{s, i}
	a := d.alteration(i.Service)
	var armed *v1alpha1.PortStatus
	if a != nil {
		armed = portStatus(a, PortOf(i))
	}
	flipped := armed != nil && armed.ArmedAt != nil && armed.DrainUntil == nil
	switch {
	case len(d.Routers) == 0:
		st.Reason, st.Message = "NoRouter", "no router of dayfly is running: the original answers"
	case !connected && flipped:
		st.State, st.Reason, st.Message = v1alpha1.StateParked, "LaptopAway", "the laptop is not connected: the original answers"
	case !connected:
		st.Reason, st.Message = "LaptopAway", "waiting for the laptop to connect"
	case !flipped:
		st.State = v1alpha1.StateArming
	case d.answers(w) == 0:
		st.State, st.Reason, st.Message = v1alpha1.StateParked, "NothingServes", "the laptop is connected but does not answer this port: the original answers"
	case d.answers(w) < len(d.Routers) || !d.routed(w):
		st.State, st.Reason = v1alpha1.StateArming, "ConnectingRouters"
		st.Message = fmt.Sprintf("the laptop answers on %d of %d routers", d.answers(w), len(d.Routers))
	default:
		st.State = v1alpha1.StateArmed
		st.ArmedAt = armed.ArmedAt
	}
	return st
}

// routed says whether every router has acknowledged the route of w.
func (d *decision) routed(w want) bool {
	a := d.alteration(w.intercept.Service)
	p := capturedPort(a, PortOf(w.intercept))
	for _, r := range d.Routers {
		l := listener(r, int(p.RouterPort))
		if l == nil || !slices.ContainsFunc(l.Routes, func(rt intercept.Route) bool {
			return reflect.DeepEqual(rt, routeOf(w.session, w.intercept))
		}) {
			return false
		}
	}
	return true
}

func listener(r Router, port int) *intercept.Listener {
	for i := range r.Listeners {
		if r.Listeners[i].Port == port {
			return &r.Listeners[i]
		}
	}
	return nil
}
