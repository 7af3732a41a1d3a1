package intercept

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
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

// Streams of HTTP/2 are told of one by one, as requests are.
func TestObservedStreams(t *testing.T) {
	t.Parallel()
	told := make(chan Exchange, 16)
	var down atomic.Bool
	dial := tunnelTo(h2Server(t, "laptop"), true)
	g := newRig(t, Options{Endpoints: endpoints(h2Server(t, "origin")), Observe: func(x Exchange) { told <- x },
		DialTunnel: func(ctx context.Context, r Route, a net.Addr) (net.Conn, error) {
			if down.Load() {
				return nil, errors.New("no laptop is connected")
			}
			return dial(ctx, r, a)
		}})
	g.apply("1", Listener{Routes: []Route{forLaptop}})
	client := func() *http.Client { return h2Client(t, g.addr(1)) }
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	send := func(c *http.Client, path, key string) {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "http://cart"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Traceparent", parent)
		req.Header.Set("X-Key", key)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text(t, res)
	}
	c := client()
	send(c, "/", "bob")
	send(c, "/", "ada")
	send(c, "/hints", "ada")
	down.Store(true)
	send(client(), "/", "ada")
	want := Exchange{Route: forLaptop, Service: "shop/cart", ServicePort: 80, Laptop: true, Status: 200, TraceParent: parent}
	hints, fallback := want, want
	hints.Status, fallback.Laptop = 204, false
	for _, x := range []Exchange{want, hints, fallback} {
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
