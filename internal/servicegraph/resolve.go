package servicegraph

import (
	"dayfly.dev/dayfly/internal/mention"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// resolve finds the node that a mention names, and the port if it is one of its Service's.
func (b *builder) resolve(namespace string, m mention.Mention) (*Node, int32) {
	s, port := m.Resolve(namespace, func(key client.ObjectKey) *corev1.Service { return b.services[key] })
	if s != nil {
		return b.byService[client.ObjectKeyFromObject(s)], port
	}
	if ns, name, ok := mention.ThroughSvc(m.Host); ok && b.o.Namespace != "" && ns != b.o.Namespace {
		return b.elsewhere(ns, name), int32(m.Port)
	}
	return nil, 0
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
