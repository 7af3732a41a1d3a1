package environment

import (
	"slices"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// addresses says where components are reached from outside: each by its first Service with a TCP port.
func (d *decision) addresses() {
	if d.Domain == "" {
		d.st.Addresses = nil
		return
	}
	var out []v1alpha1.Address
	for _, i := range d.st.Inventory {
		live := d.Live[itemKey(i)]
		known := slices.ContainsFunc(out, func(a v1alpha1.Address) bool { return a.Component == i.Component })
		if itemKey(i).group != "" || i.Kind != "Service" || i.Component == "" || known || len(out) == mostAddresses {
			continue
		}
		if live == nil { // just applied, or gone: it has what it had
			at := slices.IndexFunc(d.st.Addresses, func(a v1alpha1.Address) bool { return a.Component == i.Component && a.Service == i.Name })
			if at >= 0 {
				out = append(out, d.st.Addresses[at])
			}
			continue
		}
		if port, protocol, ok := firstPort(live); ok {
			out = append(out, v1alpha1.Address{Component: i.Component, URL: "https://" + hostOf(d.Env, i.Component) + "." + d.Domain, Service: i.Name, Port: port, Protocol: protocol})
		}
	}
	slices.SortFunc(out, func(a, b v1alpha1.Address) int { return strings.Compare(a.Component, b.Component) })
	d.st.Addresses = out
}

// mostAddresses are in the status of one environment.
const mostAddresses = 64

// firstPort is the name of the first TCP port of a Service, and what is spoken there if the Service says that it is HTTP/2.
func firstPort(svc *unstructured.Unstructured) (name, protocol string, ok bool) {
	ports, _, _ := unstructured.NestedSlice(svc.Object, "spec", "ports")
	for _, p := range ports {
		p, _ := p.(map[string]any)
		if transport, _, _ := unstructured.NestedString(p, "protocol"); transport != "" && transport != "TCP" {
			continue
		}
		name, _, _ = unstructured.NestedString(p, "name")
		if app, _, _ := unstructured.NestedString(p, "appProtocol"); app == "kubernetes.io/h2c" || app == "grpc" || app == "h2c" {
			protocol = "h2c"
		}
		return name, protocol, true
	}
	return "", "", false
}
