package servicegraph

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// resolve finds the Service that a mention names, as the DNS of a pod in namespace would, and the port if it is one of the
// Service's. A name and port that are not sure to be an address must name a port that is there.
func (b *builder) resolve(namespace string, m mention) (*Node, int32) {
	for _, key := range candidates(namespace, m.host) {
		s := b.services[key]
		if s == nil {
			continue
		}
		port := portOf(s, m.port)
		if m.port == 0 && port == 0 {
			port = portOf(s, m.web)
		}
		if port == 0 && !m.sure {
			return nil, 0
		}
		return b.byService[key], port
	}
	if ns, name, ok := throughSvc(m.host); ok && b.o.Namespace != "" && ns != b.o.Namespace {
		return b.elsewhere(ns, name), int32(m.port)
	}
	return nil, 0
}

// candidates are the Services that a host may mean, the likeliest first: svc, svc.ns, svc.ns.svc, svc.ns.svc.cluster.local,
// each also with a pod's name before it.
func candidates(namespace, host string) []client.ObjectKey {
	if ns, name, ok := throughSvc(host); ok {
		return []client.ObjectKey{{Namespace: ns, Name: name}}
	}
	l := strings.Split(strings.TrimSuffix(host, "."), ".")
	switch {
	case strings.HasSuffix(host, ".") || len(l) > 3:
		return nil // a full name that does not go through svc
	case len(l) == 1:
		return []client.ObjectKey{{Namespace: namespace, Name: l[0]}}
	case len(l) == 2:
		return []client.ObjectKey{{Namespace: l[1], Name: l[0]}, {Namespace: namespace, Name: l[1]}}
	}
	return []client.ObjectKey{{Namespace: l[2], Name: l[1]}}
}

// throughSvc reads a name that goes through "svc".
func throughSvc(host string) (namespace, name string, ok bool) {
	l := strings.Split(strings.TrimSuffix(host, "."), ".")
	i := slices.Index(l, "svc")
	if i != 2 && i != 3 {
		return "", "", false
	}
	return l[i-1], l[i-2], true
}

// portOf finds a port by number. Behind a headless Service it is the pods' own.
func portOf(s *corev1.Service, port int) int32 {
	for _, p := range s.Spec.Ports {
		if port != 0 && int(p.Port) == port || s.Spec.ClusterIP == corev1.ClusterIPNone && p.TargetPort.IntValue() == port && port != 0 {
			return p.Port
		}
	}
	if port == 0 && len(s.Spec.Ports) == 1 {
		return s.Spec.Ports[0].Port
	}
	return 0
}

// elsewhere is a Service of a namespace that was not looked at, known by its full name only.
func (b *builder) elsewhere(namespace, name string) *Node {
	id := namespace + "/" + name
	if n := b.nodes[id]; n != nil {
		return n
	}
	n := &Node{
		ID: id, Namespace: namespace, Name: name, Services: []Service{{name, []int32{}}}, Workloads: []Workload{}, Entries: []string{},
		Elsewhere: b.o.Namespace != "" && namespace != b.o.Namespace, Alterations: []Alteration{},
	}
	b.nodes[id] = n
	return n
}
