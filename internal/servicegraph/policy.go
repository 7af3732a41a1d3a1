package servicegraph

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// declared draws the calls that network policies declare: a rule between these pods and exactly those. Rules for everybody,
// for whole namespaces and for addresses declare nothing that a graph could show.
func (b *builder) declared() {
	for i := range b.o.Policies {
		p := &b.o.Policies[i]
		if empty(&p.Spec.PodSelector) {
			continue
		}
		own := b.matching(p.Namespace, &p.Spec.PodSelector)
		for _, r := range p.Spec.Ingress {
			for _, peer := range r.From {
				b.declare(b.peers(p.Namespace, peer), own, r.Ports, p)
			}
		}
		for _, r := range p.Spec.Egress {
			for _, peer := range r.To {
				b.declare(own, b.peers(p.Namespace, peer), r.Ports, p)
			}
		}
	}
}

func (b *builder) declare(from, to []int, ports []networkingv1.NetworkPolicyPort, p *networkingv1.NetworkPolicy) {
	for _, f := range from {
		for _, t := range to {
			b.call(b.ofWork[f], b.ofWork[t], b.declaredPort(t, ports), ByPolicy, "network policy "+p.Name)
		}
	}
}

// declaredPort is the Service's port for the pods' port that a policy names, if it names one.
func (b *builder) declaredPort(w int, ports []networkingv1.NetworkPolicyPort) int32 {
	if len(ports) != 1 || ports[0].Port == nil || ports[0].EndPort != nil {
		return 0
	}
	for _, s := range b.ofWork[w].Services {
		svc := b.services[keyOf(b.ofWork[w].Namespace, s.Name)]
		for _, sp := range svc.Spec.Ports {
			if sp.TargetPort == *ports[0].Port || b.number(w, sp.TargetPort.String()) == b.number(w, ports[0].Port.String()) {
				return sp.Port
			}
		}
	}
	return 0
}

// number is the number of a port that a workload's container names, or the text itself.
func (b *builder) number(w int, port string) string {
	for _, c := range b.o.Workloads[w].Pod.Containers {
		for _, p := range c.Ports {
			if p.Name == port {
				return itoa(p.ContainerPort)
			}
		}
	}
	return port
}

// peers are the workloads that one peer of a rule names, none if it names no pods.
func (b *builder) peers(namespace string, p networkingv1.NetworkPolicyPeer) []int {
	if p.IPBlock != nil || p.PodSelector == nil || empty(p.PodSelector) {
		return nil
	}
	if p.NamespaceSelector != nil {
		name, ok := p.NamespaceSelector.MatchLabels[corev1.LabelMetadataName]
		if !ok {
			return nil // namespaces' labels are not read
		}
		namespace = name
	}
	return b.matching(namespace, p.PodSelector)
}

func (b *builder) matching(namespace string, s *metav1.LabelSelector) (out []int) {
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil
	}
	for w := range b.o.Workloads {
		if b.o.Workloads[w].Namespace == namespace && sel.Matches(labels.Set(b.o.Workloads[w].Labels)) {
			out = append(out, w)
		}
	}
	return out
}

func empty(s *metav1.LabelSelector) bool {
	return len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}
