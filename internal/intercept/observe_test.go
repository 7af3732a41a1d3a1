package intercept

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Whoever observes hears of each request that matched, who answered it and in whose trace it was, and nothing of others. What
// is forwarded is what the client sent.
func TestObservedRequestsAreForwardedAsTheyCame(t *testing.T) {
	t.Parallel()
	told := make(chan Exchange, 16)
	origin, laptop := newDoor(t), newDoor(t)
	g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(laptop, true), Observe: func(x Exchange) { told <- x }})
	g.apply("1", Listener{Routes: toLaptop})
	c := dialPeer(t, g.addr(1))
	other := strings.Replace(get, "Host: shop", "Host: bank", 1)
	c.send(other)
	o := origin.speaker(t, "origin")
	o.expect(other)
	pass(o, c, ok)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traced := strings.Replace(get, "\r\n\r\n", "\r\nTraceParent: "+parent+"\r\ntracestate: a=b\r\n\r\n", 1)
	twice := strings.Replace(traced, "\r\n\r\n", "\r\ntraceparent: "+parent+"\r\n\r\n", 1)
	c.send(traced)
	l := laptop.speaker(t, "laptop")
	l.expect(traced)
	pass(l, c, ok)
	c.send(twice)
	l.expect(twice)
	pass(l, c, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
	want := Exchange{Route: toLaptop[0], Service: "shop/cart", ServicePort: 80, Laptop: true, Status: 200, TraceParent: parent, TraceState: "a=b"}
	again := want
	again.Status, again.TraceParent = 503, "" // several are none
	for _, x := range []Exchange{want, again} {
		got := <-told
		if diff := cmp.Diff(x, got, cmpopts.IgnoreFields(Exchange{}, "Begin", "End", "Route.Match")); diff != "" {
			t.Errorf("(-want +told):\n%s", diff)
		}
		if got.Begin.IsZero() || got.End.Before(got.Begin) {
			t.Errorf("from %s to %s", got.Begin, got.End)
		}
	}
	if len(told) > 0 {
		t.Errorf("told of %+v", <-told)
	}
}
