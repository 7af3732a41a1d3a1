package deploy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"dayfly.dev/dayfly/api/v1alpha1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What the gateway may not write of an environment's status is every field but one: one that is added must be named as well.
func TestGatewayWritesOneFieldOfAStatus(t *testing.T) {
	objects, err := Objects(Options{Routers: 1, Domain: "env.test"})
	if err != nil {
		t.Fatal(err)
	}
	rule := ""
	for _, o := range objects {
		if o.GetKind() == "ValidatingAdmissionPolicy" && o.GetName() == "environments-status.dayfly.dev" {
			list, _, _ := unstructured.NestedSlice(o.Object, "spec", "validations")
			rule = fmt.Sprint(list)
		}
	}
	fields := reflect.TypeFor[v1alpha1.EnvironmentStatus]()
	for i := range fields.NumField() {
		name, _, _ := strings.Cut(fields.Field(i).Tag.Get("json"), ",")
		kept := strings.Contains(rule, "object.status.?"+name+" == oldObject.status.?"+name)
		if want := name != "lastRequest"; kept != want {
			t.Errorf("the gateway is kept from status.%s: %t, want %t", name, kept, want)
		}
	}
}

// With no domain there is no gateway, no account of it, and no rights.
func TestNoDomainNoGateway(t *testing.T) {
	for domain, want := range map[string]bool{"": false, "env.test": true} {
		objects, err := Objects(Options{Routers: 1, Domain: domain, GatewayType: "NodePort"})
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, o := range objects {
			if name := o.GetName(); name == "gateway" || name == "dayfly-gateway" {
				found++
			}
			if o.GetKind() == "Service" && o.GetName() == "gateway" {
				if kind, _, _ := unstructured.NestedString(o.Object, "spec", "type"); kind != "NodePort" {
					t.Errorf("the Service is a %s", kind)
				}
			}
		}
		if want != (found > 0) {
			data, _ := json.Marshal(domain)
			t.Errorf("domain %s: %d objects of a gateway", data, found)
		}
	}
}

// Of the way in by a proxy there is what was asked for, and the port for it, which no address outside the cluster has.
func TestFrontIsWhatWasAskedFor(t *testing.T) {
	route := ParentRef{Namespace: "gateways", Name: "public"}
	for name, c := range map[string]struct {
		front Front
		want  string
	}{
		"nothing":          {Front{}, "false"},
		"an Ingress":       {Front{IngressClass: "nginx"}, "true Service NetworkPolicy Ingress"},
		"a route":          {Front{Gateway: route}, "true Service NetworkPolicy HTTPRoute"},
		"both":             {Front{IngressClass: "nginx", Gateway: route}, "true Service NetworkPolicy Ingress HTTPRoute"},
		"a certificate":    {Front{Issuer: IssuerRef{"Issuer", "own"}}, "false Certificate"},
		"with annotations": {Front{IngressClass: "nginx", IngressAnnotations: map[string]string{"a": "b"}}, "true Service NetworkPolicy Ingress a=b"},
	} {
		objects, err := Objects(Options{Routers: 1, Domain: "env.test", GatewayType: "LoadBalancer", Front: c.front})
		if err != nil {
			t.Fatal(err)
		}
		proxied, got := "", ""
		for _, o := range objects {
			kind, text := o.GetKind(), fmt.Sprint(o.Object["spec"])
			switch {
			case kind == "Deployment" && o.GetName() == "gateway":
				_, proxied, _ = strings.Cut(text, "name:DAYFLY_PROXIED value:")
				proxied, _, _ = strings.Cut(proxied, "]")
			case kind == "Ingress" || kind == "HTTPRoute" || kind == "Certificate":
				if got += " " + kind; !strings.Contains(text, "*.env.test") || strings.Contains(text, "example.com") {
					t.Errorf("%s: %s is for %s", name, kind, text)
				}
				for k, v := range o.GetAnnotations() {
					got += " " + k + "=" + v
				}
			case o.GetName() == "gateway-front":
				if got += " " + kind; strings.Contains(text, "LoadBalancer") {
					t.Errorf("%s: %s", name, text)
				}
			}
		}
		if proxied+got != c.want {
			t.Errorf("%s: %q, want %q", name, proxied+got, c.want)
		}
	}
}
