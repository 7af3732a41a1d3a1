package router

import (
	"fmt"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// Whatever a slice says, a router connects to pods only: not to itself, and not to the metadata of a cloud.
func TestOriginsAreNeverSpecialAddresses(t *testing.T) {
	t.Parallel()
	s := &discoveryv1.EndpointSlice{}
	s.Namespace, s.Labels = "shop", map[string]string{discoveryv1.LabelServiceName: "web-dayfly-origin"}
	s.Ports = []discoveryv1.EndpointPort{{Name: new("p80"), Port: new(int32(8080))}}
	for _, a := range []string{"10.0.0.1", "fd00::1", "127.0.0.1", "::1", "169.254.169.254", "fe80::1", "fd00:ec2::254", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1", "::ffff:169.254.169.254", "::ffff:127.0.0.1", "nonsense", ""} {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	o := newOrigins(nil, func() {})
	o.rebuild([]any{s, "nonsense"})
	if got := strings.Trim(fmt.Sprint(o.endpoints("shop/web-dayfly-origin:p80")), "[]"); got != "10.0.0.1:8080 [fd00::1]:8080" {
		t.Errorf("endpoints %s", got)
	}
}

// What was behind an origin is known for a while after its slices are gone, but not taken for what is behind it now; an
// origin that is there and has no pods has none.
func TestOriginsThatHaveGone(t *testing.T) {
	t.Parallel()
	slice := func(name string, addresses ...string) any {
		s := &discoveryv1.EndpointSlice{}
		s.Namespace, s.Labels = "shop", map[string]string{discoveryv1.LabelServiceName: name}
		s.Ports = []discoveryv1.EndpointPort{{Name: new("p80"), Port: new(int32(8080))}}
		for _, a := range addresses {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
		}
		return s
	}
	o := newOrigins(nil, func() {})
	o.rebuild([]any{slice("web", "10.0.0.1"), slice("api", "10.0.0.2")})
	o.rebuild([]any{slice("api")})
	for origin, want := range map[string]string{"shop/web:p80": "[] [10.0.0.1:8080]", "shop/api:p80": "[] []", "shop/db:p80": "[] []"} {
		if got := fmt.Sprint(o.endpoints(origin), o.lately(origin)); got != want {
			t.Errorf("%s: now and lately %s, want %s", origin, got, want)
		}
	}
	o.remember(nil, time.Now().Add(3*lingerTime))
	if got := o.lately("shop/web:p80"); len(got) > 0 {
		t.Errorf("still known after its time: %v", got)
	}
}
