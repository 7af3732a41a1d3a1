package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// ignored is test/e2e/ignored-fields.yaml: what may differ between two snapshots, each with its reason.
type ignored struct {
	Kinds  []ignoredKind  `json:"kinds"`
	Fields []ignoredField `json:"fields"`
}

type ignoredKind struct{ Kind, Reason string }

type ignoredField struct {
	Kind   string `json:"kind"` // "" is every kind
	Path   string `json:"path"` // dotted
	Reason string `json:"reason"`
}

func readIgnored(t *testing.T) ignored {
	t.Helper()
	data, err := os.ReadFile("ignored-fields.yaml")
	must(t, err)
	var ig ignored
	must(t, yaml.UnmarshalStrict(data, &ig))
	for _, k := range ig.Kinds {
		if k.Reason == "" {
			t.Fatalf("ignored kind %s has no reason", k.Kind)
		}
	}
	for _, f := range ig.Fields {
		if f.Reason == "" {
			t.Fatalf("ignored field %s has no reason", f.Path)
		}
	}
	return ig
}

// snapshot is every object of a namespace, of every kind that the API server has, without the ignored fields. Slices that
// Kubernetes derives are kept as sets of address, port and readiness.
func snapshot(t *testing.T, ns string) map[string]any {
	t.Helper()
	out, ig := map[string]any{}, readIgnored(t)
	everyObject(t, ns, ig, func(_ schema.GroupVersion, o *unstructured.Unstructured) { addObject(out, o, ig) })
	return out
}

// everyObject lists what a namespace has, or, with "", the whole cluster, of every kind that is not ignored.
func everyObject(t *testing.T, ns string, ig ignored, found func(schema.GroupVersion, *unstructured.Unstructured)) {
	t.Helper()
	dc, err := discovery.NewDiscoveryClientForConfig(cluster.Config)
	must(t, err)
	dyn, err := dynamic.NewForConfig(cluster.Config)
	must(t, err)
	kinds := dc.ServerPreferredNamespacedResources
	if ns == "" {
		kinds = dc.ServerPreferredResources
	}
	lists, err := kinds()
	must(t, err)
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		must(t, err)
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") || slices.ContainsFunc(ig.Kinds, func(k ignoredKind) bool { return k.Kind == r.Kind }) {
				continue
			}
			items, err := dyn.Resource(gv.WithResource(r.Name)).Namespace(ns).List(context.Background(), metav1.ListOptions{})
			if ns == "" && (apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err)) {
				continue
			}
			must(t, err)
			for i := range items.Items {
				found(gv, &items.Items[i])
			}
		}
	}
}

func addObject(out map[string]any, o *unstructured.Unstructured, ig ignored) {
	if o.GetKind() == "EndpointSlice" && o.GetLabels()["endpointslice.kubernetes.io/managed-by"] == "endpointslice-controller.k8s.io" {
		key := "EndpointSlices of " + o.GetLabels()["kubernetes.io/service-name"]
		set, _ := out[key].([]string)
		set = append(set, endpointsOf(o)...)
		sort.Strings(set)
		out[key] = slices.Compact(set)
		return
	}
	for _, f := range ig.Fields {
		if f.Kind == "" || f.Kind == o.GetKind() {
			unstructured.RemoveNestedField(o.Object, strings.Split(f.Path, ".")...)
		}
	}
	out[o.GetKind()+"/"+o.GetName()] = o.Object
}

func endpointsOf(o *unstructured.Unstructured) []string {
	var out []string
	ports, _, _ := unstructured.NestedSlice(o.Object, "ports")
	endpoints, _, _ := unstructured.NestedSlice(o.Object, "endpoints")
	for _, e := range endpoints {
		em := e.(map[string]any)
		ready, _, _ := unstructured.NestedBool(em, "conditions", "ready")
		addrs, _, _ := unstructured.NestedStringSlice(em, "addresses")
		for _, p := range ports {
			pm := p.(map[string]any)
			out = append(out, fmt.Sprintf("%v %v %v ready=%v", addrs, pm["name"], pm["port"], ready))
		}
	}
	return out
}

// checkRestored fails the test unless the namespace is as it was. Derived slices follow a moment later, so it waits.
func checkRestored(t *testing.T, ns string, before map[string]any) {
	t.Helper()
	await(t, promise(6e9), "everything as it was", func() error {
		if diff := differences("", before, snapshot(t, ns)); len(diff) > 0 {
			return fmt.Errorf("differs from before:\n%s", strings.Join(diff, "\n"))
		}
		return nil
	})
}

// differences names each path at which two snapshots differ, with both values.
func differences(path string, before, now any) []string {
	b, bok := before.(map[string]any)
	n, nok := now.(map[string]any)
	if !bok || !nok {
		x, y := fmt.Sprint(before), fmt.Sprint(now)
		if x == y {
			return nil
		}
		return []string{fmt.Sprintf("%s: before %.300s, now %.300s", path, x, y)}
	}
	keys := map[string]bool{}
	for k := range b {
		keys[k] = true
	}
	for k := range n {
		keys[k] = true
	}
	var out []string
	for k := range keys {
		out = append(out, differences(path+" / "+k, b[k], n[k])...)
	}
	sort.Strings(out)
	return out
}
