package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

const (
	recordHandshake = 22 // the first byte of a TLS connection
	sureOfTLS       = 6  // bytes after which what looks like TLS is hardly anything else
)

// passTLS sends a connection that starts with a TLS ClientHello, untouched, to the laptop whose
// rule names the server name in it. Anything else is a wire. With ECH the name is the outer one.
func (c *conn) passTLS() ending {
	hello := &helloReader{conn: c, begun: time.Now()}
	name, err := serverName(hello)
	_ = c.client.SetReadDeadline(time.Time{})
	if hello.err != nil && !isTimeout(hello.err) && !isEnd(hello.err) {
		return endReset
	}
	l := c.config()
	if err != nil || l == nil {
		return c.wire()
	}
	rt := l.chooseTLS(name)
	if rt == nil {
		return c.wire()
	}
	c.countMatch(rt)
	u, err := c.tunnelConn(rt, false)
	if err != nil {
		return c.wireBack(rt, err)
	}
	rt.stats.failing.Store(false)
	if c.origin != nil {
		c.drop(c.origin) // dialled in case the server speaks first
	}
	return c.wireTo(u)
}

// wireBack makes the connection of a route bytes that go to the origin.
func (c *conn) wireBack(rt *route, why error) ending {
	c.noteFallback(rt, why)
	u := c.originConn()
	if u == nil {
		return endReset
	}
	return c.wireTo(u)
}

// startsTLS reports whether the connection may be TLS and there is a rule for that.
func (c *conn) startsTLS() bool {
	l := c.config()
	return l != nil && len(l.sni) > 0 && c.in.len() > 0 && c.in.bytes()[0] == recordHandshake
}

// chooseTLS returns the route of a server name, or nil.
func (l *listener) chooseTLS(name string) *route {
	name = strings.ToLower(name)
	for _, r := range l.sni {
		if holdsSNI(r.Match.SNI, name) {
			return r
		}
	}
	return nil
}

// holdsSNI compares as certificates do: a leading "*." stands for exactly one label.
func holdsSNI(pattern, name string) bool {
	suffix, wild := strings.CutPrefix(pattern, "*.")
	if !wild {
		return name != "" && name == pattern
	}
	label, rest, ok := strings.Cut(name, ".")
	return ok && label != "" && rest == suffix
}

// isServerName reports whether s is a host name in lower case, or "*." and one.
func isServerName(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			if ch := label[i]; !(ch >= 'a' && ch <= 'z' || ch >= '0' && ch <= '9' || ch == '_' || ch == '-') {
				return false
			}
		}
	}
	return len(s) <= 253
}

// helloReader gives what it reads of the client to a parser, and keeps all of it in conn.in.
type helloReader struct {
	conn  *conn
	begun time.Time
	off   int   // of in, up to where the parser has read
	err   error // of reading the client
}

func (h *helloReader) Read(p []byte) (int, error) {
	in := &h.conn.in
	if h.off == in.len() {
		if in.full() {
			return 0, errWire
		}
		patience := headPatience
		if in.len() < sureOfTLS {
			patience = linePatience
		}
		_ = h.conn.client.SetReadDeadline(h.begun.Add(patience))
		if h.err = in.fill(h.conn.client); h.err != nil {
			return 0, h.err
		}
	}
	n := copy(p, in.bytes()[h.off:])
	h.off += n
	return n, nil
}

var errHelloRead = errors.New("the ClientHello has been read")

// serverName lets crypto/tls read the ClientHello that r starts with, and nothing of what would
// come after: so fragments, extensions that nobody knows and every bound are its care. The name
// is "" if there is none in it; an error says that r starts with no ClientHello.
func serverName(r io.Reader) (string, error) {
	name := ""
	server := tls.Server(deafConn{r: r}, &tls.Config{
		MinVersion: tls.VersionTLS10, // the hello is not answered: what it offers is the laptop's to judge
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name = hello.ServerName
			return nil, errHelloRead
		},
	})
	err := server.HandshakeContext(context.Background())
	if errors.Is(err, errHelloRead) {
		return name, nil
	}
	return "", err
}

// deafConn reads from r; what is written, such as an alert, is heard by nobody.
type deafConn struct {
	net.Conn // nil: nothing else is asked of it
	r        io.Reader
}

func (d deafConn) Read(p []byte) (int, error)       { return d.r.Read(p) }
func (d deafConn) Write(p []byte) (int, error)      { return len(p), nil }
func (d deafConn) Close() error                     { return nil }
func (d deafConn) SetWriteDeadline(time.Time) error { return nil }
func (d deafConn) SetReadDeadline(time.Time) error  { return nil }
func (d deafConn) SetDeadline(time.Time) error      { return nil }
