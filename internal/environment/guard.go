package environment

import (
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
func namespaceFor(e *v1alpha1.Environment) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: NamespaceOf(e),
		Labels: map[string]string{
			v1alpha1.LabelManaged: "dayfly", v1alpha1.LabelEnvironment: e.Name, v1alpha1.LabelHome: e.Namespace,
			"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted",
		},
		Annotations: map[string]string{v1alpha1.AnnotationUID: string(e.UID)},
	}}
}

// owns says whether a namespace was made for this very environment.
func owns(e *v1alpha1.Environment, ns *corev1.Namespace) bool {
	return ns.Labels[v1alpha1.LabelManaged] == "dayfly" && ns.Annotations[v1alpha1.AnnotationUID] == string(e.UID)
}

// guards are what stands in an environment's namespace before anything else can be there, in the order in which they are
// made: the last is what lets its account do anything at all.
func guards(e *v1alpha1.Environment, system string) []client.Object {
	meta := func() metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: NamespaceOf(e), Name: guardName, Labels: map[string]string{v1alpha1.LabelManaged: "dayfly"}}
	}
	owner := &rbacv1.RoleBinding{ObjectMeta: meta(),
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: RoleOwner},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: e.Spec.Owner.Username}}}
	owner.Name = RoleOwner
	return []client.Object{
		&networkingv1.NetworkPolicy{ObjectMeta: meta(), Spec: isolation(system)},
		&corev1.ResourceQuota{ObjectMeta: meta(), Spec: corev1.ResourceQuotaSpec{Hard: quota}},
		&corev1.LimitRange{ObjectMeta: meta(), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Default: limits, DefaultRequest: requests,
		}}}},
		owner,
		&corev1.ServiceAccount{ObjectMeta: meta(), AutomountServiceAccountToken: new(false)},
		&rbacv1.RoleBinding{ObjectMeta: meta(),
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: RoleAccount},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: NamespaceOf(e), Name: v1alpha1.EnvironmentAccount}}},
	}
}

// What an environment may take, and what a container has that asks for nothing. They are written once: who rules the
// cluster may change the quota of an environment.
var (
	quota = corev1.ResourceList{
		"pods": resource.MustParse("50"), "requests.cpu": resource.MustParse("4"), "requests.memory": resource.MustParse("8Gi"),
		"limits.memory": resource.MustParse("16Gi"), "requests.storage": resource.MustParse("50Gi"), "persistentvolumeclaims": resource.MustParse("10"),
		"services.loadbalancers": resource.MustParse("0"), "services.nodeports": resource.MustParse("0"),
	}
	requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	limits   = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")}
)

// isolation lets pods of the namespace talk to each other and ask the cluster's DNS, and nothing else. dayfly's controller, in
// its namespace, comes in for health checks, and its gateway for whoever asks at an address of the environment.
func isolation(system string) networkingv1.NetworkPolicySpec {
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
	return networkingv1.NetworkPolicySpec{
		PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		Ingress:     []networkingv1.NetworkPolicyIngressRule{{From: append(slices.Clone(own), role("controller"), role("gateway"))}},
		Egress:      []networkingv1.NetworkPolicyEgressRule{{To: own}, dns},
	}
}
