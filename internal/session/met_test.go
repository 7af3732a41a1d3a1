package session

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/intercept"
)

// Callers are kept in the order in which they were seen, each once for each port, and no more than a port remembers: whatever
// the traffic, an alteration is written no oftener on their account.
func TestCallersAreRememberedOnceAndBounded(t *testing.T) {
	t.Parallel()
	a := &v1alpha1.Alteration{}
	a.Spec.Ports = []v1alpha1.CapturedPort{{Port: 80, RouterPort: 20000}, {Port: 81, RouterPort: 20001}}
	see := func(now time.Time, routers ...map[int][]netip.Addr) (added int) {
		o := Observed{Now: now}
		for _, c := range routers {
			o.Routers = append(o.Routers, Router{Met: c})
		}
		d := &decision{Observed: &o}
		before := len(a.Status.Callers)
		a.Status.Callers = d.met(a)
		return len(a.Status.Callers) - before
	}
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	if n := see(noon, map[int][]netip.Addr{20000: {addr(1)}, 29999: {addr(9)}}, map[int][]netip.Addr{20000: {addr(1)}, 20001: {addr(1)}}); n != 2 {
		t.Errorf("one caller of two ports, seen by two routers: %d", n)
	}
	if n := see(noon.Add(time.Hour), map[int][]netip.Addr{20000: {addr(1), addr(2)}}, nil); n != 1 {
		t.Errorf("one more caller: %d", n)
	}
	if c := a.Status.Callers[0]; c.Address != "10.0.0.1" || c.Port != 80 || !c.Since.Time.Equal(noon) {
		t.Errorf("the first caller: %+v", c)
	}
	var crowd []netip.Addr
	for i := range 300 {
		crowd = append(crowd, addr(i+10))
	}
	see(noon, map[int][]netip.Addr{20000: crowd})
	if n := len(a.Status.Callers); n != intercept.MostMet {
		t.Errorf("%d callers are remembered", n)
	}
	if n := see(noon, map[int][]netip.Addr{20001: crowd}); n != 0 {
		t.Errorf("%d more when there were enough: %s", n, fmt.Sprint(a.Status.Callers))
	}
}
