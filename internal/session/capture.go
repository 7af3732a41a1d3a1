package session

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// service decides about one Service: its captured ports, its wanted ports, and the record of both.
func (d *decision) service(name string) {
	svc, a := d.Services[name], d.alteration(name)
	if a != nil && (svc == nil || svc.UID != a.Spec.Target.UID || !a.DeletionTimestamp.IsZero()) {
		d.abandon(a, svc)
		return
	}
	if missing := d.unrecorded(name, a); len(missing) > 0 {
		if len(d.Routers) > 0 {
			d.step(Record{Service: name, Ports: missing, Sessions: d.sessionsOf(name)})
		}
		if a == nil {
			return
		}
	}
	if a == nil {
		return
	}
	if joined := d.notHeld(name); len(joined) > 0 {
		d.step(Hold{Service: name, Sessions: joined})
	}
	if d.originWanted(a, svc) || len(a.Spec.Ports) > 0 && d.admitRouters(a, svc) {
		return
	}
	released := true
	for i := range a.Spec.Ports {
		p := &a.Spec.Ports[i]
		if d.wantedPort(name, capturedPortOf(p)) {
			released = false
			d.arm(svc, a, p)
		} else {
			d.release(svc, a, p)
		}
	}
	if released && len(a.Spec.Ports) == 0 {
		d.finish(a, svc)
		return
	}
	d.describe(a)
}

// wantedPort says whether a port should be captured: somebody wants it, a laptop of theirs has connected or it is captured
// already, and there is a router to lead to.
func (d *decision) wantedPort(service string, port Port) bool {
	return len(d.wants[portKey{service, port}]) > 0 && len(d.Routers) > 0
}

// unrecorded are the wanted ports that the Alteration does not hold. A port is first captured when the laptop of somebody
// who wants it is connected: nothing is altered for a laptop that cannot be reached.
func (d *decision) unrecorded(service string, a *v1alpha1.Alteration) []Port {
	var out []Port
	for k, ws := range d.wants {
		if k.service != service || (a != nil && capturedPort(a, k.port) != nil) {
			continue
		}
		if slices.ContainsFunc(ws, func(w want) bool { return d.answers(w) > 0 }) {
			out = append(out, k.port)
		}
	}
	slices.SortFunc(out, func(a, b Port) int { return strings.Compare(a.String(), b.String()) })
	return out
}

