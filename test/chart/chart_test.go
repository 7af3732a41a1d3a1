package chart

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"dayfly.dev/dayfly/deploy"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const version = "v1.2.3"

// rendered returns what Helm would apply with these values, by kind and name.
func rendered(t *testing.T, values map[string]any) (map[string]map[string]any, error) {
	t.Helper()
	var tgz bytes.Buffer
	if err := deploy.WriteChart(&tgz, version); err != nil {
		t.Fatal(err)
	}
	text, err := Render(&tgz, values)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]any{}
	d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		u := unstructured.Unstructured{}
		err := d.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if len(u.Object) > 0 {
			out[u.GetKind()+"/"+u.GetName()] = u.Object
		}
	}
}

func installed(t *testing.T, o deploy.Options) map[string]map[string]any {
	t.Helper()
	objects, err := deploy.Objects(o)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]any{}
	for _, obj := range objects {
		out[obj.GetKind()+"/"+obj.GetName()] = obj.Object
	}
	return out
}

// The chart and `dayfly install` apply the same, with the values that the chart comes with and with those that install has
// a flag for.
func TestChartIsWhatInstallApplies(t *testing.T) {
	plain := deploy.Options{Image: deploy.Image(version), Version: version, Routers: 2, SessionsPerNamespace: 200, SessionsPerOwner: 50}
	three := plain
	three.Routers, three.Image, three.PullSecrets, three.PriorityClass = 3, "registry.example:5000/dayfly@sha256:1", []string{"a", "b"}, "system-cluster-critical"
	three.SessionsPerNamespace, three.SessionsPerOwner, three.OTLPEndpoint = 7, 0, "http://collector:4318"
	three.Domain, three.GatewayType = "env.example.com", "NodePort"
	three.Front = deploy.Front{IngressClass: "nginx", IngressAnnotations: map[string]string{"example.com/timeout": "200"},
		Gateway: deploy.ParentRef{Namespace: "gateways", Name: "public", Listener: "https"}, Issuer: deploy.IssuerRef{Kind: "ClusterIssuer", Name: "letsencrypt"}}
	other := plain
	other.PriorityClass = "important"
	for _, c := range []struct {
		name   string
		values map[string]any
		want   deploy.Options
	}{
		{"default values", nil, plain},
		{"every flag of install", map[string]any{"routers": 3, "domain": "env.example.com", "gateway": map[string]any{"type": "NodePort",
			"ingress":     map[string]any{"className": "nginx", "annotations": map[string]any{"example.com/timeout": "200"}},
			"httpRoute":   map[string]any{"parentRefs": []any{map[string]any{"namespace": "gateways", "name": "public", "sectionName": "https"}}},
			"certificate": map[string]any{"issuerRef": map[string]any{"kind": "ClusterIssuer", "name": "letsencrypt"}}},
			"sessionsPerNamespace": 7, "otlpEndpoint": "http://collector:4318", "sessionsPerOwner": 0, "image": three.Image, "priorityClassName": three.PriorityClass,
			"imagePullSecrets": []any{map[string]any{"name": "a"}, map[string]any{"name": "b"}}}, three},
		{"a priority class of one's own", map[string]any{"priorityClassName": "important"}, other},
	} {
		got, err := rendered(t, c.values)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(installed(t, c.want), got, cmp.Transformer("number", func(i int64) float64 { return float64(i) })); diff != "" {
			t.Errorf("%s (-install +chart):\n%s", c.name, diff)
		}
	}
}

// What install has no flag for is a value of the chart, and reaches every pod.
func TestChartValuesReachEveryPod(t *testing.T) {
	resources := map[string]any{"limits": map[string]any{"memory": "1Gi"}, "requests": map[string]any{"cpu": 1, "memory": nil}} // Helm merges; null takes away
	got, err := rendered(t, map[string]any{
		"nodeSelector": map[string]any{"disk": "ssd"}, "tolerations": []any{map[string]any{"operator": "Exists"}},
		"labels":     map[string]any{"team": "plat: form", "example.com/x": "true"},
		"controller": map[string]any{"replicas": 3, "resources": resources}, "router": map[string]any{"resources": resources},
		"domain": "env.example.com", "gateway": map[string]any{"resources": resources},
		"createNamespace": false,
	})
	if err != nil {
		t.Fatal(err)
	}
	deployments := 0
	for name, o := range got {
		u := unstructured.Unstructured{Object: o}
		if u.GetLabels()["team"] != "plat: form" || u.GetLabels()["example.com/x"] != "true" {
			t.Errorf("%s has the labels %v", name, u.GetLabels())
		}
		if u.GetKind() != "Deployment" {
			continue
		}
		deployments++
		labels, _, _ := unstructured.NestedStringMap(o, "spec", "template", "metadata", "labels")
		pod, _, _ := unstructured.NestedMap(o, "spec", "template", "spec")
		container := pod["containers"].([]any)[0].(map[string]any)
		for what, is := range map[string]any{"resources": container["resources"], "selector": pod["nodeSelector"], "tolerations": pod["tolerations"], "label": labels["team"]} {
			want := map[string]string{"resources": "map[limits:map[memory:1Gi] requests:map[cpu:1]]", "selector": "map[disk:ssd]", "tolerations": "[map[operator:Exists]]", "label": "plat: form"}[what]
			if fmt.Sprint(is) != want {
				t.Errorf("%s: %s is %v, want %s", name, what, is, want)
			}
		}
	}
	if _, ok := got["Namespace/dayfly-system"]; ok || deployments != 4 {
		t.Errorf("namespace made: %t; %d deployments", ok, deployments)
	}
	if n, _, _ := unstructured.NestedFieldNoCopy(got["Deployment/controller"], "spec", "replicas"); fmt.Sprint(n) != "3" {
		t.Errorf("%v controllers", n)
	}
}

// A value that does not exist, or cannot be, is refused rather than ignored.
func TestChartRefusesWrongValues(t *testing.T) {
	for _, values := range []map[string]any{{"router": map[string]any{"replicas": 3}}, {"routers": 0}, {"routers": "two"}, {"otlpEndpoint": "collector:4318"}, {"imagePullSecrets": []any{"a"}}} {
		if _, err := rendered(t, values); err == nil {
			t.Errorf("%v is rendered", values)
		}
	}
}
