package session

import (
	"testing"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestPortsAsPeopleWriteThem(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Port{"53": {53, false}, "53/tcp": {53, false}, "53/udp": {53, true}, "53/UDP": {53, true}, "65535": {65535, false}} {
		if got, ok := ParsePort(text); !ok || got != want {
			t.Errorf("%s: %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "0", "65536", "-1", "dns", "53/", "53/sctp", "53/udp/tcp", "/udp", "+53", "5 3"} {
		if got, ok := ParsePort(text); ok {
			t.Errorf("%q was read as %v", text, got)
		}
	}
	for _, p := range []Port{{53, false}, {53, true}} {
		if back, ok := ParsePort(p.String()); !ok || back != p {
			t.Errorf("%v was read as %v", p, back)
		}
	}
}

// dnsWorld is a service with port 80 for TCP, and with the same number for UDP, which ada wants.
func dnsWorld(protocol string) (*Observed, *v1alpha1.Alteration) {
	want := v1alpha1.Intercept{Service: "web", Port: 80, Protocol: protocol, LaptopPort: 3000, All: true}
	o := connect(world(session("ada", 0, want)))
	o.Services["web"].Spec.Ports = append(o.Services["web"].Spec.Ports,
		corev1.ServicePort{Name: "dns", Port: 80, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(5353)})
	a := record(o)
	if protocol == "UDP" {
		a.Spec.Ports[0] = v1alpha1.CapturedPort{Name: "dns", Port: 80, Protocol: "UDP", Before: intstr.FromInt32(5353), After: "dayfly-y", RouterPort: 20000}
	}
	o.Services["web-dayfly-origin"] = originService(a, o.Services["web"])
	return o, a
}

// The state of a UDP port is its own: nothing about the TCP port of that number counts for it, in any object.
func TestProtocolsOfOneNumberAreTwoPorts(t *testing.T) {
	t.Parallel()
	o, a := dnsWorld("UDP")
	o.Sessions[0].Status.Intercepts = []v1alpha1.InterceptStatus{{Service: "web", Port: 80, State: v1alpha1.StateRefused}, // of the other
		{Service: "web", Port: 80, Protocol: "UDP", State: v1alpha1.StateArming}}
	listeners, laptops := Compile(o.Alterations, o.Sessions)
	l := listeners[0]
	if !l.UDP || l.Origin != "shop/web-dayfly-origin:p80-udp" || len(l.Routes) != 1 || !l.Routes[0].Datagrams || l.Routes[0].ID != "ada-uid/web:80/udp" {
		t.Errorf("listener %+v", l)
	}
	if laptops[0].Routes[0] != "web:80/udp" {
		t.Errorf("the laptop may answer %v", laptops[0].Routes)
	}
	for i := range o.Routers {
		o.Routers[i].Listeners = listeners
	}
	if got, want := steps(Decide(o)), "offer routers for service web: [web-dayfly-80-udp-ipv4 dns 10.1.0.1:20000 web-dayfly-80-udp-ipv4 dns 10.1.0.2:20000]"; got != want {
		t.Errorf("steps %s\nwant  %s", got, want)
	}
	slices := routerSlices(o.Services["web"], a, &a.Spec.Ports[0], &o.Services["web"].Spec.Ports[1], o.Routers)
	if *slices[0].Ports[0].Protocol != corev1.ProtocolUDP {
		t.Errorf("offered for %s", *slices[0].Ports[0].Protocol)
	}
	o.Slices["web"] = slices
	if got, want := steps(Decide(o)), "service web port 80/udp: targetPort 5353 to dayfly-y"; got != want {
		t.Errorf("steps %s\nwant  %s", got, want)
	}
	o.Services["web"].Spec.Ports[1].TargetPort = intstr.FromString("dayfly-y")
	a.Status.Ports = []v1alpha1.PortStatus{{Port: 80, ArmedAt: new(metav1.NewMicroTime(noon))}} // of the other
	if got, want := steps(Decide(o)), "service-web port 80/udp: settle, then armed"; got != want {
		t.Errorf("steps %s\nwant  %s", got, want)
	}
	o.Sessions = nil
	if got, want := steps(Decide(o)), "service web port 80/udp: targetPort dayfly-y to 5353"; got != want {
		t.Errorf("steps %s\nwant  %s", got, want)
	}
	if afterName("u", Port{80, false}) == afterName("u", Port{80, true}) {
		t.Error("both ports would get one name")
	}
}

// Objects that were written before there was a protocol mean TCP.
func TestObjectsWithoutAProtocolMeanTCP(t *testing.T) {
	t.Parallel()
	o, a := dnsWorld("")
	if r := Route(o.Sessions[0].Spec.Intercepts[0]); r != "web:80" {
		t.Errorf("route %s", r)
	}
	a.Status.Ports = []v1alpha1.PortStatus{{Port: 80, ArmedAt: new(metav1.NewMicroTime(noon))}}
	o.Services["web"].Spec.Ports[0].TargetPort = intstr.FromString("dayfly-x")
	listen(o)
	o.Slices["web"] = routerSlices(o.Services["web"], a, &a.Spec.Ports[0], &o.Services["web"].Spec.Ports[0], o.Routers)
	p := Decide(o)
	if got := steps(p); got != "" {
		t.Errorf("steps %s", got)
	}
	if st := p.Sessions["ada-uid"].Intercepts[0]; st.State != v1alpha1.StateArmed || st.Protocol != "" {
		t.Errorf("status %+v", st)
	}
	o.Services["web"].Spec.Ports = o.Services["web"].Spec.Ports[1:] // only UDP is left of that number
	if reason, message := Interceptable("shop", "web", Port{80, false}, o.Services["web"]); reason != "NoSuchPort" || message != "service web has no port 80; it has 80/udp (dns)" {
		t.Errorf("%s: %s", reason, message)
	}
}