func (d *decision) sessionsOf(service string) []*v1alpha1.Session {
	var out []*v1alpha1.Session
	for k, ws := range d.wants {
		if k.service != service {
			continue
		}
		for _, w := range ws {
			if !slices.Contains(out, w.session) {
				out = append(out, w.session)
			}
		}
	}
	slices.SortFunc(out, func(a, b *v1alpha1.Session) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// notHeld are the sessions that have joined a captured Service and would, on their end, be gone before it is restored.
func (d *decision) notHeld(service string) []*v1alpha1.Session {
	return slices.DeleteFunc(d.sessionsOf(service), func(s *v1alpha1.Session) bool {
		return slices.Contains(s.Finalizers, v1alpha1.Finalizer)
	})
}

// originWanted makes or mends the origin Service; it reports true if that must come first.
func (d *decision) originWanted(a *v1alpha1.Alteration, svc *corev1.Service) bool {
	if len(a.Spec.Ports) == 0 {
		return false
	}
	want := originService(a, svc)
	have := d.Services[a.Spec.Origin]
	if have != nil && !isOurs(have, svc.UID) {
		return false // somebody else's: check refuses every wish, and what is captured is released
	}
	if have == nil || !originMatches(have, want) {
		d.step(WriteOrigin{Service: want, Exists: have != nil})
		return true
	}
	return false
}

// originService is the headless Service that finds the pods of svc while its ports lead to the routers.
func originService(a *v1alpha1.Alteration, svc *corev1.Service) *corev1.Service {
	origin := &corev1.Service{}
	origin.Name, origin.Namespace = a.Spec.Origin, svc.Namespace
	origin.Labels = map[string]string{v1alpha1.LabelManaged: managed, v1alpha1.LabelOriginOf: svc.Name}
	origin.OwnerReferences = ownedBy(svc)
	origin.Spec = corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone, Selector: svc.Spec.Selector,
		PublishNotReadyAddresses: svc.Spec.PublishNotReadyAddresses,
		IPFamilies:               svc.Spec.IPFamilies, IPFamilyPolicy: svc.Spec.IPFamilyPolicy,
	}
	for i := range a.Spec.Ports {
		p := capturedPortOf(&a.Spec.Ports[i])
		origin.Spec.Ports = append(origin.Spec.Ports, corev1.ServicePort{
			Name: originPortName(p), Port: p.Number, Protocol: p.Protocol(), TargetPort: a.Spec.Ports[i].Before,
		})
	}
	return origin
}

func originPortName(p Port) string { return "p" + dashed(p) }

// dashed is a port as names of objects can have it.
func dashed(p Port) string { return strings.ReplaceAll(p.String(), "/", "-") }

func originMatches(have, want *corev1.Service) bool {
	return have.Labels[v1alpha1.LabelOriginOf] == want.Labels[v1alpha1.LabelOriginOf] &&
		mapsEqual(have.Spec.Selector, want.Spec.Selector) &&
		have.Spec.PublishNotReadyAddresses == want.Spec.PublishNotReadyAddresses &&
		slices.EqualFunc(have.Spec.Ports, want.Spec.Ports, func(a, b corev1.ServicePort) bool {
			return a.Name == b.Name && a.Port == b.Port && a.Protocol == b.Protocol && a.TargetPort == b.TargetPort
		})
}

// arm takes one wanted port a step further towards the routers.
func (d *decision) arm(svc *corev1.Service, a *v1alpha1.Alteration, p *v1alpha1.CapturedPort) {
	id := capturedPortOf(p)
	sp, st := servicePort(svc, id), portStatus(a, id)
	if sp == nil { // the port itself was taken off the Service: nothing is ours any more
		d.release(svc, a, p)
		return
	}
	acked := d.knowing(a, svc.Name, p, d.acknowledged(p, false))
	if st != nil && st.DrainUntil != nil { // somebody wants it again while it drains
		d.step(MarkPort{Alteration: a, Port: emptyStatus(id)})
		return
	}
	if len(acked) < len(d.Routers) {
		d.within(time.Second) // the fleet is being told; it wakes us
		if len(acked) == 0 {
			return
		}
	}
	ours := d.ourSlices(svc.Name, p)
	if len(ours) == 0 && d.readyIn(svc.Name, p) && !d.readyIn(a.Spec.Origin, p) {
		d.within(200 * time.Millisecond) // Kubernetes has yet to find the original pods for the routers
		return
	}
	if len(ours) == 0 && !d.policed(svc, p) {
		d.within(time.Second)
		return
	}
	want := routerSlices(svc, a, p, sp, d.offerable(svc.Name, p, acked, ours, st != nil && st.ArmedAt != nil))
	if !slicesMatch(ours, want) {
		s := WriteSlices{Service: svc.Name, Want: want, Have: ours}
		if len(ours) == 0 && !id.UDP && d.Admissions[portKey{svc.Name, id}].Callers != nil { // whether a datagram arrives nobody says
			s.Reach = p.RouterPort
		}
		d.step(s)
		return
	}
	flipped := sp.TargetPort == intstr.FromString(p.After)
	switch {
	case !flipped && sp.TargetPort != p.Before:
		d.step(Rebase{Alteration: a, Port: id, Before: sp.TargetPort, Reverted: st != nil && st.ArmedAt != nil})
	case !flipped && st != nil && st.ArmedAt != nil:
		d.step(CountRevert{Alteration: a, Port: id})
	case !flipped && len(acked) == len(d.Routers):
		d.step(Flip{Service: svc, Port: *p, From: p.Before, To: intstr.FromString(p.After), Settled: d.Relisting})
	case !flipped:
	case st == nil || st.ArmedAt == nil:
		if d.originalsIn(svc.Name, p) {
			d.within(100 * time.Millisecond)
			return
		}
		d.step(Settle{Alteration: a, Port: id, Armed: true})
	}
}

// release takes one port that nobody wants a step further on its way back.
func (d *decision) release(svc *corev1.Service, a *v1alpha1.Alteration, p *v1alpha1.CapturedPort) {
	id := capturedPortOf(p)
	sp, st := servicePort(svc, id), portStatus(a, id)
	if sp != nil && sp.TargetPort == intstr.FromString(p.After) {
		d.step(Flip{Service: svc, Port: *p, From: intstr.FromString(p.After), To: p.Before})
		return
	}
	if svc != nil && owned(svc) && !leadsToRouters(svc, a) {
		d.step(GiveBack{Alteration: a, Service: svc})
		return
	}
	if ours := d.ourSlices(svc.Name, p); len(ours) > 0 {
		if sp != nil && !d.originalsIn(svc.Name, p) && d.originalsIn(a.Spec.Origin, p) {
			d.within(50 * time.Millisecond) // Kubernetes has yet to put the pods back
			return
		}
		d.step(DeleteSlices{Slices: ours, Settled: d.Relisting})
		return
	}
	d.drain(a, p, st)
}

// leadsToRouters says whether any port of an alteration is flipped.
func leadsToRouters(svc *corev1.Service, a *v1alpha1.Alteration) bool {
	return slices.ContainsFunc(a.Spec.Ports, func(p v1alpha1.CapturedPort) bool {
		sp := servicePort(svc, capturedPortOf(&p))
		return sp != nil && sp.TargetPort == intstr.FromString(p.After)
	})
}

// drain lets the connections end that are open at the routers, then takes the port off the record.
func (d *decision) drain(a *v1alpha1.Alteration, p *v1alpha1.CapturedPort, st *v1alpha1.PortStatus) {
	if st == nil || st.DrainUntil == nil {
		d.step(Settle{Alteration: a, Port: capturedPortOf(p), Drain: d.drainTime(a)})
		return
	}
	open := 0
	for _, r := range d.Routers {
		if l := listener(r, int(p.RouterPort)); l != nil {
			open += r.Open[int(p.RouterPort)]
			if l.DrainUntil == nil {
				open++ // has not heard yet: what it holds is not known
			}
		}
	}
	if left := st.DrainUntil.Sub(d.Now) + time.Second; open > 0 && left > 0 {
		d.within(min(left, 200*time.Millisecond))
		return
	}
	d.step(Unrecord{Alteration: a, Port: capturedPortOf(p)})
}

// drainTime is the longest that a session which this alteration was for allows.
func (d *decision) drainTime(a *v1alpha1.Alteration) time.Duration {
	drain := time.Duration(0)
	found := false
	for _, s := range d.Sessions {
		if slices.Contains(a.Status.Sessions, s.Name) {
			drain, found = max(drain, s.Spec.Drain.Duration), true
		}
	}
	if !found {
		return defaultDrain
	}
	return drain
}

const defaultDrain = 15 * time.Second

// abandon lets go of an alteration whose target is gone, was replaced, or that somebody deletes: what can be restored is.
func (d *decision) abandon(a *v1alpha1.Alteration, svc *corev1.Service) {
	if svc != nil && svc.UID == a.Spec.Target.UID {
		for i := range a.Spec.Ports {
			d.release(svc, a, &a.Spec.Ports[i])
		}
		if len(a.Spec.Ports) > 0 {
			return
		}
		d.finish(a, svc)
		return
	}
	var left []discoveryv1.EndpointSlice
	for i := range a.Spec.Ports {
		left = append(left, d.ourSlices(a.Spec.Target.Name, &a.Spec.Ports[i])...)
	}
	left = slices.DeleteFunc(left, func(s discoveryv1.EndpointSlice) bool { // a successor's are its own
		return !slices.ContainsFunc(s.OwnerReferences, func(r ownerRef) bool { return r.UID == a.Spec.Target.UID })
	})
	if len(left) > 0 {
		d.step(DeleteSlices{Slices: left})
		return
	}
	for i := range a.Spec.Ports {
		d.drain(a, &a.Spec.Ports[i], portStatus(a, capturedPortOf(&a.Spec.Ports[i])))
	}
	if len(a.Spec.Ports) == 0 {
		d.finish(a, nil)
	}
}

// finish ends an alteration that holds no port any more; svc is nil if it is gone.
func (d *decision) finish(a *v1alpha1.Alteration, svc *corev1.Service) {
	if !d.admit(a, nil) {
		d.step(Finish{Alteration: a, Service: svc})
	}
}

// acknowledged are the routers that listen for a port, with all of its routes, in the wanted state.
func (d *decision) acknowledged(p *v1alpha1.CapturedPort, draining bool) []Router {
	var out []Router
	for _, r := range d.Routers {
		if l := listener(r, int(p.RouterPort)); l != nil && (l.DrainUntil != nil) == draining {
			out = append(out, r)
		}
	}
	return out
}

// knowing leaves out the routers that have yet to learn of the original pods, unless they are offered already.
func (d *decision) knowing(a *v1alpha1.Alteration, service string, p *v1alpha1.CapturedPort, acked []Router) []Router {
	if !d.readyIn(a.Spec.Origin, p) {
		return acked // there is nothing to learn
	}
	ours := d.ourSlices(service, p)
	return slices.DeleteFunc(acked, func(r Router) bool {
		return r.Finds != nil && !slices.Contains(r.Finds, int(p.RouterPort)) && !isOffered(r, ours)
	})
}

// offerable are the routers among acked that new connections should go to. One that is silent is left out; one that joins
// an armed port waits until it holds every laptop that another one holds, whose requests it would pass to the original.
// If nobody would be left, everybody is.
func (d *decision) offerable(service string, p *v1alpha1.CapturedPort, acked []Router, ours []discoveryv1.EndpointSlice, armed bool) []Router {
	out := slices.DeleteFunc(slices.Clone(acked), func(r Router) bool {
		return r.Silent || armed && !isOffered(r, ours) && slices.ContainsFunc(d.wants[portKey{service, capturedPortOf(p)}], func(w want) bool {
			return d.answers(w) > 0 && !slices.Contains(r.Connected[ID(w.session)], w.route())
		})
	})
	if len(out) == 0 {
		return acked
	}
	return out
}

func isOffered(r Router, in []discoveryv1.EndpointSlice) bool {
	for _, s := range in {
		for _, e := range s.Endpoints {
			if slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool { return slices.Contains(e.Addresses, a.String()) }) {
				return true
			}
		}
	}
	return false
}

