package intercept

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// An endpoint that did not answer is tried last for a while; then one client tries it again, and no other meanwhile.
func TestASilentEndpointIsTriedLast(t *testing.T) {
	var s silentEndpoints
	a, b := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:80")
	order := func(now time.Time, eps ...netip.AddrPort) []netip.AddrPort {
		s.last(eps, now)
		return eps
	}
	now := time.Now()
	if got := order(now, a, b); !slices.Equal(got, []netip.AddrPort{a, b}) {
		t.Errorf("with nothing known: %v", got)
	}
	s.add(a, now)
	if got := order(now.Add(time.Second), a, b); !slices.Equal(got, []netip.AddrPort{b, a}) {
		t.Errorf("a silent endpoint comes first: %v", got)
	}
	if got := order(now.Add(time.Second), a); !slices.Equal(got, []netip.AddrPort{a}) {
		t.Errorf("the only endpoint is not tried: %v", got)
	}
	later := now.Add(silentTime + time.Second)
	if got := order(later, a, b); got[0] != a {
		t.Errorf("it is never tried again: %v", got)
	}
	if got := order(later, a, b); got[0] != b {
		t.Errorf("a second client tries it at the same time: %v", got)
	}
	order(later.Add(10*silentTime), b, a)
	if len(s.until) > 0 || s.some.Load() {
		t.Errorf("remembered for ever: %v", s.until)
	}
}
