package deploy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// The chart's values, with a comment on each, and what they may be.
var (
	//go:embed chart/values.yaml
	chartValues string
	//go:embed chart/values.schema.json
	chartSchema string
)

// WriteChart writes a Helm chart of these manifests, a .tgz. Its templates are made from the same objects as Objects
// returns: rendered with the values it comes with it is what `dayfly install` applies.
func WriteChart(w io.Writer, version string) error {
	templates, err := chartTemplates(version)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	for _, f := range []struct{ name, text string }{
		{"Chart.yaml", fmt.Sprintf("apiVersion: v2\nname: dayfly\ndescription: Short-lived environments on Kubernetes\ntype: application\n"+
			"version: %s\nappVersion: %q\nkubeVersion: '>=1.30.0-0'\n", strings.TrimPrefix(version, "v"), version)},
		{"values.yaml", chartValues},
		{"values.schema.json", chartSchema},
		{"templates/dayfly.yaml", templates},
	} {
		if err := t.WriteHeader(&tar.Header{Name: "dayfly/" + f.name, Mode: 0o644, Size: int64(len(f.text))}); err != nil {
			return fmt.Errorf("writing the chart: %w", err)
		}
		if _, err := io.WriteString(t, f.text); err != nil {
			return fmt.Errorf("writing the chart: %w", err)
		}
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("writing the chart: %w", err)
	}
	return z.Close()
}

// A hole is a value in an object that the template fills: ⟦action⟧. It stands alone in its line, as a value or as an item.
func hole(action string) string { return "⟦" + action + "⟧" }

var (
	// optional holes leave the whole line out when the value is empty: key: ⟦?expression⟧
	optionalHole = regexp.MustCompile(`(?m)^( *(?:- )?)([A-Za-z]+): ⟦\?(.*)⟧$`)
	// spreads are replaced by the keys of a map: ⟦labels⟧: ""
	spreadHole = regexp.MustCompile(`(?m)^( *)⟦labels⟧: ""$`)
	plainHole  = regexp.MustCompile(`⟦([^⟧]*)⟧`)
	routerName = regexp.MustCompile(`router-0\b`)
)

// chartTemplates turns the objects into templates: what differs between installations is an action, all else is literal.
func chartTemplates(version string) (string, error) {
	var out bytes.Buffer
	out.WriteString(`{{- define "dayfly.routers" }}{{ $all := list }}{{ range $i := until (int $.Values.routers) }}` +
		`{{ $all = append $all (printf "https:router-%d:connect" $i) }}{{ end }}{{ toJson $all }}{{ end }}` + "\n")
	objects, err := Objects(Options{Image: hole(`$.Values.image | default ` + fmt.Sprintf("%q", Image(version)) + ` | quote`), Version: version,
		Routers: 1, PriorityClass: "system-", Domain: "example.com",
		Front: Front{IngressClass: "any", Gateway: ParentRef{Name: "any"}, Issuer: IssuerRef{Name: "any"}}})
	if err != nil {
		return "", err
	}
	for _, obj := range objects {
		text, err := template(obj)
		if err != nil {
			return "", fmt.Errorf("making a template of %s %s: %w", obj.GetKind(), obj.GetName(), err)
		}
		out.WriteString(text)
	}
	return out.String(), nil
}

func template(obj *unstructured.Unstructured) (string, error) {
	ofRouter, ofGateway := strings.HasPrefix(obj.GetName(), "router-0"), obj.GetName() == "gateway" || obj.GetName() == "dayfly-gateway"
	if err := punch(obj); err != nil {
		return "", err
	}
	data, err := yaml.Marshal(obj.Object)
	if err != nil {
		return "", err
	}
	text := strings.ReplaceAll(string(data), "{{", `{{ "{{" }}`) // nothing of ours, but documentation may
	text = strings.NewReplacer("'⟦", "⟦", "⟧'", "⟧").Replace(text)
	text = spreadHole.ReplaceAllString(text, "{{- range $$k, $$v := $$.Values.labels }}\n$1{{ $$k }}: {{ $$v | quote }}\n{{- end }}")
	text = optionalHole.ReplaceAllString(text, "{{- with $3 }}\n$1$2: {{ toJson . }}\n{{- end }}")
	text = "---\n" + plainHole.ReplaceAllString(text, "{{ $1 }}")
	switch {
	case ofRouter:
		text = routerName.ReplaceAllString(text, "router-{{ $$i }}")
		return "{{- range $i := until (int $.Values.routers) }}\n" + text + "{{- end }}\n", nil
	case obj.GetKind() == "ResourceQuota":
		return "{{- if hasPrefix \"system-\" $.Values.priorityClassName }}\n" + text + "{{- end }}\n", nil
	case frontValues[obj.GetKind()] != "":
		return "{{- if and $.Values.domain $.Values.gateway." + frontValues[obj.GetKind()] + " }}\n" + text + "{{- end }}\n", nil
	case obj.GetName() == "gateway-front":
		return "{{- if and $.Values.domain (" + proxied + ") }}\n" + text + "{{- end }}\n", nil
	case ofGateway:
		return "{{- if $.Values.domain }}\n" + text + "{{- end }}\n", nil
	case obj.GetKind() == "Namespace":
		return "{{- if $.Values.createNamespace }}\n" + text + "{{- end }}\n", nil
	}
	return text, nil
}

