package session

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/intercept"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// world is a namespace with a service web, two routers and the sessions given.
func world(sessions ...v1alpha1.Session) *Observed {
	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "web-uid"}}
	web.Spec = corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.0.0.1", Selector: map[string]string{"app": "web"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
	}
	o := &Observed{
		Now: noon, Namespace: "shop", Sessions: sessions, Services: map[string]*corev1.Service{"web": web},
		Slices: map[string][]discoveryv1.EndpointSlice{}, Denied: map[string]string{},
	}
	for i := range 2 {
		o.Routers = append(o.Routers, Router{
			Name: fmt.Sprint("router-", i), Node: fmt.Sprint("node-", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)})},
			Connected: map[string][]string{},
		})
	}
	return o
}

func session(name string, created time.Duration, ic v1alpha1.Intercept) v1alpha1.Session {
	s := v1alpha1.Session{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID(name + "-uid"), CreationTimestamp: metav1.NewTime(noon.Add(created))}}
	s.Spec = v1alpha1.SessionSpec{Owner: v1alpha1.Owner{Username: name}, RoutingKey: name, Intercepts: []v1alpha1.Intercept{ic}, Lease: metav1.Duration{Duration: time.Hour}}
	return s
}

var wantWeb = v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: 3000}

// connect has every router hold the laptops of all sessions.
func connect(o *Observed) *Observed {
	for i := range o.Routers {
		for k := range o.Sessions {
			s := &o.Sessions[k]
			for _, ic := range s.Spec.Intercepts {
				o.Routers[i].Connected[ID(s)] = append(o.Routers[i].Connected[ID(s)], Route(ic))
			}
		}
	}
	return o
}

// record is the port on the record, for all sessions that there are.
func record(o *Observed) *v1alpha1.Alteration {
	for i := range o.Sessions {
		o.Sessions[i].Finalizers = []string{v1alpha1.Finalizer}
	}
	a := v1alpha1.Alteration{ObjectMeta: metav1.ObjectMeta{Name: "service-web", Namespace: "shop"}}
	a.Spec = v1alpha1.AlterationSpec{
		Target: v1alpha1.Target{Kind: "Service", Name: "web", UID: "web-uid"}, Origin: "web-dayfly-origin",
		Ports: []v1alpha1.CapturedPort{{Name: "http", Port: 80, Protocol: "TCP", Before: intstr.FromInt32(8080), After: "dayfly-x", RouterPort: 20000}},
	}
	o.Alterations = []v1alpha1.Alteration{a}
	return &o.Alterations[0]
}

// listen has every router acknowledge the table that the objects make.
func listen(o *Observed) {
	for i := range o.Sessions { // as the engine reports before it acts
		s := &o.Sessions[i]
		s.Status.Intercepts = []v1alpha1.InterceptStatus{{Service: "web", Port: 80, State: v1alpha1.StateArming}}
	}
	listeners, _ := Compile(o.Alterations, o.Sessions)
	for i := range o.Routers {
		o.Routers[i].Listeners = listeners
	}
}

func offer(o *Observed, a *v1alpha1.Alteration, routers []Router) {
	web := o.Services["web"]
	o.Slices["web"] = append(o.Slices["web"], routerSlices(web, a, &a.Spec.Ports[0], &web.Spec.Ports[0], routers)...)
}

func originals(o *Observed, service, port string) {
	s := discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: service + "-k8s", Labels: map[string]string{discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}}}
	if service != "web" {
		s.Labels[v1alpha1.LabelOriginOf] = "web"
	}
	s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.2.0.1"}}}
	s.Ports = []discoveryv1.EndpointPort{{Name: new(port), Port: new(int32(8080))}}
	o.Slices[service] = append(o.Slices[service], s)
}

func steps(p Plan) string {
	var out []string
	for _, s := range p.Steps {
		if _, ok := s.(Describe); !ok {
			out = append(out, s.String())
		}
	}
	return strings.Join(out, "; ")
}

