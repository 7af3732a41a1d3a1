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
