// Package deploy holds the manifests that `dayfly install` applies.
package deploy

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

//go:embed *.yaml crd/*.yaml
var files embed.FS

// Namespace is where dayfly runs.
const Namespace = "dayfly-system"

// GatewaySecret names the Secret in Namespace with the gateway's certificate: tls.crt and tls.key.
const GatewaySecret = "gateway-tls"

// Image is the name under which a version's image is looked for unless another is given.
func Image(version string) string { return "docker.io/dayfly/dayfly:" + version }

// RouterService names the Service of the i-th router replica.
func RouterService(i int) string { return fmt.Sprintf("router-%d", i) }

// Options are what may differ between installations.
type Options struct {
	Image         string
	Version       string
	Routers       int      // replicas
	PullSecrets   []string // names of Secrets in Namespace
	PriorityClass string   // "" is the cluster's default
	OTLPEndpoint  string   // of the collector of traces; "" is none
	Domain        string   // under which the gateway answers for environments; "" is no gateway
	GatewayType   string   // of its Service: ClusterIP, NodePort or LoadBalancer; "" is ClusterIP
	Front         Front    // how visitors come to the gateway otherwise

	// How many sessions a namespace holds, and how many of them one owner; 0: no bound.
	SessionsPerNamespace, SessionsPerOwner int
}

// Front is what the cluster has that leads visitors to the gateway. Each part is optional.
type Front struct {
	IngressClass       string            // of an Ingress
	IngressAnnotations map[string]string // of that
	Gateway            ParentRef         // of an HTTPRoute
	Issuer             IssuerRef         // of a Certificate, by cert-manager
}

// ParentRef names a Gateway, and a listener of it if only that is to lead to dayfly.
type ParentRef struct{ Namespace, Name, Listener string }

// IssuerRef names an Issuer in Namespace, or a ClusterIssuer.
type IssuerRef struct{ Kind, Name string }

// Proxied says whether visitors come by way of a proxy.
func (f Front) Proxied() bool { return f.IngressClass != "" || f.Gateway.Name != "" }

// has says whether an object of front.yaml is to be there.
func (f Front) has(obj *unstructured.Unstructured) bool {
	switch obj.GetKind() {
	case "Ingress":
		return f.IngressClass != ""
	case "HTTPRoute":
		return f.Gateway.Name != ""
	case "Certificate":
		return f.Issuer.Name != ""
	}
	return f.Proxied()
}

// common are the files that hold one of each object; router.yaml is there for each router.
var common = []string{"namespace.yaml", "crd/dayfly.dev_sessions.yaml", "crd/dayfly.dev_alterations.yaml",
	"crd/dayfly.dev_environments.yaml", "crd/dayfly.dev_blueprints.yaml", "crd/dayfly.dev_environmentpolicies.yaml",
	"rbac.yaml", "developer.yaml", "environment.yaml", "admission.yaml", "fleet.yaml", "controller.yaml"}

