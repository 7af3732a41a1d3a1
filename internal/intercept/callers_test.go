package intercept

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// Whom the table does not name gets nothing through; a caller who is named while it waits is served.
func TestOnlyCallersInTheTableAreServed(t *testing.T) {
	t.Parallel()
	origin := echoing(t)
	door := ""
	var dialled atomic.Int64
	r, err := New(Options{
		Endpoints: func(string) []netip.AddrPort { dialled.Add(1); return []netip.AddrPort{origin} },
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
	apply := func(version string, callers *Callers) {
		t.Helper()
		must(t, r.Apply(t.Context(), Table{Version: version, Listeners: []Listener{{Port: 1, Service: "shop/web", Origin: "o", Callers: callers}}}))
	}
	only := func(prefixes ...string) *Callers {
		c := &Callers{}
		for _, p := range prefixes {
			c.Prefixes = append(c.Prefixes, netip.MustParsePrefix(p))
		}
		return c
	}
	apply("1", only("127.0.0.2/32", "127.0.8.0/24"))
	for _, from := range []string{"127.0.0.2", "127.0.8.77"} {
		if _, err := said(t, from, door); err != nil {
			t.Errorf("%s may call: %v", from, err)
		}
	}
	before, start := dialled.Load(), time.Now()
	if _, err := said(t, "127.0.0.3", door); err == nil {
		t.Error("127.0.0.3 may not call, and is served")
	} else if took := time.Since(start); took < callerPatience || took > callerPatience+3*time.Second {
		t.Errorf("turned away after %s, want %s", took, callerPatience)
	}
	if n := dialled.Load() - before; n > 0 {
		t.Errorf("the origin was looked for %d times on account of a caller who may not call", n)
	}
	if n := r.Status().Listeners[0].Forbidden; n != 1 {
		t.Errorf("%d counted as forbidden, want 1", n)
	}

	served := make(chan error, 1)
	go func() {
		_, err := said(t, "127.0.0.3", door)
		served <- err
	}()
	await(t, "it to wait", func() bool { return r.Status().Listeners[0].Open == 3 })
	apply("2", only("127.0.0.4/32"))
	apply("3", only("127.0.0.2/31"))
	if err := <-served; err != nil {
		t.Errorf("a caller who was named while it waited: %v", err)
	}
	apply("4", &Callers{})
	if _, err := said(t, "127.0.0.2", door); err == nil {
		t.Error("with nobody named somebody is served")
	}
	apply("5", nil)
	if _, err := said(t, "127.0.0.77", door); err != nil {
		t.Errorf("without policies everybody may call: %v", err)
	}
}

func TestTablesWithWrongCallersAreRefused(t *testing.T) {
	t.Parallel()
	for why, c := range map[string]*Callers{
		"no prefix":      {Prefixes: []netip.Prefix{{}}},
		"IPv4 as IPv6":   {Prefixes: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}},
		"more than many": {Prefixes: make([]netip.Prefix, maxCallers+1)},
	} {
		table := Table{Listeners: []Listener{{Port: 1, Callers: c}}}
		if table.validate() == nil {
			t.Errorf("%s: accepted", why)
		}
	}
}

// Datagrams are asked about each flow: what comes from others is dropped, and counted.
func TestDatagramsOfOtherCallersAreDropped(t *testing.T) {
	t.Parallel()
	o := newUDPServer(t, "o")
	u := newUDPRig(t, flowBounds{}, o)
	only := &Callers{Prefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}
	u.udp("1", Listener{Callers: only, Routes: allDatagrams})
	u.client("127.0.0.2").expect("hello", "o")
	heard := o.heard.Load()
	if got := u.client("127.0.0.3").ask("hello", 300*time.Millisecond); got != "" || o.heard.Load() != heard || u.dials.Load() != 1 {
		t.Errorf("a caller who may not call is answered %q; the laptop was looked for %d times", got, u.dials.Load())
	}
	if n := u.status().Forbidden; n != 1 {
		t.Errorf("%d counted as forbidden, want 1", n)
	}
	u.udp("2", Listener{})
	u.client("127.0.0.3").expect("hello", "o")
}
