// Package protocols tests the router with what others have written: gRPC's own interop tests, h2spec, nghttp2, and servers of
// WebSocket with the cases of Autobahn's test suite. It is a module of its own so that they weigh on nothing else.
package protocols

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"dayfly.dev/dayfly/internal/intercept"
)

// forLaptop is the rule that the tests intercept by.
var forLaptop = intercept.Match{Headers: []intercept.HeaderMatch{{Name: "x-key", Value: "ada"}}}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// route starts a router before the origin, and returns its address. Without a laptop, nothing is intercepted.
func route(t testing.TB, origin, laptop string, match intercept.Match) (string, *intercept.Router) {
	t.Helper()
	ln := listen(t)
	r, err := intercept.New(intercept.Options{
		Listen:    func(int) (net.Listener, error) { return ln, nil },
		Endpoints: func(string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(origin)} },
		DialTunnel: func(ctx context.Context, _ intercept.Route, _ net.Addr) (net.Conn, error) {
			if laptop == "" {
				return nil, errors.New("there is no laptop")
			}
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", laptop)
			if err != nil {
				return nil, err
			}
			return stream{c, c.(*net.TCPConn)}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		r.Close(ctx)
	})
	apply(t, r, match)
	return ln.Addr().String(), r
}

func apply(t testing.TB, r *intercept.Router, match intercept.Match) {
	t.Helper()
	l := intercept.Listener{Port: 1, Service: "shop/cart", ServicePort: 80, Origin: "cart",
		Routes: []intercept.Route{{ID: "r", Session: "ada", Match: match}}}
	if err := r.Apply(context.Background(), intercept.Table{Version: "1", Listeners: []intercept.Listener{l}}); err != nil {
		t.Fatal(err)
	}
}

// stream looks like a stream of a tunnel: no *net.TCPConn, no descriptor.
type stream struct {
	net.Conn
	tcp *net.TCPConn
}

func (s stream) CloseWrite() error { return s.tcp.CloseWrite() }

func (s stream) Reset() error {
	_ = s.tcp.SetLinger(0)
	return s.tcp.Close()
}
