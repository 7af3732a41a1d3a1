package intercept

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// A port remembers who called it, once each and no more than it must, and forgets them with its capture.
func TestCallersAreRememberedAsLongAsTheCapture(t *testing.T) {
	origin := echoing(t)
	door := ""
	r, err := New(Options{
		Endpoints: func(string) []netip.AddrPort { return []netip.AddrPort{origin} },
		Listen: func(int) (net.Listener, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				door = l.Addr().String()
			}
			return l, err
		},
	})
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r.Close(ctx)
	})
	table := func(version, service string) Table {
		return Table{Version: version, Listeners: []Listener{{Port: 1, Service: service, Origin: "o"}}}
	}
	must(t, r.Apply(t.Context(), table("1", "shop/web")))
	call := func(from string) {
		if _, err := said(t, from, door); err != nil {
			t.Fatal(err)
		}
	}
	call("127.0.2.1")
	call("127.0.2.1")
	if got := r.Status().Listeners[0].Met; len(got) != 1 || got[0] != netip.MustParseAddr("127.0.2.1") {
		t.Errorf("one caller, twice: %v", got)
	}
	for i := range MostMet + 10 {
		call(fmt.Sprintf("127.0.2.%d", i+1))
	}
	if got := r.Status().Listeners[0].Met; len(got) != MostMet {
		t.Errorf("%d callers are remembered, want %d", len(got), MostMet)
	}
	must(t, r.Apply(t.Context(), table("2", "shop/other")))
	if got := r.Status().Listeners[0].Met; len(got) != 0 {
		t.Errorf("another capture has the callers of the one before: %v", got)
	}
}
