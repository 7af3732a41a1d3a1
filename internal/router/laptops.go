package router

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"

	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/tunnel"
	"github.com/coder/websocket"
)

// How many laptops may be in their handshakes at once, and how many of them from one address.
const maxGreeting, maxGreetingFrom = 512, 128

// serveLaptops answers on the connect port. The outer TLS proves nothing: the API server does not verify it. What a
// laptop is, and may do, is decided inside (see package tunnel).
func (r *Router) serveLaptops(ctx context.Context) error {
	greeting := newCrowd(maxGreeting, maxGreetingFrom)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tunnel", func(w http.ResponseWriter, req *http.Request) {
		if r.isLeaving() { // the Service has yet to follow: the next call reaches this router's successor
			http.Error(w, "this router is leaving", http.StatusServiceUnavailable)
			return
		}
		leave, ok := greeting.enter(req.RemoteAddr)
		if !ok {
			http.Error(w, "too many laptops are connecting", http.StatusServiceUnavailable)
			return
		}
		defer leave()
		defer time.AfterFunc(10*time.Second, leave).Stop() // by then it is greeted or gone
		if err := r.serveLaptop(ctx, w, req); err != nil {
			r.log.Debug("tunnel ended", "reason", err)
		}
	})
	cfg := r.certs.ServerTLS()
	inner := cfg.GetConfigForClient
	cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := inner(h)
		if err == nil {
			c.NextProtos = []string{"http/1.1"} // an upgrade needs it
		}
		return c, err
	}
	return serve(ctx, control.ConnectPort, cfg, mux, r.log)
}

// serveLaptop makes a request one laptop's connection, until that ends.
func (r *Router) serveLaptop(ctx context.Context, w http.ResponseWriter, req *http.Request) error {
	ws, err := websocket.Accept(corked{w}, req, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return err
	}
	ws.SetReadLimit(-1)
	return r.tunnels.Serve(ctx, websocket.NetConn(ctx, ws, websocket.MessageBinary))
}

// corked corks what is written to a connection that is taken over.
type corked struct{ http.ResponseWriter }

func (c corked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(c.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	conn = corkedConn{conn, tunnel.Cork(conn)}
	rw.Writer.Reset(conn)
	return conn, rw, nil
}

type corkedConn struct {
	net.Conn
	cork io.WriteCloser
}

func (c corkedConn) Write(p []byte) (int, error) { return c.cork.Write(p) }
func (c corkedConn) Close() error                { return c.cork.Close() }
