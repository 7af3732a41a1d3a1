package cluster

import (
	"net/netip"
	"testing"
)

func TestFreeLink(t *testing.T) {
	prefixes := func(texts ...string) (found []netip.Prefix) {
		for _, text := range texts {
			found = append(found, netip.MustParsePrefix(text))
		}
		return found
	}
	previous := netip.MustParsePrefix("100.64.0.8/30")
	for _, c := range []struct {
		why      string
		previous netip.Prefix
		taken    []netip.Prefix
		within   string // empty: none is free
	}{
		{"an unused pool", netip.Prefix{}, nil, "100.64.0.0/10"},
		{"the previous one, if it is free", previous, prefixes("10.0.0.0/8"), "100.64.0.8/30"},
		{"not the previous one if an address lies in it", previous, prefixes("100.64.0.9/32"), "100.64.0.0/10"},
		{"the other pool if a route covers the first", previous, prefixes("100.64.0.0/10"), "198.18.0.0/15"},
		{"nothing if routes cover both", previous, prefixes("100.0.0.0/8", "198.18.0.0/15"), ""},
	} {
		t.Run(c.why, func(t *testing.T) {
			got, ok := freeLink(c.previous, "0123abcd", c.taken)
			if !ok {
				if c.within != "" {
					t.Fatal("none is free")
				}
				return
			}
			if c.within == "" || !netip.MustParsePrefix(c.within).Contains(got.Addr()) || got.Bits() != 30 || got != got.Masked() {
				t.Errorf("got %s, want one in %q", got, c.within)
			}
			for _, taken := range c.taken {
				if taken.Overlaps(got) {
					t.Errorf("%s overlaps %s", got, taken)
				}
			}
		})
	}
}

// TestConfigs renders the configuration of each machine, so that a template that does not fit is noticed early.
func TestConfigs(t *testing.T) {
	c := &Cluster{Dir: t.TempDir(), ID: "01234567", Shape: Shape{Nodes: 2, ProxyMode: "nftables"},
		Link: netip.MustParsePrefix("100.64.0.0/30"), Programs: map[string]string{"kubernetes": "/k", "etcd": "/e"}}
	a, err := c.openAuthorities()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := c.prepareControl(a)
	if err != nil {
		t.Fatal(err)
	}
	if spec.Binds["/opt/bin/etcd"] != "/e" || spec.Binds["/opt/bin/kube-apiserver"] != "/k" {
		t.Errorf("binds: %v", spec.Binds)
	}
	if spec, err = c.prepareNode(2, a); err != nil {
		t.Fatal(err)
	}
	if spec.Name != "node-2" || spec.Cgroups[0] != "/dayfly-01234567/node-2" {
		t.Errorf("spec: %+v", spec)
	}
}
