package session

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
)

// Port names a port of a Service. It is written 53 or 53/udp: TCP goes without saying.
type Port struct {
	Number int32
	UDP    bool
}

// ParsePort reads what String writes, and 53/tcp.
func ParsePort(text string) (Port, bool) {
	text, protocol, named := strings.Cut(strings.ToLower(text), "/")
	n, err := strconv.ParseUint(text, 10, 16)
	ok := err == nil && n > 0 && (!named || protocol == "tcp" || protocol == "udp")
	return Port{int32(n), protocol == "udp"}, ok
}

func (p Port) String() string {
	if p.UDP {
		return fmt.Sprintf("%d/udp", p.Number)
	}
	return strconv.Itoa(int(p.Number))
}

// Is says whether text means p: its number, with its protocol or without one.
func (p Port) Is(text string) bool {
	named, ok := ParsePort(text)
	return ok && named.Number == p.Number && (named.UDP == p.UDP || !strings.Contains(text, "/"))
}

// Protocol as Kubernetes writes it.
func (p Port) Protocol() corev1.Protocol {
	if p.UDP {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}

// PortOf is the port that an intercept is about.
func PortOf(i v1alpha1.Intercept) Port { return port(i.Port, i.Protocol) }

// ServicePort is a port of a Service; ok is false if it is of a protocol that cannot be captured.
func ServicePort(p *corev1.ServicePort) (_ Port, ok bool) {
	protocol := cmp.Or(p.Protocol, corev1.ProtocolTCP)
	return port(p.Port, string(protocol)), protocol == corev1.ProtocolTCP || protocol == corev1.ProtocolUDP
}

// Route names what a laptop answers within its session.
func Route(i v1alpha1.Intercept) string { return route(i.Service, PortOf(i)) }

// StatusRoute is the route of the intercept that a status is about.
func StatusRoute(st v1alpha1.InterceptStatus) string {
	return route(st.Service, port(st.Port, st.Protocol))
}

// IsDatagrams says whether a route carries UDP.
func IsDatagrams(route string) bool { return strings.HasSuffix(route, "/udp") }

func route(service string, p Port) string { return service + ":" + p.String() }

// port reads a protocol as it stands in objects, where "" is TCP.
func port(number int32, protocol string) Port {
	return Port{number, protocol == string(corev1.ProtocolUDP)}
}

func capturedPortOf(p *v1alpha1.CapturedPort) Port { return port(p.Port, p.Protocol) }

// emptyStatus is the status of a port.
func emptyStatus(p Port) v1alpha1.PortStatus {
	st := v1alpha1.PortStatus{Port: p.Number}
	if p.UDP {
		st.Protocol = string(corev1.ProtocolUDP)
	}
	return st
}

func capturedPort(a *v1alpha1.Alteration, want Port) *v1alpha1.CapturedPort {
	for i := range a.Spec.Ports {
		if capturedPortOf(&a.Spec.Ports[i]) == want {
			return &a.Spec.Ports[i]
		}
	}
	return nil
}

func portStatus(a *v1alpha1.Alteration, want Port) *v1alpha1.PortStatus {
	for i := range a.Status.Ports {
		if p := &a.Status.Ports[i]; port(p.Port, p.Protocol) == want {
			return p
		}
	}
	return nil
}

func servicePort(s *corev1.Service, want Port) *corev1.ServicePort {
	if s == nil {
		return nil
	}
	if at := servicePortIndex(s, want); at >= 0 {
		return &s.Spec.Ports[at]
	}
	return nil
}

func servicePortIndex(s *corev1.Service, want Port) int {
	for i := range s.Spec.Ports {
		if p, ok := ServicePort(&s.Spec.Ports[i]); ok && p == want {
			return i
		}
	}
	return -1
}
