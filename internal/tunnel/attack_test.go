package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-yamux/v5"
)

// A tunnel leads from the router to the laptop, to what the session names, and nowhere else: a laptop has a router dial nothing, be
// it the cloud's metadata or a node, and answers no route that is not its own.
func TestALaptopHasARouterDialNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg, err := r.key.ClientTLS(r.ca.CertificatePEM())
	must(t, err)
	raw, err := net.Dial("tcp", r.listener.Addr().String())
	must(t, err)
	defer raw.Close()
	conn := tls.Client(raw, cfg)
	must(t, conn.HandshakeContext(t.Context()))
	mux, err := yamux.Server(conn, muxConfig(maxStreams), nil)
	must(t, err)
	defer mux.Close()
	wished := []string{"169.254.169.254:80", "10.96.0.1:443", "127.0.0.1:9443", "kubernetes:443", "web:80", "WEB:80", "web:80/../other:80"}
	_, err = greet(t.Context(), mux, hello{Version: "v1", Session: "s", Serves: wished})
	must(t, err)
	for len(r.server.Connected()) == 0 {
		<-r.changed
	}
	if got := r.server.Connected()["s"]; !slices.Equal(got, []string{"web:80"}) {
		t.Errorf("the laptop answers %v, its session names web:80", got)
	}
	for _, route := range wished {
		if route == "web:80" {
			continue
		}
		if c, err := r.server.Dial(t.Context(), "s", route, &net.TCPAddr{}); !errors.Is(err, ErrNoTunnel) {
			t.Errorf("route %s: %v, %v", route, c, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, target := range wished {
		s, err := mux.OpenStream(ctx)
		if err != nil {
			continue // refused at once
		}
		_ = s.SetDeadline(time.Now().Add(2 * time.Second))
		_ = writeBlock(s, opening{Route: target, Client: target})
		_, _ = s.Write([]byte("GET /latest/meta-data/ HTTP/1.1\r\nHost: metadata\r\n\r\n"))
		if b, _ := io.ReadAll(io.LimitReader(s, 100)); len(b) > 0 {
			t.Errorf("a stream that the laptop opened for %s was answered: %q", target, b)
		}
	}
}