// ourSlices are the EndpointSlices that dayfly made for one port.
func (d *decision) ourSlices(service string, p *v1alpha1.CapturedPort) []discoveryv1.EndpointSlice {
	var out []discoveryv1.EndpointSlice
	for _, s := range d.Slices[service] {
		if s.Labels[discoveryv1.LabelManagedBy] == sliceManager && s.Labels[v1alpha1.LabelManaged] == managed && len(s.Ports) == 1 && s.Ports[0].Port != nil &&
			*s.Ports[0].Port == p.RouterPort {
			out = append(out, s)
		}
	}
	return out
}

// originalsIn says whether a Service's own slices have an endpoint for the port, ready or not.
func (d *decision) originalsIn(service string, p *v1alpha1.CapturedPort) bool {
	return d.anyIn(service, p, func(discoveryv1.Endpoint) bool { return true })
}

// readyIn says whether a Service's own slices offer an endpoint for the port.
func (d *decision) readyIn(service string, p *v1alpha1.CapturedPort) bool {
	return d.anyIn(service, p, func(e discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready })
}

func (d *decision) anyIn(service string, p *v1alpha1.CapturedPort, counts func(discoveryv1.Endpoint) bool) bool {
	for _, s := range d.Slices[service] {
		if s.Labels[discoveryv1.LabelManagedBy] == sliceManager || !slices.ContainsFunc(s.Endpoints, counts) {
			continue
		}
		for _, sp := range s.Ports {
			name := p.Name
			if s.Labels[v1alpha1.LabelOriginOf] != "" {
				name = originPortName(capturedPortOf(p))
			}
			if sp.Name != nil && *sp.Name == name && sp.Port != nil {
				return true
			}
		}
	}
	return false
}

