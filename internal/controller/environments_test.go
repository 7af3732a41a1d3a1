package controller

import (
	"testing"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

// What is kept of an object tells of every change of what was applied, and of no other; workloads are looked at whenever they change.
func TestWhatWakesAnEnvironment(t *testing.T) {
	applied := func(fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: v1alpha1.EnvironmentManager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}}
	}
	others := metav1.ManagedFieldsEntry{Manager: "kubectl-edit", Operation: metav1.ManagedFieldsOperationUpdate, FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:data":{"f:b":{}}}`)}}
	before := []metav1.ManagedFieldsEntry{applied(`{"f:data":{"f:a":{},"f:b":{}},"f:spec":{"f:replicas":{}}}`)}
	settings, deployment := corev1.SchemeGroupVersion.WithKind("ConfigMap"), appsv1.SchemeGroupVersion.WithKind("Deployment")
	for what, c := range map[string]struct {
		kind  schema.GroupVersionKind
		after []metav1.ManagedFieldsEntry
		want  bool
	}{
		"somebody has taken a field over":             {settings, []metav1.ManagedFieldsEntry{applied(`{"f:data":{"f:a":{}}}`), others}, true},
		"somebody has written one beside":             {settings, append(before, others), false},
		"a workload's status":                         {deployment, append(before, others), true},
		"how many run is somebody else's to say":      {settings, []metav1.ManagedFieldsEntry{applied(`{"f:data":{"f:a":{},"f:b":{}},"f:spec":{}}`)}, false},
		"everything that was applied is another's":    {settings, []metav1.ManagedFieldsEntry{others}, true},
		"a watch that begins anew says the same":      {settings, before, false},
		"the same of a workload is of the same state": {deployment, nil, false},
	} {
		old, now := metadataOf(c.kind), metadataOf(c.kind)
		old.ResourceVersion, now.ResourceVersion, old.ManagedFields, now.ManagedFields = "1", "2", before, c.after
		if c.after == nil {
			now.ResourceVersion, now.ManagedFields = "1", before
		}
		a, _ := slim(old)
		b, _ := slim(now)
		b, _ = slim(b) // an informer may do so twice
		update := event.UpdateEvent{ObjectOld: a.(*metav1.PartialObjectMetadata), ObjectNew: b.(*metav1.PartialObjectMetadata)}
		if got := altered(c.kind).Update(update); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// What holds settings and secrets is not watched: that would be a right to read those of the whole cluster.
func TestNoSecretIsWatched(t *testing.T) {
	for _, gvk := range environment.Watched {
		if gvk.Kind == "Secret" || gvk.Kind == "ConfigMap" {
			t.Error(gvk)
		}
	}
}