// frontValues are the values with which an object of front.yaml is there, and proxied is the condition for what those share.
var frontValues = map[string]string{"Ingress": "ingress.className", "HTTPRoute": "httpRoute.parentRefs", "Certificate": "certificate.issuerRef.name"}

const proxied = "or $.Values.gateway.ingress.className $.Values.gateway.httpRoute.parentRefs"

// punch puts holes where an object may differ between installations.
func punch(obj *unstructured.Unstructured) error {
	labels := obj.GetLabels()
	labels[hole("labels")] = ""
	obj.SetLabels(labels)
	switch {
	case obj.GetKind() == "Role" && obj.GetName() == "dayfly-connect":
		rules, _, err := unstructured.NestedSlice(obj.Object, "rules")
		if err != nil {
			return err
		}
		rules[0].(map[string]any)["resourceNames"] = hole(`include "dayfly.routers" $ | trim`)
		return unstructured.SetNestedSlice(obj.Object, rules, "rules")
	case obj.GetKind() == "ResourceQuota":
		return unstructured.SetNestedField(obj.Object, hole(`list (dict "operator" "In" "scopeName" "PriorityClass" "values" (list $.Values.priorityClassName)) | toJson`),
			"spec", "scopeSelector", "matchExpressions")
	case obj.GetKind() == "Deployment":
		return punchPod(obj)
	case frontValues[obj.GetKind()] != "":
		punchFront(obj)
	case obj.GetKind() == "Service" && obj.GetName() == "gateway":
		return unstructured.SetNestedField(obj.Object, hole("$.Values.gateway.type | quote"), "spec", "type")
	}
	return nil
}

func punchFront(obj *unstructured.Unstructured) {
	const host = `printf "*.%s" $.Values.domain | quote`
	hosts, spec := []any{hole(host)}, obj.Object["spec"].(map[string]any)
	switch obj.GetKind() {
	case "Ingress":
		obj.Object["metadata"].(map[string]any)["annotations"] = hole("?$.Values.gateway.ingress.annotations")
		spec["ingressClassName"] = hole("$.Values.gateway.ingress.className | quote")
		spec["tls"].([]any)[0].(map[string]any)["hosts"] = hosts
		spec["rules"].([]any)[0].(map[string]any)["host"] = hosts[0]
	case "HTTPRoute":
		spec["parentRefs"], spec["hostnames"] = hole("toJson $.Values.gateway.httpRoute.parentRefs"), hosts
	case "Certificate":
		spec["dnsNames"], spec["issuerRef"] = hosts, hole("toJson $.Values.gateway.certificate.issuerRef")
	}
}

// envValues are the values that are told to a role by its environment.
var envValues = map[string]string{
	"DAYFLY_ROUTERS": "routers", "DAYFLY_SESSIONS_PER_NAMESPACE": "sessionsPerNamespace", "DAYFLY_SESSIONS_PER_OWNER": "sessionsPerOwner",
	"OTEL_EXPORTER_OTLP_ENDPOINT": "otlpEndpoint", "DAYFLY_DOMAIN": "domain",
}

func punchPod(obj *unstructured.Unstructured) error {
	role := "router"
	if name := obj.GetName(); name == "controller" || name == "gateway" {
		role = name
	}
	pod, _, err := unstructured.NestedMap(obj.Object, "spec", "template", "spec")
	if err != nil {
		return err
	}
	c := pod["containers"].([]any)[0].(map[string]any)
	c["resources"] = hole("toJson $.Values." + role + ".resources")
	for _, e := range c["env"].([]any) {
		e := e.(map[string]any)
		if value, ok := envValues[e["name"].(string)]; ok {
			e["value"] = hole("$.Values." + value + " | toString | quote")
		} else if e["name"] == "DAYFLY_PROXIED" {
			e["value"] = hole(`ternary "true" "false" (not (not (` + proxied + `))) | quote`)
		}
	}
	pod["tolerations"] = hole("toJson $.Values.tolerations")
	pod["nodeSelector"] = hole("?$.Values.nodeSelector")
	pod["priorityClassName"] = hole("?$.Values.priorityClassName")
	pod["imagePullSecrets"] = hole("?$.Values.imagePullSecrets")
	if err := unstructured.SetNestedField(obj.Object, "", "spec", "template", "metadata", "labels", hole("labels")); err != nil {
		return err
	}
	if role != "router" {
		if err := unstructured.SetNestedField(obj.Object, hole("$.Values."+role+".replicas"), "spec", "replicas"); err != nil {
			return err
		}
	}
	return unstructured.SetNestedMap(obj.Object, pod, "spec", "template", "spec")
}

// DefaultValues returns the values that the chart comes with.
func DefaultValues() (map[string]any, error) {
	var v map[string]any
	if err := yaml.Unmarshal([]byte(chartValues), &v); err != nil {
		return nil, fmt.Errorf("reading the chart's values: %w", err)
	}
	if !json.Valid([]byte(chartSchema)) {
		return nil, fmt.Errorf("the chart's schema is no JSON")
	}
	return v, nil
}
