package cli

import (
	"strings"
	"testing"

	"dayfly.dev/dayfly/internal/source"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Every object that an update would change is named, with its lines, and no value of a Secret.
func TestDifferencesOfTwoRenderings(t *testing.T) {
	t.Parallel()
	object := func(kind, name, field, value string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind, "metadata": map[string]any{"name": name}, field: map[string]any{"key": value}}}
	}
	before := []source.Component{{Name: "web", Objects: []*unstructured.Unstructured{object("ConfigMap", "same", "data", "a"), object("ConfigMap", "settings", "data", "a"),
		object("Secret", "token", "data", "c2VjcmV0"), object("Secret", "kept", "stringData", "secret"), object("Service", "old", "spec", "x")}}}
	after := []source.Component{{Name: "web", Objects: []*unstructured.Unstructured{object("ConfigMap", "same", "data", "a"), object("ConfigMap", "settings", "data", "b"),
		object("Secret", "token", "data", "b3RoZXI="), object("Secret", "kept", "stringData", "secret"), object("Service", "new", "spec", "x")}}}
	var got []string
	all := ""
	for _, d := range differences(before, after) {
		got = append(got, d.Object+" "+d.Change)
		all += d.Diff
	}
	if s := strings.Join(got, ", "); s != "configmap/settings changed, secret/token changed, service/new added, service/old removed" {
		t.Error(s)
	}
	for _, want := range []string{"-  key: a\n+  key: b\n", "+kind: Service\n", "-kind: Service\n"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	for _, secret := range []string{"c2VjcmV0", "b3RoZXI="} {
		if strings.Contains(all, secret) {
			t.Errorf("a secret is shown:\n%s", all)
		}
	}
}
