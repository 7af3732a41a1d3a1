package controller

import (
	"net/netip"
	"testing"

	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/intercept"
	corev1 "k8s.io/api/core/v1"
)

// A router of an earlier version, which lets everybody in whatever the table says, is not taken for one that knows who may call.
func TestARouterThatAsksNobodyIsNotTakenForOneThatDoes(t *testing.T) {
	only := &intercept.Callers{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}}
	acked := []intercept.Listener{{Port: 20000, Callers: only}}
	if got := understood(acked, control.Status{AsksCallers: true}); got[0].Callers != only {
		t.Error("a router that asks is taken for one that does not")
	}
	if got := understood(acked, control.Status{}); got[0].Callers != nil || acked[0].Callers != only {
		t.Errorf("a router that asks nobody serves only %v", got[0].Callers)
	}
}

// Of pods the controller keeps what policies go by, and no more: not what they run, mount or are told.
func TestOfPodsOnlyWhatPoliciesGoByIsKept(t *testing.T) {
	p := &corev1.Pod{}
	p.Name, p.Labels, p.Annotations = "web", map[string]string{"app": "web"}, map[string]string{"secret": "x"}
	p.Spec.Containers = []corev1.Container{{Name: "a", Env: []corev1.EnvVar{{Name: "PASSWORD", Value: "x"}}, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}
	p.Spec.InitContainers = []corev1.Container{
		{Name: "once", Ports: []corev1.ContainerPort{{Name: "no", ContainerPort: 81}}},
		{Name: "sidecar", RestartPolicy: new(corev1.ContainerRestartPolicyAlways), Ports: []corev1.ContainerPort{{Name: "proxy", ContainerPort: 82}}},
	}
	got, err := strip(p)
	if err != nil {
		t.Fatal(err)
	}
	kept := got.(*corev1.Pod)
	if len(kept.Annotations) > 0 || len(kept.Spec.Containers) != 2 || kept.Spec.Containers[0].Env != nil || kept.Spec.Containers[1].Ports[0].Name != "proxy" || kept.Labels["app"] != "web" {
		t.Errorf("%+v", kept)
	}
}
