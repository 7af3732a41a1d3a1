package netpol

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Compile returns the nftables ruleset that enforces policies for the pods of a node. It depends on nothing but its
// arguments, and not on their order.
//
// A packet is judged when it is forwarded: after Services have been translated to pods, before any masquerading. What the
// node itself sends to its pods is not forwarded, so probes always pass. The two directions are two chains of the same
// hook, since being accepted by one only leads to the next. A connection that was accepted stays so.
func Compile(node string, pods []*corev1.Pod, namespaces []*corev1.Namespace, policies []*networkingv1.NetworkPolicy) string {
	c := newCompiler(pods, namespaces)
	for _, p := range sorted(policies, func(p *networkingv1.NetworkPolicy) string { return p.Namespace + "/" + p.Name }) {
		c.policy(node, p)
	}
	return c.ruleset()
}

const table = "inet netpol"

// direction of the traffic that a policy is about, seen from the pod that the policy selects.
type direction struct {
	name        string
	self, other string // which address of a packet is the pod's and which its peer's
	priority    string
}

var (
	ingress = direction{"ingress", "ip daddr", "ip saddr", "filter + 1"}
	egress  = direction{"egress", "ip saddr", "ip daddr", "filter"}
)

type compiler struct {
	pods       []*corev1.Pod // that have an address of their own
	namespaces map[string]labels.Set
	chains     []string
	// guarded holds, per direction, which policies' chains a pod's packets pass through.
	guarded map[string]map[*corev1.Pod][]string
}

func newCompiler(pods []*corev1.Pod, namespaces []*corev1.Namespace) *compiler {
	c := &compiler{namespaces: map[string]labels.Set{}, guarded: map[string]map[*corev1.Pod][]string{
		ingress.name: {}, egress.name: {},
	}}
	for _, ns := range namespaces {
		c.namespaces[ns.Name] = ns.Labels
	}
	owner := map[netip.Addr]*corev1.Pod{} // an address may already be another pod's when its last owner is still listed
	for _, p := range pods {
		ip, ok := address(p)
		if last := owner[ip]; ok && (last == nil || last.CreationTimestamp.Before(&p.CreationTimestamp)) {
			owner[ip] = p
		}
	}
	for _, p := range sorted(pods, podName) {
		if ip, ok := address(p); ok && owner[ip] == p {
			c.pods = append(c.pods, p)
		}
	}
	return c
}

// address returns the pod's own address, if it has one.
func address(p *corev1.Pod) (netip.Addr, bool) {
	if p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(p.Status.PodIP)
	return ip, err == nil && ip.Is4()
}

func (c *compiler) policy(node string, p *networkingv1.NetworkPolicy) {
	var selected []*corev1.Pod
	for _, pod := range c.choose(p.Namespace, nil, &p.Spec.PodSelector) {
		if pod.Spec.NodeName == node {
			selected = append(selected, pod)
		}
	}
	if len(selected) == 0 {
		return
	}
	inbound, outbound := types(p)
	if inbound {
		var rules []string
		for _, r := range p.Spec.Ingress {
			rules = append(rules, c.rule(ingress, p.Namespace, r.From, r.Ports, selected)...)
		}
		c.guard(ingress, p, selected, rules)
	}
	if outbound {
		var rules []string
		for _, r := range p.Spec.Egress {
			rules = append(rules, c.rule(egress, p.Namespace, r.To, r.Ports, selected)...)
		}
		c.guard(egress, p, selected, rules)
	}
}

// types applies the defaults: a policy is about ingress unless it says otherwise, and about egress if it has such rules.
func types(p *networkingv1.NetworkPolicy) (inbound, outbound bool) {
	if len(p.Spec.PolicyTypes) == 0 {
		return true, len(p.Spec.Egress) > 0
	}
	return slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress),
		slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

