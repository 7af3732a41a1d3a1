package environment

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The cluster roles that the guards give; deploy/environment.yaml says what is in them.
const (
	RoleAccount = "dayfly-environment"
	RoleOwner   = "dayfly-environment-owner"
)

// guardName is the name of every guard.
const guardName = v1alpha1.EnvironmentAccount

// namespaceFor is the namespace of an environment.
func namespaceFor(e *v1alpha1.Environment, g v1alpha1.PolicyGuards, system string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: NamespaceOf(e),
		Labels: map[string]string{
			v1alpha1.LabelManaged: "dayfly", v1alpha1.LabelEnvironment: e.Name, v1alpha1.LabelHome: e.Namespace,
			labelEnforce: cmp.Or(g.PodSecurity, "baseline"), "pod-security.kubernetes.io/warn": "restricted",
		},
		Annotations: map[string]string{v1alpha1.AnnotationUID: string(e.UID), v1alpha1.AnnotationGuards: guardsHash(g, system)},
	}}
}

const labelEnforce = "pod-security.kubernetes.io/enforce"

// guardsHash tells guards from those of another policy, or of another version of dayfly.
func guardsHash(g v1alpha1.PolicyGuards, system string) string {
	defaults := containerDefaults(g)
	return hash([]any{cmp.Or(g.PodSecurity, "baseline"), isolation(system, g.Egress), merged(quota, g.Quota), defaults})
}

// owns says whether a namespace was made for this very environment.
func owns(e *v1alpha1.Environment, ns *corev1.Namespace) bool {
	return ns.Labels[v1alpha1.LabelManaged] == "dayfly" && ns.Annotations[v1alpha1.AnnotationUID] == string(e.UID)
}

// guarded says whether what stands in a namespace are these guards.
func guarded(ns *corev1.Namespace, g v1alpha1.PolicyGuards, system string) bool {
	return ns.Annotations[v1alpha1.AnnotationGuards] == guardsHash(g, system)
}

// guardsKey is by which it is remembered that the API server did not take the guards.
var guardsKey = key{kind: "guards"}

// refusedGuards says why the API server does not take what the policy says of the guards; "" if it does, or is to be asked again, as
// the policy has changed.
func (d *decision) refusedGuards() string {
	if r, ok := d.Refused[guardsKey]; ok && d.Policy != nil && r.hash == d.Guards && d.Now.Sub(r.when) < retryRefused {
		return fmt.Sprintf("policy %s cannot be followed: %s", d.Policy.Name, clean(r.why))
	}
	return ""
}

// guards are what stands in an environment's namespace before anything else can be there. The last is made last: it is what
// lets its account do anything at all.
func guards(e *v1alpha1.Environment, g v1alpha1.PolicyGuards, system string) []client.Object {
	meta := func() metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: NamespaceOf(e), Name: guardName, Labels: map[string]string{v1alpha1.LabelManaged: "dayfly"},
			Annotations: map[string]string{v1alpha1.AnnotationGuards: guardsHash(g, system)}}
	}
	owner := &rbacv1.RoleBinding{ObjectMeta: meta(),
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: RoleOwner},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: e.Spec.Owner.Username}}}
	owner.Name = RoleOwner
	defaults := containerDefaults(g)
	return []client.Object{
		&networkingv1.NetworkPolicy{ObjectMeta: meta(), Spec: isolation(system, g.Egress)},
		&corev1.ResourceQuota{ObjectMeta: meta(), Spec: corev1.ResourceQuotaSpec{Hard: merged(quota, g.Quota)}},
		&corev1.LimitRange{ObjectMeta: meta(), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Default: defaults.Limits, DefaultRequest: defaults.Requests,
		}}}},
		owner,
		&corev1.ServiceAccount{ObjectMeta: meta(), AutomountServiceAccountToken: new(false)},
		&rbacv1.RoleBinding{ObjectMeta: meta(),
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: RoleAccount},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: NamespaceOf(e), Name: v1alpha1.EnvironmentAccount}}},
	}
}

// containerDefaults are what a container has that asks for nothing.
func containerDefaults(g v1alpha1.PolicyGuards) corev1.ResourceRequirements {
	d := v1alpha1.ContainerDefaults{}
	if g.Defaults != nil {
		d = *g.Defaults
	}
	return corev1.ResourceRequirements{Requests: merged(requests, d.Requests), Limits: merged(limits, d.Limits)}
}

// merged are quantities, each of which a policy may have changed.
func merged(ours corev1.ResourceList, policy v1alpha1.Resources) corev1.ResourceList {
	out := maps.Clone(ours)
	for name, q := range policy {
		out[corev1.ResourceName(name)] = q
	}
	return out
}

// What an environment may take, and what a container has that asks for nothing, unless a policy says otherwise.
var (
	quota = corev1.ResourceList{
		"pods": resource.MustParse("50"), "requests.cpu": resource.MustParse("4"), "requests.memory": resource.MustParse("8Gi"),
		"limits.memory": resource.MustParse("16Gi"), "requests.storage": resource.MustParse("50Gi"), "persistentvolumeclaims": resource.MustParse("10"),
		"count/configmaps": resource.MustParse("100"), "count/secrets": resource.MustParse("100"), "count/services": resource.MustParse("100"), // all are read at once
		"services.loadbalancers": resource.MustParse("0"), "services.nodeports": resource.MustParse("0"),
	}
	requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	limits   = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")}
)

// isolation lets pods of the namespace talk to each other and ask the cluster's DNS, and nothing else. dayfly's controller, in
// its namespace, comes in for health checks, and its gateway for whoever asks at an address of the environment. A policy may let
// them reach more.
func isolation(system string, egress []v1alpha1.EgressRule) networkingv1.NetworkPolicySpec {
	own := []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}
	role := func(name string) networkingv1.NetworkPolicyPeer {
		return networkingv1.NetworkPolicyPeer{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: system}},
			PodSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": "dayfly", "app.kubernetes.io/component": name}},
		}
	}
	dns := networkingv1.NetworkPolicyEgressRule{
		To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: metav1.NamespaceSystem}}}},
	}
	for _, protocol := range []corev1.Protocol{corev1.ProtocolUDP, corev1.ProtocolTCP} {
		dns.Ports = append(dns.Ports, networkingv1.NetworkPolicyPort{Protocol: &protocol, Port: new(intstr.FromInt32(53))})
	}
	out := []networkingv1.NetworkPolicyEgressRule{{To: own}, dns}
	for _, r := range egress {
		out = append(out, egressRule(r))
	}
	return networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: append(slices.Clone(own), role("controller"), role("gateway"))}},
		Egress:      out,
	}
}

// egressRule is what a policy lets pods reach, as a NetworkPolicy says it.
func egressRule(r v1alpha1.EgressRule) (out networkingv1.NetworkPolicyEgressRule) {
	to := networkingv1.NetworkPolicyPeer{}
	if r.CIDR != "" {
		to.IPBlock = &networkingv1.IPBlock{CIDR: r.CIDR, Except: r.Except}
	} else {
		to.NamespaceSelector = &metav1.LabelSelector{MatchLabels: r.Namespaces}
	}
	out.To = []networkingv1.NetworkPolicyPeer{to}
	for _, p := range r.Ports {
		out.Ports = append(out.Ports, networkingv1.NetworkPolicyPort{Protocol: new(corev1.Protocol(cmp.Or(p.Protocol, "TCP"))), Port: new(intstr.FromInt32(p.Port))})
	}
	return out
}
