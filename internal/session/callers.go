package session

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/intercept"
	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Neighbours are the pods and namespaces that network policies may speak of.
type Neighbours struct {
	Pods       []corev1.Pod          // of all namespaces
	Namespaces map[string]labels.Set // their labels, by name
}

// Admission is what network policies make of one captured port.
type Admission struct {
	Callers *intercept.Callers            // who may call; nil: everybody
	Strict  []*networkingv1.NetworkPolicy // those that bind the target's pods, by name
	// Reason and Message say why the port cannot be captured; Callers are then those whom every pod admits.
	Reason, Message string
}

// Destination is where a port of a Service leads.
type Destination struct {
	Port     intstr.IntOrString // number or name at the pod
	Protocol corev1.Protocol
}

// Admit works out who may call a port of svc: whoever might call the pods behind it, by the ingress policies of their
// namespace. pods are those that svc selects, in any state.
func Admit(svc *corev1.Service, to Destination, policies []*networkingv1.NetworkPolicy, pods []corev1.Pod, near Neighbours) Admission {
	var out Admission
	sets := map[string]*netipx.IPSet{} // by who binds a pod, and the port
	var all *netipx.IPSet
	open := ""
	for _, pod := range targets(svc, pods) {
		strict := binding(pod, policies)
		for _, p := range strict {
			if !slices.Contains(out.Strict, p) {
				out.Strict = append(out.Strict, p)
			}
		}
		if len(strict) == 0 {
			open = pod.Name
			continue
		}
		port := portOf(pod, to.Port, to.Protocol)
		key := fmt.Sprint(names(strict), port)
		if _, ok := sets[key]; ok {
			continue
		}
		sets[key] = callersOf(strict, pod, to, port, near)
		all = intersection(all, sets[key])
	}
	if len(out.Strict) == 0 {
		return Admission{}
	}
	slices.SortFunc(out.Strict, func(a, b *networkingv1.NetworkPolicy) int { return strings.Compare(a.Name, b.Name) })
	out.Callers = &intercept.Callers{Prefixes: prefixes(all)}
	out.Reason, out.Message = refuseStrict(svc, out, sets, all, open)
	return out
}

// refuseStrict says when what policies want of a port cannot be kept by asking callers at a router.
func refuseStrict(svc *corev1.Service, a Admission, sets map[string]*netipx.IPSet, all *netipx.IPSet, open string) (reason, message string) {
	who := "network policy " + strings.Join(names(a.Strict), ", ")
	for _, s := range sets {
		if open != "" || !s.Equal(all) {
			return "NetworkPolicy", fmt.Sprintf("%s treats the pods of service %s differently: behind a router a caller would reach pods "+
				"that it may not call, or miss those that it may", who, svc.Name)
		}
	}
	if svc.Spec.Type != corev1.ServiceTypeClusterIP && svc.Spec.Type != "" || len(svc.Spec.ExternalIPs) > 0 {
		return "NetworkPolicy", fmt.Sprintf("%s restricts who may call the pods of service %s, which has callers outside of the cluster: "+
			"they come by a node's address, of which only the node knows whether it may", who, svc.Name)
	}
	if n := len(a.Callers.Prefixes); n > maxPrefixes {
		return "NetworkPolicy", fmt.Sprintf("%s lets so many call the pods of service %s that routers cannot keep their %d addresses", who, svc.Name, n)
	}
	return "", ""
}

const maxPrefixes = 16 << 10 // as routers take

// targets are the pods behind svc; without any, one such as svc would select.
func targets(svc *corev1.Service, pods []corev1.Pod) []*corev1.Pod {
	var out []*corev1.Pod
	for i := range pods {
		if p := &pods[i]; p.Namespace == svc.Namespace && !over(p) &&
			labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(p.Labels)) {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		p := &corev1.Pod{}
		p.Name, p.Namespace, p.Labels = svc.Name, svc.Namespace, svc.Spec.Selector
		out = append(out, p)
	}
	return out
}

func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// binding are the policies that restrict who may call pod; a pod with its node's address is bound by none.
func binding(pod *corev1.Pod, policies []*networkingv1.NetworkPolicy) []*networkingv1.NetworkPolicy {
	var out []*networkingv1.NetworkPolicy
	for _, p := range policies {
		if !pod.Spec.HostNetwork && p.Namespace == pod.Namespace && has(p, networkingv1.PolicyTypeIngress) && selects(&p.Spec.PodSelector, pod.Labels) {
			out = append(out, p)
		}
	}
	return out
}