// guard makes a chain of the policy's rules and sends the pods' packets through it.
func (c *compiler) guard(d direction, p *networkingv1.NetworkPolicy, pods []*corev1.Pod, rules []string) {
	chain := chainName("policy-"+d.name, p.Namespace, p.Name)
	c.chain(chain, rules...)
	for _, pod := range pods {
		c.guarded[d.name][pod] = append(c.guarded[d.name][pod], chain)
	}
}

// rule returns what accepts a packet that matches one of the peers and one of the ports.
func (c *compiler) rule(d direction, namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, selected []*corev1.Pod) []string {
	matches, peerPods := c.peers(d, namespace, peers)
	targets := selected // whose ports are meant
	if d == egress {
		targets = peerPods
	}
	var rules []string
	for _, peer := range matches {
		if len(ports) == 0 {
			rules = append(rules, join(peer, "accept"))
		}
		for _, port := range ports {
			for _, match := range portMatches(port, targets) {
				rules = append(rules, join(peer, match, "accept"))
			}
		}
	}
	return rules
}

// peers returns the matches of which one must hold, and the pods that may be meant. No peers at all means everyone.
func (c *compiler) peers(d direction, namespace string, peers []networkingv1.NetworkPolicyPeer) (matches []string, pods []*corev1.Pod) {
	if len(peers) == 0 {
		return []string{""}, c.pods
	}
	for _, peer := range peers {
		if peer.IPBlock != nil {
			matches = append(matches, blockMatch(d, peer.IPBlock)...)
			pods = append(pods, inBlock(c.pods, peer.IPBlock)...)
			continue
		}
		chosen := c.choose(namespace, peer.NamespaceSelector, peer.PodSelector)
		pods = append(pods, chosen...)
		if len(chosen) > 0 {
			matches = append(matches, d.other+" "+set(chosen))
		}
	}
	return matches, pods
}

// choose returns the pods in the namespace, or in those that inNamespaces selects, that the selector selects. A missing
// selector selects all.
func (c *compiler) choose(namespace string, inNamespaces, selector *metav1.LabelSelector) []*corev1.Pod {
	var found []*corev1.Pod
	for _, p := range c.pods {
		inside := p.Namespace == namespace
		if inNamespaces != nil {
			inside = selects(inNamespaces, c.namespaces[p.Namespace])
		}
		if inside && (selector == nil || selects(selector, p.Labels)) {
			found = append(found, p)
		}
	}
	return found
}

func selects(s *metav1.LabelSelector, set map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(set)) // the API server lets no invalid one pass
}

func blockMatch(d direction, b *networkingv1.IPBlock) []string {
	cidr, err := netip.ParsePrefix(b.CIDR)
	if err != nil || !cidr.Addr().Is4() {
		return nil // pods have IPv4 addresses only
	}
	match := d.other + " " + cidr.Masked().String()
	if cidr.Bits() == 0 {
		match = "meta nfproto ipv4"
	}
	for _, except := range b.Except {
		match = join(match, d.other+" != "+except)
	}
	return []string{match}
}

func inBlock(pods []*corev1.Pod, b *networkingv1.IPBlock) []*corev1.Pod {
	cidr, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return nil
	}
	var found []*corev1.Pod
	for _, p := range pods {
		if ip, _ := address(p); cidr.Contains(ip) {
			found = append(found, p)
		}
	}
	return found
}

// portMatches returns the matches of which one must hold. A named port is another number in each of the pods.
func portMatches(p networkingv1.NetworkPolicyPort, pods []*corev1.Pod) []string {
	protocol := corev1.ProtocolTCP
	if p.Protocol != nil {
		protocol = *p.Protocol
	}
	proto := strings.ToLower(string(protocol))
	switch {
	case p.Port == nil:
		return []string{"meta l4proto " + proto}
	case p.Port.Type == intstr.String:
		return namedPortMatches(p.Port.StrVal, protocol, pods)
	case p.EndPort != nil && *p.EndPort > p.Port.IntVal:
		return []string{fmt.Sprintf("%s dport %d-%d", proto, p.Port.IntVal, *p.EndPort)}
	default:
		return []string{fmt.Sprintf("%s dport %d", proto, p.Port.IntVal)}
	}
}

