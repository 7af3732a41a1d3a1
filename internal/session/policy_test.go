package session

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A policy that lets its pods out to another namespace than the Service's, as most do to that of DNS, says nothing about it.
func TestPolicyThatLetsOutElsewhereDoesNotSpeakAgainstACapture(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: map[string]string{"app": "web"}}}
	shop := map[string]string{"kubernetes.io/metadata.name": "shop", "team": "a"}
	for what, c := range map[string]struct {
		selector map[string]string
		labels   map[string]string
		want     bool
	}{
		"the namespace of DNS":             {map[string]string{"kubernetes.io/metadata.name": "kube-system"}, shop, false},
		"the Service's namespace, by name": {map[string]string{"kubernetes.io/metadata.name": "shop"}, shop, true},
		"the Service's namespace, by team": {map[string]string{"team": "a"}, shop, true},
		"every namespace":                  {nil, shop, true},
		"a namespace that is not known":    {map[string]string{"team": "a"}, nil, true},
	} {
		d := &decision{Observed: &Observed{Namespace: "shop", NamespaceLabels: c.labels}}
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "elsewhere"}, Spec: networkingv1.NetworkPolicySpec{
			Egress: []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{MatchLabels: c.selector}}}}}}}
		if got := d.letsOutTo(p, pod); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}