func names(ps []*networkingv1.NetworkPolicy) []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return out
}

// portOf is the number that a port has at pod; 0 if the pod has no port of that name.
func portOf(pod *corev1.Pod, port intstr.IntOrString, protocol corev1.Protocol) int32 {
	if port.Type == intstr.Int {
		return port.IntVal
	}
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == port.StrVal && cmp.Or(p.Protocol, corev1.ProtocolTCP) == protocol {
				return p.ContainerPort
			}
		}
	}
	return 0
}

// callersOf are the addresses that any rule of any of the policies lets in.
func callersOf(strict []*networkingv1.NetworkPolicy, pod *corev1.Pod, to Destination, port int32, near Neighbours) *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, p := range strict {
		for _, r := range p.Spec.Ingress {
			if !allowsPort(r.Ports, pod, to, port) {
				continue
			}
			if len(r.From) == 0 {
				b.AddPrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
				b.AddPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
			}
			for i := range r.From {
				addPeer(&b, &r.From[i], p.Namespace, near)
			}
		}
	}
	return built(&b)
}

// allowsPort says whether a rule is about the port: every rule without ports is.
func allowsPort(rules []networkingv1.NetworkPolicyPort, pod *corev1.Pod, to Destination, port int32) bool {
	return len(rules) == 0 || slices.ContainsFunc(rules, func(r networkingv1.NetworkPolicyPort) bool {
		switch {
		case r.Protocol == nil && to.Protocol != corev1.ProtocolTCP || r.Protocol != nil && *r.Protocol != to.Protocol:
			return false
		case r.Port == nil:
			return true
		case r.Port.Type == intstr.String:
			return r.Port.StrVal == to.Port.StrVal && to.Port.Type == intstr.String || port != 0 && portOf(pod, *r.Port, to.Protocol) == port
		case r.EndPort != nil:
			return port >= r.Port.IntVal && port <= *r.EndPort
		}
		return port == r.Port.IntVal
	})
}

// addPeer adds the addresses of one peer of a policy in namespace.
func addPeer(b *netipx.IPSetBuilder, peer *networkingv1.NetworkPolicyPeer, namespace string, near Neighbours) {
	if peer.IPBlock != nil {
		addBlock(b, peer.IPBlock)
		return
	}
	inNamespace, ofPod := compiled(peer.NamespaceSelector), compiled(peer.PodSelector)
	for i := range near.Pods {
		p := &near.Pods[i]
		if over(p) || p.Spec.HostNetwork {
			continue // their addresses are others' by now, or the node's
		}
		if inNamespace == nil && p.Namespace != namespace || inNamespace != nil && !inNamespace.Matches(near.Namespaces[p.Namespace]) ||
			ofPod != nil && !ofPod.Matches(labels.Set(p.Labels)) {
			continue
		}
		for _, ip := range p.Status.PodIPs {
			if addr, err := netip.ParseAddr(ip.IP); err == nil {
				b.Add(addr)
			}
		}
	}
}

// compiled is a selector made ready; nil if there is none, one that selects nothing if it cannot be read.
func compiled(s *metav1.LabelSelector) labels.Selector {
	if s == nil {
		return nil
	}
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return sel
}

// addBlock adds a range without its exceptions; these do not take away what other rules add.
func addBlock(b *netipx.IPSetBuilder, block *networkingv1.IPBlock) {
	prefix, err := netip.ParsePrefix(block.CIDR)
	if err != nil {
		return
	}
	var some netipx.IPSetBuilder
	some.AddPrefix(prefix.Masked())
	for _, e := range block.Except {
		if not, err := netip.ParsePrefix(e); err == nil {
			some.RemovePrefix(not.Masked())
		}
	}
	b.AddSet(built(&some))
}

func built(b *netipx.IPSetBuilder) *netipx.IPSet {
	s, err := b.IPSet()
	if err != nil {
		return &netipx.IPSet{} // nobody: what cannot be read admits nobody
	}
	return s
}

func intersection(a, b *netipx.IPSet) *netipx.IPSet {
	if a == nil {
		return b
	}
	var both netipx.IPSetBuilder
	both.AddSet(a)
	both.Intersect(b)
	return built(&both)
}

func prefixes(s *netipx.IPSet) []netip.Prefix {
	if out := s.Prefixes(); out != nil {
		return out
	}
	return []netip.Prefix{}
}
