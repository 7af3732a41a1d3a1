package session

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestHashLeavesOutWhatTheAPIServerKeepsForItself(t *testing.T) {
	object := func(rv, port string) map[string]any {
		return map[string]any{
			"metadata": map[string]any{"name": "web", "resourceVersion": rv, "managedFields": []any{rv}, "generation": rv},
			"spec":     map[string]any{"port": port}, "status": rv,
		}
	}
	if HashOf(object("1", "80")) != HashOf(object("2", "80")) {
		t.Error("the hash changes with the resourceVersion")
	}
	if HashOf(object("1", "80")) == HashOf(object("1", "81")) {
		t.Error("the hash does not change with the spec")
	}
	if o := object("1", "80"); HashOf(o) == "" || o["status"] != "1" {
		t.Error("hashing changes the object")
	}
}

func entry(manager, fields string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}}
}

func TestOwnershipGoesBackToWhoHadIt(t *testing.T) {
	const full = `{"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{},"f:targetPort":{}}}}}`
	const without = `{"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}}}}`
	const only = `{"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{"f:targetPort":{}}}}}`
	for _, c := range []struct {
		name               string
		live, before, want []metav1.ManagedFieldsEntry
	}{
		{"kubectl had it", []metav1.ManagedFieldsEntry{entry("kubectl", without), entry("dayfly", only)},
			[]metav1.ManagedFieldsEntry{entry("kubectl", full)}, []metav1.ManagedFieldsEntry{entry("kubectl", full)}},
		{"its owner had nothing else", []metav1.ManagedFieldsEntry{entry("dayfly", only)},
			[]metav1.ManagedFieldsEntry{entry("helm", only)}, []metav1.ManagedFieldsEntry{entry("helm", only)}},
		{"somebody came meanwhile and stays", []metav1.ManagedFieldsEntry{entry("kubectl", without), entry("flux", `{"f:metadata":{}}`), entry("dayfly", only)},
			[]metav1.ManagedFieldsEntry{entry("kubectl", full)}, []metav1.ManagedFieldsEntry{entry("kubectl", full), entry("flux", `{"f:metadata":{}}`)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := mergeManagers(c.live, c.before)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDifferencesNameThePath(t *testing.T) {
	a := map[string]any{"spec": map[string]any{"x": 1, "y": 2}, "status": 1}
	b := map[string]any{"spec": map[string]any{"x": 1, "y": 3, "z": 4}, "status": 2}
	if diff := cmp.Diff([]string{"spec.y", "spec.z"}, differences("", a, b)); diff != "" {
		t.Error(diff)
	}
}

func TestLongNamesAreShortenedToNamesOfTheirOwn(t *testing.T) {
	a := shorten("a-very-long-name-of-a-service-that-goes-on-and-on-dayfly-origin-1")
	b := shorten("a-very-long-name-of-a-service-that-goes-on-and-on-dayfly-origin-2")
	if a == b || len(a) > 63 || shorten("web") != "web" {
		t.Errorf("%s, %s", a, b)
	}
}
