package session

import (
	"fmt"
	"slices"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// concerns says whether a policy can speak against capturing a Service of the namespace at all.
func concerns(p *networkingv1.NetworkPolicy, namespace string) bool {
	return p.Namespace == namespace && has(p, networkingv1.PolicyTypeIngress) ||
		has(p, networkingv1.PolicyTypeEgress) && len(p.Spec.Egress) > 0
}

// checkPolicies refuses a capture that network policies would break or that would be a way around them, and ends one that
// has become so: policies come and go. Behind a captured port the target's pods see the routers as their callers, and the
// callers see the routers as the target:
//
//   - policies that restrict who may call the target's pods are asked about the callers by the routers (see Admit), unless
//     that cannot be;
//   - a policy that lets some pods out to the target's pods, but not to the routers, would cut these pods off. It belongs
//     to the callers, who have not asked for anything: it is not added to.
func (d *decision) checkPolicies(i v1alpha1.Intercept) (reason, message string) {
	if a := d.Admissions[portKey{i.Service, PortOf(i)}]; a.Reason != "" {
		return a.Reason, a.Message
	}
	for _, pod := range d.Pods[i.Service] {
		for k := range d.Policies {
			p := &d.Policies[k]
			if has(p, networkingv1.PolicyTypeEgress) && d.letsOutTo(p, &pod) && !d.letsOutToRouters(p) {
				return "NetworkPolicy", fmt.Sprintf("network policy %s/%s lets pods out to service %s but not to dayfly's routers: the "+
					"callers that it binds would be cut off", p.Namespace, p.Name, i.Service)
			}
		}
	}
	return "", ""
}

func has(p *networkingv1.NetworkPolicy, t networkingv1.PolicyType) bool {
	if len(p.Spec.PolicyTypes) == 0 {
		return t == networkingv1.PolicyTypeIngress || len(p.Spec.Egress) > 0
	}
	return slices.Contains(p.Spec.PolicyTypes, t)
}

func selects(s *metav1.LabelSelector, set map[string]string) bool {
	sel, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && sel.Matches(labels.Set(set))
}

// letsOutTo says whether some rule of p names the pod, on whatever port: too often yes is the safe answer here.
func (d *decision) letsOutTo(p *networkingv1.NetworkPolicy, pod *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool {
		return len(r.To) == 0 || slices.ContainsFunc(r.To, func(peer networkingv1.NetworkPolicyPeer) bool {
			if peer.IPBlock != nil {
				return true // may cover any pod
			}
			own := p.Namespace == d.Namespace
			if peer.NamespaceSelector != nil {
				own = d.NamespaceLabels == nil || selects(peer.NamespaceSelector, d.NamespaceLabels)
			}
			return own && (peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels))
		})
	})
}

// letsOutToRouters says whether some rule of p surely lets its pods out to the routers, on every port.
func (d *decision) letsOutToRouters(p *networkingv1.NetworkPolicy) bool {
	if len(d.Routers) == 0 {
		return true
	}
	return slices.ContainsFunc(p.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool {
		if len(r.Ports) > 0 {
			return false
		}
		return len(r.To) == 0 || slices.ContainsFunc(r.To, func(peer networkingv1.NetworkPolicyPeer) bool {
			if peer.IPBlock != nil {
				return peer.IPBlock.CIDR == "0.0.0.0/0" && len(peer.IPBlock.Except) == 0
			}
			return peer.NamespaceSelector != nil && selects(peer.NamespaceSelector, d.System.NamespaceLabels) &&
				(peer.PodSelector == nil || selects(peer.PodSelector, d.Routers[0].Labels))
		})
	})
}