// Objects returns everything to apply, in the order of the files: definitions first, workloads last.
func Objects(o Options) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	add := func(name string, edit func(string) string) error {
		data, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		objects, err := parse([]byte(edit(string(data))))
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		out = append(out, objects...)
		return nil
	}
	same := func(s string) string { return s }
	for _, name := range common {
		if err := add(name, same); err != nil {
			return nil, err
		}
	}
	if o.Domain != "" {
		if err := add("gateway.yaml", same); err != nil {
			return nil, err
		}
		others := len(out)
		if err := add("front.yaml", same); err != nil {
			return nil, err
		}
		out = append(out[:others], slices.DeleteFunc(out[others:], func(obj *unstructured.Unstructured) bool { return !o.Front.has(obj) })...)
	}
	for i := range o.Routers {
		name := RouterService(i)
		if err := add("router.yaml", func(s string) string { return strings.ReplaceAll(s, "router-0", name) }); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(o.PriorityClass, "system-") {
		if err := add("critical.yaml", same); err != nil {
			return nil, err
		}
	}
	for _, obj := range out {
		if err := o.complete(obj); err != nil {
			return nil, fmt.Errorf("completing %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
	}
	return out, nil
}

// Unused are the objects of a front that these options do without, and an installation before may have had.
func Unused(o Options) ([]*unstructured.Unstructured, error) {
	data, err := files.ReadFile("front.yaml")
	if err != nil {
		return nil, err
	}
	objects, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("reading front.yaml: %w", err)
	}
	return slices.DeleteFunc(objects, func(obj *unstructured.Unstructured) bool { return o.Domain != "" && o.Front.has(obj) }), nil
}

// complete fills in what the files leave open.
func (o Options) complete(obj *unstructured.Unstructured) error {
	labels := obj.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels["app.kubernetes.io/name"], labels["app.kubernetes.io/version"] = "dayfly", o.Version
	obj.SetLabels(labels)
	var routers []any
	for i := range o.Routers {
		routers = append(routers, "https:"+RouterService(i)+":connect")
	}
	switch {
	case obj.GetKind() == "Role" && obj.GetName() == "dayfly-connect":
		rules, _, err := unstructured.NestedSlice(obj.Object, "rules")
		if err != nil {
			return err
		}
		rules[0].(map[string]any)["resourceNames"] = routers
		return unstructured.SetNestedSlice(obj.Object, rules, "rules")
	case obj.GetKind() == "Deployment":
		return o.completePod(obj)
	case obj.GetKind() == "Service" && obj.GetName() == "gateway" && o.GatewayType != "":
		return unstructured.SetNestedField(obj.Object, o.GatewayType, "spec", "type")
	case obj.GetKind() == "Ingress" || obj.GetKind() == "HTTPRoute" || obj.GetKind() == "Certificate":
		return o.completeFront(obj)
	case obj.GetKind() == "ResourceQuota":
		return unstructured.SetNestedSlice(obj.Object, []any{map[string]any{
			"operator": "In", "scopeName": "PriorityClass", "values": []any{o.PriorityClass},
		}}, "spec", "scopeSelector", "matchExpressions")
	}
	return nil
}

func (o Options) completeFront(obj *unstructured.Unstructured) error {
	hosts, spec := []any{"*." + o.Domain}, obj.Object["spec"].(map[string]any)
	switch obj.GetKind() {
	case "Ingress":
		obj.SetAnnotations(o.Front.IngressAnnotations)
		spec["ingressClassName"] = o.Front.IngressClass
		spec["tls"].([]any)[0].(map[string]any)["hosts"] = hosts
		spec["rules"].([]any)[0].(map[string]any)["host"] = hosts[0]
	case "HTTPRoute":
		parent := map[string]any{"namespace": o.Front.Gateway.Namespace, "name": o.Front.Gateway.Name}
		if o.Front.Gateway.Listener != "" {
			parent["sectionName"] = o.Front.Gateway.Listener
		}
		spec["parentRefs"], spec["hostnames"] = []any{parent}, hosts
	case "Certificate":
		spec["dnsNames"], spec["issuerRef"] = hosts, map[string]any{"kind": o.Front.Issuer.Kind, "name": o.Front.Issuer.Name}
	}
	return nil
}

func (o Options) completePod(obj *unstructured.Unstructured) error {
	pod, _, err := unstructured.NestedMap(obj.Object, "spec", "template", "spec")
	if err != nil {
		return err
	}
	c := pod["containers"].([]any)[0].(map[string]any)
	c["image"] = o.Image
	env, _ := c["env"].([]any)
	for _, e := range env {
		switch e := e.(map[string]any); e["name"] {
		case "OTEL_EXPORTER_OTLP_ENDPOINT":
			e["value"] = o.OTLPEndpoint
		case "DAYFLY_PROXIED":
			e["value"] = strconv.FormatBool(o.Front.Proxied())
		}
	}
	if obj.GetName() == "controller" {
		c["env"] = append(env, map[string]any{"name": "DAYFLY_ROUTERS", "value": fmt.Sprint(o.Routers)},
			map[string]any{"name": "DAYFLY_SESSIONS_PER_NAMESPACE", "value": fmt.Sprint(o.SessionsPerNamespace)},
			map[string]any{"name": "DAYFLY_SESSIONS_PER_OWNER", "value": fmt.Sprint(o.SessionsPerOwner)},
			map[string]any{"name": "DAYFLY_DOMAIN", "value": o.Domain})
	}
	var secrets []any
	for _, name := range o.PullSecrets {
		secrets = append(secrets, map[string]any{"name": name})
	}
	if len(secrets) > 0 {
		pod["imagePullSecrets"] = secrets
	}
	if o.PriorityClass != "" {
		pod["priorityClassName"] = o.PriorityClass
	}
	return unstructured.SetNestedMap(obj.Object, pod, "spec", "template", "spec")
}

func parse(data []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		u := &unstructured.Unstructured{}
		err := d.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(u.Object) > 0 {
			out = append(out, u)
		}
	}
}