func namedPortMatches(name string, protocol corev1.Protocol, pods []*corev1.Pod) []string {
	byNumber := map[int32][]*corev1.Pod{}
	for _, pod := range pods {
		for _, number := range namedPorts(name, protocol, pod) {
			byNumber[number] = append(byNumber[number], pod)
		}
	}
	var matches []string
	for number, pods := range byNumber {
		matches = append(matches, fmt.Sprintf("ip daddr %s %s dport %d", set(pods), strings.ToLower(string(protocol)), number))
	}
	slices.Sort(matches)
	return matches
}

func namedPorts(name string, protocol corev1.Protocol, pod *corev1.Pod) []int32 {
	var found []int32
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, port := range container.Ports {
			if port.Name == name && cmp.Or(port.Protocol, corev1.ProtocolTCP) == protocol && !slices.Contains(found, port.ContainerPort) {
				found = append(found, port.ContainerPort)
			}
		}
	}
	return found
}

// ruleset writes the table, in a form that replaces what is there.
func (c *compiler) ruleset() string {
	for _, d := range []direction{egress, ingress} {
		var verdicts []string
		for _, pod := range sortedKeys(c.guarded[d.name]) {
			ip, _ := address(pod)
			name := chainName("pod-"+d.name, pod.Namespace, pod.Name)
			rules := []string{fmt.Sprintf("%s %s accept", d.other, ip)} // no policy keeps a pod from itself
			for _, policy := range c.guarded[d.name][pod] {
				rules = append(rules, "jump "+policy)
			}
			c.chain(name, append(rules, "drop")...)
			verdicts = append(verdicts, fmt.Sprintf("%s : goto %s", ip, name))
		}
		base := []string{
			"type filter hook forward priority " + d.priority + "; policy accept;",
			"ct state established,related accept",
		}
		if len(verdicts) > 0 {
			base = append(base, fmt.Sprintf("%s vmap { %s }", d.self, strings.Join(verdicts, ", ")))
		}
		c.chain(d.name, base...)
	}
	return fmt.Sprintf("add table %s\ndelete table %s\ntable %s {\n%s}\n", table, table, table, strings.Join(c.chains, ""))
}

func (c *compiler) chain(name string, rules ...string) {
	body := ""
	for _, r := range rules {
		body += "\t\t" + r + "\n"
	}
	c.chains = append(c.chains, fmt.Sprintf("\tchain %s {\n%s\t}\n", name, body))
}

// chainName can be read by people, and is short enough for the kernel.
func chainName(prefix, namespace, name string) string {
	full := prefix + "/" + namespace + "/" + name
	if len(full) > 200 {
		full = fmt.Sprintf("%s-%x", full[:180], sha256.Sum256([]byte(full)))[:200]
	}
	return full
}

// set is the pods' addresses, each once.
func set(pods []*corev1.Pod) string {
	var ips []netip.Addr
	for _, p := range pods {
		ip, _ := address(p)
		ips = append(ips, ip)
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	var text []string
	for _, ip := range slices.Compact(ips) {
		text = append(text, ip.String())
	}
	return "{ " + strings.Join(text, ", ") + " }"
}

func join(matches ...string) string {
	return strings.Join(slices.DeleteFunc(matches, func(m string) bool { return m == "" }), " ")
}

func podName(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

func sorted[T any](items []T, key func(T) string) []T {
	return slices.SortedFunc(slices.Values(items), func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}

func sortedKeys(pods map[*corev1.Pod][]string) []*corev1.Pod {
	var found []*corev1.Pod
	for p := range pods {
		found = append(found, p)
	}
	return sorted(found, podName)
}
