package intercept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen; it is spent only in failing.
const patience = 10 * time.Second

// rig is a router on loopback whose ports are wherever the kernel puts them.
type rig struct {
	*Router
	t testing.TB

	mu    sync.Mutex
	addrs map[int]string
}

func newRig(t testing.TB, opts Options) *rig {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("routers run on Linux, and only there see all that these tests ask for")
	}
	g := &rig{t: t, addrs: make(map[int]string)}
	opts.Listen = func(port int) (net.Listener, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.addrs[port] = ln.Addr().String()
		return ln, nil
	}
	r, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	g.Router = r
	t.Cleanup(func() { r.Close(cancelled()) })
	return g
}

func (g *rig) addr(port int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.addrs[port]
}

// apply puts one listener, on port 1, in force.
func (g *rig) apply(version string, l Listener) {
	g.t.Helper()
	l.Port = 1
	if l.Service == "" {
		l.Service, l.ServicePort, l.Origin = "shop/cart", 80, "shop/cart:80"
	}
	if err := g.Apply(context.Background(), Table{Version: version, Listeners: []Listener{l}}); err != nil {
		g.t.Fatal(err)
	}
}

func (g *rig) status() ListenerStatus { return g.Status().Listeners[0] }

// await waits for a condition that has no event to wait for, such as a counter.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for: %s", patience, what)
		}
	}
}

func cancelled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func endpoints(lns ...net.Listener) func(string) []netip.AddrPort {
	var eps []netip.AddrPort
	for _, ln := range lns {
		eps = append(eps, ln.Addr().(*net.TCPAddr).AddrPort())
	}
	return func(string) []netip.AddrPort { return eps }
}

// tunnelTo makes each stream a TCP connection to ln, or one that hides that it is.
func tunnelTo(ln net.Listener, hide bool) func(context.Context, Route, net.Addr) (net.Conn, error) {
	return func(context.Context, Route, net.Addr) (net.Conn, error) {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil || !hide {
			return c, err
		}
		return stream{c, c.(*net.TCPConn)}, nil
	}
}

// stream looks like a stream of a multiplexer: no *net.TCPConn, no descriptor.
type stream struct {
	net.Conn
	tcp *net.TCPConn
}

func (s stream) CloseWrite() error { return s.tcp.CloseWrite() }

func (s stream) Accepted() error { return nil }

func (s stream) Quiet() bool { return sockOf(s.tcp).peek() == quiet }

func (s stream) Reset() error {
	_ = s.tcp.SetLinger(0)
	return s.tcp.Close()
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.(*net.TCPListener)
}

// peer is one end of a connection in a script. What it reads is its transcript.
type peer struct {
	t    testing.TB
	name string
	*net.TCPConn
	log strings.Builder
}

func newPeer(t testing.TB, name string, c net.Conn) *peer {
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return &peer{t: t, name: name, TCPConn: c.(*net.TCPConn)}
}

func dialPeer(t testing.TB, addr string) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return newPeer(t, "client", c)
}

func acceptPeer(t testing.TB, name string, ln *net.TCPListener) *peer {
	t.Helper()
	_ = ln.SetDeadline(time.Now().Add(patience))
	c, err := ln.Accept()
	if err != nil {
		t.Fatalf("%s: nobody connected: %v", name, err)
	}
	return newPeer(t, name, c)
}

// door is a listener that keeps those who connected and have said nothing yet. A router
// that waited for a slow client has opened such a connection, in case it is the server's turn.
type door struct {
	*net.TCPListener
	silent []net.Conn
}

func newDoor(t testing.TB) *door {
	d := &door{TCPListener: listen(t)}
	t.Cleanup(func() {
		for _, c := range d.silent {
			c.Close()
		}
	})
	return d
}

// speaker waits for a connection that has something to say.
func (d *door) speaker(t testing.TB, name string) *peer {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		_ = d.SetDeadline(time.Now().Add(time.Millisecond))
		if c, err := d.Accept(); err == nil {
			d.silent = append(d.silent, c)
		}
		for i, c := range d.silent {
			if sockOf(c).peek() == hasData {
				d.silent = slices.Delete(d.silent, i, i+1)
				return newPeer(t, name, c)
			}
		}
	}
	t.Fatalf("%s: nobody spoke", name)
	return nil
}

// expectNobody fails the test if somebody has said something to ln.
func expectNobody(t testing.TB, ln *net.TCPListener) {
	t.Helper()
	for {
		_ = ln.SetDeadline(time.Now().Add(time.Millisecond))
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if sockOf(c).peek() == hasData {
			t.Errorf("%v spoke", c.RemoteAddr())
		}
	}
}

func (p *peer) send(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p, s); err != nil {
		p.t.Fatalf("%s: sending %.40q: %v", p.name, s, err)
	}
}

// expect reads exactly want.
func (p *peer) expect(want string) {
	p.t.Helper()
	b := make([]byte, len(want))
	_ = p.SetReadDeadline(time.Now().Add(patience))
	n, err := io.ReadFull(p, b)
	p.log.Write(b[:n])
	if err != nil || string(b) != want {
		p.t.Fatalf("%s: read %.300q, %v\nwant %.300q", p.name, b[:n], err, want)
	}
}

// rest reads to the end, and says how it ended.
func (p *peer) rest() (string, string) {
	_ = p.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(p)
	how := "end"
	if errors.Is(err, syscall.ECONNRESET) {
		how = "reset"
	} else if err != nil {
		how = err.Error()
	}
	fmt.Fprintf(&p.log, "%s[%s]", b, how)
	return string(b), how
}

func (p *peer) expectEnd() {
	p.t.Helper()
	if s, how := p.rest(); s != "" || how != "end" {
		p.t.Fatalf("%s: read %.300q and %s, want the end", p.name, s, how)
	}
}

func (p *peer) expectReset() {
	p.t.Helper()
	if s, how := p.rest(); s != "" || how != "reset" {
		p.t.Fatalf("%s: read %.300q and %s, want a reset", p.name, s, how)
	}
}

func (p *peer) reset() {
	_ = p.SetLinger(0)
	_ = p.Close()
}

// expectQuiet fails if p has something to read, or has ended.
func (p *peer) expectQuiet() {
	p.t.Helper()
	if seen := sockOf(p.TCPConn).peek(); seen != quiet {
		p.t.Fatalf("%s: has something to read or has ended (%d)", p.name, seen)
	}
}