const (
	sliceManager = "dayfly.dev"
	managed      = "dayfly" // value of the label v1alpha1.LabelManaged
)

// originName names the origin Service of a Service.
func originName(service string) string { return shorten(service + "-dayfly-origin") }

// isOurs says whether dayfly made an object for the Service with that UID. Names prove nothing.
func isOurs(o metav1.Object, service types.UID) bool {
	return o.GetLabels()[v1alpha1.LabelManaged] == managed &&
		slices.ContainsFunc(o.GetOwnerReferences(), func(r ownerRef) bool { return r.UID == service })
}

// routerSlices are the EndpointSlices that offer routers for one port, one for each address family of the Service.
func routerSlices(svc *corev1.Service, a *v1alpha1.Alteration, p *v1alpha1.CapturedPort, sp *corev1.ServicePort, routers []Router) []discoveryv1.EndpointSlice {
	var out []discoveryv1.EndpointSlice
	for _, family := range svc.Spec.IPFamilies {
		s := discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressType(family)}
		s.Name = sliceName(svc.Name, capturedPortOf(p), family)
		s.Namespace = svc.Namespace
		s.OwnerReferences = ownedBy(svc)
		s.Labels = map[string]string{
			discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: sliceManager, v1alpha1.LabelManaged: managed,
		}
		s.Ports = []discoveryv1.EndpointPort{{
			Name: new(sp.Name), Port: new(p.RouterPort), Protocol: new(capturedPortOf(p).Protocol()), AppProtocol: sp.AppProtocol,
		}}
		for _, r := range routers {
			for _, addr := range r.Addresses {
				if addr.Is4() == (family == corev1.IPv4Protocol) {
					s.Endpoints = append(s.Endpoints, endpoint(r, addr))
				}
			}
		}
		if len(s.Endpoints) > 0 {
			out = append(out, s)
		}
	}
	return out
}

