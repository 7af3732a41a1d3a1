package servicegraph

import (
	corev1 "k8s.io/api/core/v1"
)

// seen draws the calls that routers took on captured ports. An address is taken for a pod's only if the pod is older than the
// sight of it: addresses are used again. Pods that share their node's address cannot be told apart.
func (b *builder) seen() {
	pods := map[string]*corev1.Pod{}
	for i := range b.o.Pods {
		p := &b.o.Pods[i]
		if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, ip := range p.Status.PodIPs {
			pods[ip.IP] = p
		}
	}
	nodes := map[string]*Node{}
	for i := range b.o.Workloads {
		w := &b.o.Workloads[i]
		nodes[w.Namespace+"/"+w.Kind+"/"+w.Name] = b.ofWork[i]
	}
	for i := range b.o.Alterations {
		a := &b.o.Alterations[i]
		for _, c := range a.Status.Callers {
			p := pods[c.Address]
			if p == nil || p.CreationTimestamp.After(c.Since.Time) {
				continue
			}
			kind, name := ownerOf(p)
			b.call(nodes[p.Namespace+"/"+kind+"/"+name], b.byService[keyOf(a.Namespace, a.Spec.Target.Name)], c.Port, BySight, "routers have seen it")
		}
	}
}