// The way to the routers and back, state by state: what the cluster looks like decides what comes next, and nothing else.
func TestEachStateOfACaptureHasOneNextStep(t *testing.T) {
	ours := "[web-dayfly-80-ipv4 http 10.1.0.1:20000 web-dayfly-80-ipv4 http 10.1.0.2:20000]"
	withOrigin := func(o *Observed, a *v1alpha1.Alteration) {
		origin := originService(a, o.Services["web"])
		o.Services[origin.Name] = origin
	}
	flip := func(o *Observed) { o.Services["web"].Spec.Ports[0].TargetPort = intstr.FromString("dayfly-x") }
	armed := func(a *v1alpha1.Alteration) {
		a.Status.Ports = []v1alpha1.PortStatus{{Port: 80, ArmedAt: new(metav1.NewMicroTime(noon))}}
	}
	offered := func() (*Observed, *v1alpha1.Alteration) { // somebody wants it, and everything is there but the flip
		o := connect(world(session("ada", 0, wantWeb)))
		a := record(o)
		withOrigin(o, a)
		listen(o)
		offer(o, a, o.Routers)
		return o, a
	}
	unwanted := func() (*Observed, *v1alpha1.Alteration) { // nobody wants it any more
		o := world()
		a := record(o)
		withOrigin(o, a)
		return o, a
	}
	for _, c := range []struct {
		name string // says why the case is there
		make func() *Observed
		want string
	}{
		{"nothing is altered for a laptop that has not connected", func() *Observed { return world(session("ada", 0, wantWeb)) }, ""},
		{"the record comes first", func() *Observed { return connect(world(session("ada", 0, wantWeb))) }, "record ports [80] of service web"},
		{"without a router nothing begins", func() *Observed {
			o := connect(world(session("ada", 0, wantWeb)))
			o.Routers = nil
			return o
		}, ""},
		{"then the origin service", func() *Observed {
			o := connect(world(session("ada", 0, wantWeb)))
			record(o)
			return o
		}, "write origin service web-dayfly-origin"},
		{"no router is offered before it listens", func() *Observed {
			o := connect(world(session("ada", 0, wantWeb)))
			withOrigin(o, record(o))
			return o
		}, ""},
		{"routers that listen are offered", func() *Observed {
			o := connect(world(session("ada", 0, wantWeb)))
			withOrigin(o, record(o))
			listen(o)
			return o
		}, "offer routers for service web: " + ours},
		{"no router is offered before Kubernetes has found the pods for it", func() *Observed {
			o := connect(world(session("ada", 0, wantWeb)))
			withOrigin(o, record(o))
			listen(o)
			originals(o, "web", "http")
			return o
		}, ""},
		{"no router is offered before it knows the pods", func() *Observed {
			o := connect(world(session("ada", 0, wantWeb)))
			withOrigin(o, record(o))
			listen(o)
			originals(o, "web", "http")
			originals(o, "web-dayfly-origin", "p80")
			o.Routers[0].Finds, o.Routers[1].Finds = []int{20000}, []int{}
			return o
		}, "offer routers for service web: [web-dayfly-80-ipv4 http 10.1.0.1:20000]"},
		{"nothing is flipped before every router knows the pods", func() *Observed {
			o := connect(world(session("ada", 0, wantWeb)))
			a := record(o)
			withOrigin(o, a)
			listen(o)
			offer(o, a, o.Routers[:1])
			originals(o, "web", "http")
			originals(o, "web-dayfly-origin", "p80")
			o.Routers[0].Finds, o.Routers[1].Finds = []int{20000}, []int{}
			return o
		}, ""},
		{"a router that is offered stays so when the pods are not ready", func() *Observed {
			o, a := offered()
			originals(o, "web-dayfly-origin", "p80")
			flip(o)
			armed(a)
			o.Routers[0].Finds, o.Routers[1].Finds = []int{}, []int{}
			return o
		}, ""},
		{"nothing is flipped before every router listens", func() *Observed {
			o := connect(world(session("ada", 0, wantWeb)))
			a := record(o)
			withOrigin(o, a)
			listen(o)
			o.Routers[1].Listeners = nil
			offer(o, a, o.Routers[:1])
			return o
		}, ""},
		{"then the flip", func() *Observed {
			o, _ := offered()
			return o
		}, "service web port 80: targetPort 8080 to dayfly-x"},
		{"after the API server was away, nodes must know the routers before the flip", func() *Observed {
			o, _ := offered()
			o.Relisting = true
			return o
		}, "settle, then service web port 80: targetPort 8080 to dayfly-x"},
		{"it is not armed while original endpoints are offered", func() *Observed {
			o, _ := offered()
			flip(o)
			originals(o, "web", "http")
			return o
		}, ""},
		{"armed once the nodes follow", func() *Observed {
			o, _ := offered()
			flip(o)
			return o
		}, "service-web port 80: settle, then armed"},
		{"in force: nothing to do", func() *Observed {
			o, a := offered()
			flip(o)
			armed(a)
			return o
		}, ""},
		{"who joins is held until the proof", func() *Observed {
			o, a := offered()
			armed(a)
			flip(o)
			o.Sessions = append(o.Sessions, session("bob", time.Minute, v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: 3001}))
			return o
		}, "service web: hold sessions bob"},
		{"a dead router leaves the slice", func() *Observed {
			o, a := offered()
			flip(o)
			armed(a)
			o.Routers = o.Routers[:1]
			return o
		}, "offer routers for service web: [web-dayfly-80-ipv4 http 10.1.0.1:20000]"},
		{"when no router is left, the original comes back", func() *Observed {
			o := connect(world(session("ada", 0, wantWeb)))
			a := record(o)
			withOrigin(o, a)
			offer(o, a, o.Routers)
			flip(o)
			armed(a)
			o.Routers = nil
			return o
		}, "service web port 80: targetPort dayfly-x to 8080"},
		{"somebody put the port back: counted, not fought over blindly", func() *Observed {
			o, a := offered()
			armed(a)
			return o
		}, "service-web port 80: somebody undid the flip"},
		{"somebody set another port: theirs is what will be restored", func() *Observed {
			o, a := offered()
			armed(a)
			o.Services["web"].Spec.Ports[0].TargetPort = intstr.FromInt32(9999)
			return o
		}, "service-web port 80: somebody set targetPort 9999"},
		{"closing begins with the flip back", func() *Observed {
			o, a := unwanted()
			offer(o, a, o.Routers)
			flip(o)
			armed(a)
			return o
		}, "service web port 80: targetPort dayfly-x to 8080"},
		{"routers stay offered until the pods are back", func() *Observed {
			o, a := unwanted()
			offer(o, a, o.Routers)
			armed(a)
			originals(o, a.Spec.Origin, "p80")
			return o
		}, ""},
		{"then they are withdrawn", func() *Observed {
			o, a := unwanted()
			offer(o, a, o.Routers)
			armed(a)
			originals(o, a.Spec.Origin, "p80")
			originals(o, "web", "http")
			return o
		}, "withdraw routers: " + ours},
		{"after the API server was away, nodes must know the pods before they are", func() *Observed {
			o, a := unwanted()
			o.Relisting = true
			offer(o, a, o.Routers)
			armed(a)
			originals(o, a.Spec.Origin, "p80")
			originals(o, "web", "http")
			return o
		}, "settle, then withdraw routers: " + ours},
		{"a service without pods does not hold the close up", func() *Observed {
			o, a := unwanted()
			offer(o, a, o.Routers)
			armed(a)
			return o
		}, "withdraw routers: " + ours},
		{"draining begins once the nodes follow", func() *Observed {
			o, a := unwanted()
			armed(a)
			return o
		}, "service-web port 80: settle, then drain for 15s"},
		{"open connections are waited for", func() *Observed {
			o, a := unwanted()
			a.Status.Ports = []v1alpha1.PortStatus{{Port: 80, DrainUntil: new(metav1.NewMicroTime(noon.Add(5 * time.Second)))}}
			listen(o)
			o.Routers[0].Open = map[int]int{20000: 3}
			return o
		}, ""},
		{"but not for longer than the drain time", func() *Observed {
			o, a := unwanted()
			a.Status.Ports = []v1alpha1.PortStatus{{Port: 80, DrainUntil: new(metav1.NewMicroTime(noon.Add(-2 * time.Second)))}}
			listen(o)
			o.Routers[0].Open = map[int]int{20000: 3}
			return o
		}, "service-web port 80: off the record"},
		{"the record goes last", func() *Observed {
			o := world()
			record(o).Spec.Ports = nil
			return o
		}, "service-web: finish"},
		{"a service that is gone is let go", func() *Observed {
			o := connect(world(session("ada", 0, wantWeb)))
			record(o).Spec.Ports = nil
			delete(o.Services, "web")
			return o
		}, "service-web: finish"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, steps(Decide(c.make()))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheOlderSessionHoldsARule(t *testing.T) {
	o := connect(world(session("bob", time.Minute, v1alpha1.Intercept{Service: "web", Port: 80, All: true}), session("ada", 0, v1alpha1.Intercept{Service: "web", Port: 80, All: true})))
	p := Decide(o)
	bob := p.Sessions["bob-uid"].Intercepts[0]
	if bob.Reason != "Conflict" || !strings.Contains(bob.Message, "session ada of ada") {
		t.Errorf("bob: %+v", bob)
	}
	if ada := p.Sessions["ada-uid"].Intercepts[0]; ada.State == v1alpha1.StateRefused {
		t.Errorf("ada: %+v", ada)
	}
}

func TestARightTakenAwayRefuses(t *testing.T) {
	o := connect(world(session("ada", 0, wantWeb)))
	o.Denied["ada-uid/web:80"] = "ada may not"
	p := Decide(o)
	if got := p.Sessions["ada-uid"].Intercepts[0]; got.Reason != "Forbidden" || steps(p) != "" {
		t.Errorf("%+v; steps %s", got, steps(p))
	}
}

func TestASessionEndsWithItsLease(t *testing.T) {
	s := session("ada", 0, wantWeb)
	s.Status.ExpiresAt = new(metav1.NewTime(noon.Add(-time.Second)))
	if p := Decide(world(s)); !p.Sessions["ada-uid"].Expire {
		t.Error("a lease that is over does not end the session")
	}
	if p := Decide(connect(world(s))); p.Sessions["ada-uid"].Expire {
		t.Error("a session whose laptop is connected expires")
	}
}

func TestTheTableIsTheSameWhateverTheOrder(t *testing.T) {
	a, b := session("ada", 0, wantWeb), session("bob", time.Minute, v1alpha1.Intercept{Service: "web", Port: 80, Rule: &v1alpha1.Rule{Headers: []v1alpha1.HeaderLine{{Name: "X-User", Value: "bob"}}}})
	for _, s := range []*v1alpha1.Session{&a, &b} {
		s.Status.Intercepts = []v1alpha1.InterceptStatus{{Service: "web", Port: 80, State: v1alpha1.StateArmed}}
	}
	o := world()
	record(o)
	l1, s1 := Compile(o.Alterations, []v1alpha1.Session{a, b})
	l2, s2 := Compile(o.Alterations, []v1alpha1.Session{b, a})
	if diff := cmp.Diff([]any{l1, s1}, []any{l2, s2}); diff != "" {
		t.Error(diff)
	}
	want := []intercept.HeaderMatch{{Name: "X-User", Value: "bob"}}
	if diff := cmp.Diff(want, l1[0].Routes[1].Match.Headers); diff != "" {
		t.Error(diff)
	}
}

// A slice of somebody else's that has the name of ours refuses the intercept, and says which; what is captured is given back.
func TestTakenNameRefuses(t *testing.T) {
	o := connect(world(session("ada", 0, wantWeb)))
	o.Taken = map[string][]string{"web": {"web-dayfly-80-ipv4"}}
	p := Decide(o)
	st := p.Sessions["ada-uid"].Intercepts[0]
	if st.State != v1alpha1.StateRefused || st.Reason != "NameTaken" || !strings.Contains(st.Message, "web-dayfly-80-ipv4") {
		t.Errorf("status %+v", st)
	}
	if got := steps(p); got != "" {
		t.Errorf("steps %q, want none", got)
	}
	a := record(o)
	origin := originService(a, o.Services["web"])
	o.Services[origin.Name] = origin
	o.Services["web"].Spec.Ports[0].TargetPort = intstr.FromString(a.Spec.Ports[0].After)
	if got := steps(Decide(o)); !strings.Contains(got, "to 8080") {
		t.Errorf("steps %q, want the port back", got)
	}
}