func sliceName(service string, port Port, family corev1.IPFamily) string {
	return shorten(fmt.Sprintf("%s-dayfly-%s-%s", service, dashed(port), strings.ToLower(string(family))))
}

func endpoint(r Router, addr netip.Addr) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses:  []string{addr.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
		NodeName:   new(r.Node),
	}
	if r.Zone != "" {
		e.Zone = new(r.Zone)
	}
	return e
}

// slicesMatch compares what matters: who is offered, and for which port.
func slicesMatch(have, want []discoveryv1.EndpointSlice) bool {
	return slices.Equal(offers(have), offers(want))
}

func offers(ss []discoveryv1.EndpointSlice) []string {
	var out []string
	for _, s := range ss {
		for _, e := range s.Endpoints {
			out = append(out, fmt.Sprintf("%s %s %s:%d", s.Name, *s.Ports[0].Name, e.Addresses[0], *s.Ports[0].Port))
		}
	}
	slices.Sort(out)
	return out
}

// describe keeps what people read about an alteration up to date.
func (d *decision) describe(a *v1alpha1.Alteration) {
	var names, owners, what []string
	var until *time.Time
	for _, s := range d.sessionsOf(a.Spec.Target.Name) {
		names = append(names, s.Name)
		owners = append(owners, s.Spec.Owner.Username)
		if s.Status.ExpiresAt != nil && (until == nil || s.Status.ExpiresAt.After(*until)) {
			until = &s.Status.ExpiresAt.Time
		}
	}
	applied := len(a.Spec.Ports) > 0
	for i := range a.Spec.Ports {
		p := capturedPortOf(&a.Spec.Ports[i])
		st := portStatus(a, p)
		switch {
		case st != nil && st.DrainUntil != nil:
			what = append(what, fmt.Sprintf("port %s draining", p))
			applied = false
		case st != nil && st.ArmedAt != nil:
			what = append(what, fmt.Sprintf("port %s to routers", p))
		default:
			what = append(what, fmt.Sprintf("port %s being captured", p))
			applied = false
		}
	}
	slices.Sort(owners)
	text := description{
		Target: strings.ToLower(a.Spec.Target.Kind) + "/" + a.Spec.Target.Name, Summary: strings.Join(what, ", "),
		By: strings.Join(slices.Compact(owners), ","), Sessions: names, Until: until, Applied: applied,
		Callers: d.met(a),
	}
	if len(names) == 0 {
		text.Sessions = a.Status.Sessions // who it was for stays known until it is gone: their proof is due
		text.By = a.Status.By
	}
	if !text.matches(a) {
		d.step(Describe{Alteration: a, Text: text})
	}
}
