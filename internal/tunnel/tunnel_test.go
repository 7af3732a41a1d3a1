package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dayfly.dev/dayfly/internal/identity"
)

// rig is a router and the key of the one session that it knows, on loopback TCP with real TLS.
type rig struct {
	t        *testing.T
	ca       *identity.CA
	key      *identity.SessionKey
	server   *Server
	listener net.Listener
	accepted atomic.Int64
	events   chan Event
	changed  chan struct{}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigOf(t, newCA(t), newKey(t))
}

func newRigOf(t *testing.T, ca *identity.CA, key *identity.SessionKey) *rig {
	t.Helper()
	r := &rig{t: t, ca: ca, key: key, events: make(chan Event, 1000), changed: make(chan struct{}, 1000)}
	public, err := r.key.Public()
	must(t, err)
	holder := &identity.Holder{}
	holder.Set(credentials(t, r.ca, identity.RoleRouter, "router-0"))
	r.server = NewServer(ServerOptions{
		Name: "router-0", Version: "v1", TLS: holder.TunnelTLS(func(k string) bool { return k == public }),
		HasKey:  func(session, k string) bool { return session == "s" && k == public },
		Allowed: func(session, route string) bool { return route == "web:80" },
		Changed: func() { r.changed <- struct{}{} },
	})
	r.listener, err = net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := r.listener.Accept()
			if err != nil {
				return
			}
			r.accepted.Add(1)
			wg.Go(func() { _ = r.server.Serve(ctx, conn) })
		}
	})
	t.Cleanup(func() { cancel(); r.listener.Close(); wg.Wait() })
	return r
}

// laptop starts a client that answers web:80 by answer, and ends it with the test.
func (r *rig) laptop(key *identity.SessionKey, ca []byte, answer func(context.Context, string) (net.Conn, error)) (stop func()) {
	r.t.Helper()
	cfg, err := key.ClientTLS(ca)
	must(r.t, err)
	client := NewClient(ClientOptions{
		Version: "v1", Session: "s", TLS: cfg, Routers: []string{"router-0"}, Serves: []string{"web:80", "not:80"}, Answer: answer,
		Notify: func(e Event) { r.events <- e }, Drain: time.Second,
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", r.listener.Addr().String())
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); client.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) awaitEvent(what string, is func(Event) bool) Event {
	r.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e := <-r.events:
			if is(e) {
				return e
			}
		case <-deadline:
			r.t.Fatalf("%s: nothing heard", what)
		}
	}
}

func (r *rig) awaitConnected() {
	r.t.Helper()
	r.awaitEvent("connected", func(e Event) bool { return e.Connected && e.Refused == "" })
	for len(r.server.Connected()) == 0 {
		<-r.changed
	}
}

func (r *rig) dial() net.Conn {
	r.t.Helper()
	conn, err := r.server.Dial(r.t.Context(), "s", "web:80", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1})
	must(r.t, err)
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// program is a process of the laptop: it listens on a port, and handle is what it does with each connection.
func program(t *testing.T, handle func(*net.TCPConn)) func(context.Context, string) (net.Conn, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); handle(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return func(ctx context.Context, route string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

func TestALaptopAnswersOnlyItsRoutes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.laptop(r.key, r.ca.CertificatePEM(), program(t, echo))
	r.awaitConnected()
	if got := fmt.Sprint(r.server.Connected()); got != "map[s:[web:80]]" {
		t.Errorf("connected: %s, want the allowed route only", got)
	}
	conn := r.dial()
	_, err := conn.Write([]byte("hello"))
	must(t, err)
	got := make([]byte, 5)
	_, err = io.ReadFull(conn, got)
	must(t, err)
	if string(got) != "hello" {
		t.Errorf("echoed %q", got)
	}
	for _, c := range [][2]string{{"s", "not:80"}, {"other", "web:80"}} {
		if _, err := r.server.Dial(t.Context(), c[0], c[1], conn.RemoteAddr()); !errors.Is(err, ErrNoTunnel) {
			t.Errorf("dialling %v: %v, want ErrNoTunnel", c, err)
		}
	}
}

// Whoever has reach but not the session's key is not let in; a laptop does not talk to who is not the router.
func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		key func(r *rig) *identity.SessionKey
		ca  func(r *rig) []byte
	}{
		"a key of no session":      {func(r *rig) *identity.SessionKey { return newKey(r.t) }, func(r *rig) []byte { return r.ca.CertificatePEM() }},
		"a router of another's CA": {func(r *rig) *identity.SessionKey { return r.key }, func(r *rig) []byte { return newCA(r.t).CertificatePEM() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.laptop(c.key(r), c.ca(r), program(t, echo))
			for range 2 {
				if e := r.awaitEvent("refused", func(Event) bool { return true }); e.Connected || e.Err == nil {
					t.Fatalf("let in: %+v", e)
				}
			}
			if got := r.server.Connected(); len(got) != 0 {
				t.Errorf("connected: %v", got)
			}
		})
	}
}

func TestTheReasonOfARefusalReachesTheRouter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.laptop(r.key, r.ca.CertificatePEM(), func(context.Context, string) (net.Conn, error) { return nil, errors.New("nothing listens there") })
	r.awaitConnected()
	_, err := r.server.Dial(t.Context(), "s", "web:80", r.listener.Addr())
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Reason != "nothing listens there" {
		t.Errorf("error %v, want a RefusedError with the laptop's reason", err)
	}
	if e := r.awaitEvent("told", func(e Event) bool { return e.Refused != "" }); e.Refused != "web:80" || !e.Connected {
		t.Errorf("the laptop was told %+v", e)
	}
}

func TestHalfClosePassesBothWays(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.laptop(r.key, r.ca.CertificatePEM(), program(t, func(c *net.TCPConn) {
		all, _ := io.ReadAll(c) // ends with the caller's half-close
		_, _ = fmt.Fprintf(c, "read %d", len(all))
	}))
	r.awaitConnected()
	conn := r.dial()
	_, err := conn.Write(bytes.Repeat([]byte("x"), 100_000))
	must(t, err)
	must(t, conn.(interface{ CloseWrite() error }).CloseWrite())
	got, err := io.ReadAll(conn) // ends with the program's close
	must(t, err)
	if string(got) != "read 100000" {
		t.Errorf("answer %q", got)
	}
}

// Streams that nobody reads hold up nothing but themselves.
// Whoever watches an idle connection by a read with a deadline can tell that from its end, and use it again.
func TestADeadlineIsNoEnd(t *testing.T) {
	r := newRig(t)
	r.laptop(r.key, r.ca.CertificatePEM(), program(t, echo))
	r.awaitConnected()
	conn := r.dial()
	must(t, conn.SetReadDeadline(time.Now().Add(-time.Second)))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a read beyond its deadline: %v", err)
	}
	must(t, conn.SetReadDeadline(time.Time{}))
	_, err := conn.Write([]byte("x"))
	must(t, err)
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Errorf("after a deadline: %v", err)
	}
}

func TestUnreadStreamsDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var n atomic.Int64
	r.laptop(r.key, r.ca.CertificatePEM(), program(t, func(c *net.TCPConn) {
		if n.Add(1) <= 64 { // pours out what nobody reads
			for {
				if _, err := c.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}
		echo(c)
	}))
	r.awaitConnected()
	for range 64 {
		r.dial()
	}
	conn := r.dial()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	for range 100 {
		_, err := conn.Write([]byte("ping"))
		must(t, err)
		_, err = io.ReadFull(conn, make([]byte, 4))
		must(t, err)
	}
}

// A laptop that leaves, and a router that ends a session, let the open streams end.
func TestLeavingBreaksNoStream(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(r *rig, stop func()){
		"the laptop leaves": func(_ *rig, stop func()) { go stop() },
		"the session is closed": func(r *rig, _ func()) {
			r.server.Keep(func(string) bool { return false }, func(string) time.Duration { return time.Minute }, "closed")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			stop := r.laptop(r.key, r.ca.CertificatePEM(), program(t, echo))
			r.awaitConnected()
			conn := r.dial()
			leave(r, stop)
			for len(r.server.Connected()) > 0 {
				<-r.changed
			}
			_, err := conn.Write([]byte("late"))
			must(t, err)
			_, err = io.ReadFull(conn, make([]byte, 4))
			must(t, err)
		})
	}
}

// A client whose router goes away calls again, and works again.
func TestALostConnectionIsMadeAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.laptop(r.key, r.ca.CertificatePEM(), program(t, echo))
	r.awaitConnected()
	r.server.mu.Lock()
	r.server.conns["s"][0].mux.Close()
	r.server.mu.Unlock()
	if e := r.awaitEvent("lost", func(e Event) bool { return !e.Connected }); e.Err == nil {
		t.Error("lost without a reason")
	}
	r.awaitConnected()
	conn := r.dial()
	_, err := conn.Write([]byte("x"))
	must(t, err)
	if got := r.accepted.Load(); got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
}

// The pauses between attempts grow to lastRetry, so that a cluster that is down is not stormed.
func TestPausesGrow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		client := NewClient(ClientOptions{Routers: []string{"r"}, Dial: func(context.Context, string) (net.Conn, error) {
			at = append(at, time.Since(start))
			return nil, errors.New("down")
		}})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		client.Run(ctx)
		late := at[len(at)-10:]
		for i := 1; i < len(late); i++ {
			if pause := late[i] - late[i-1]; pause < lastRetry || pause > lastRetry*3/2 {
				t.Errorf("a late pause is %s", pause)
			}
		}
		if most := int(2*time.Minute/lastRetry) + 10; len(at) > most {
			t.Errorf("%d attempts, want at most %d", len(at), most)
		}
	})
}

// A peer from which nothing comes is dead after eight seconds, whatever TCP says; one that beats is not.
func TestSilenceIsDeath(t *testing.T) {
	t.Parallel()
	for _, beats := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			mine, theirs := net.Pipe()
			live := newLiveConn(mine)
			var wg sync.WaitGroup
			defer wg.Wait()
			defer mine.Close()
			defer theirs.Close()
			wg.Go(func() { _, _ = io.Copy(io.Discard, theirs) })
			if beats {
				wg.Go(func() {
					for writeBlock(theirs, beat{}) == nil {
						time.Sleep(beatEvery)
					}
				})
			}
			stop := make(chan struct{})
			time.AfterFunc(time.Minute, func() { close(stop) })
			start := time.Now()
			err := keepBeating(live, live, live, stop, nil, func() string { return "enough" }, func() {})
			switch took := time.Since(start); {
			case beats && (err != nil || took != time.Minute):
				t.Errorf("a peer that beats was given up after %s: %v", took, err)
			case !beats && (err == nil || took > deadAfter+2*beatEvery):
				t.Errorf("a silent peer was given up after %s: %v", took, err)
			}
		})
	}
}

func TestAGoodbyeIsToldWithItsReason(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		mine, theirs := net.Pipe()
		defer mine.Close()
		defer theirs.Close()
		go func() { _ = writeBlock(theirs, beat{Bye: "the session is closed"}) }()
		live := newLiveConn(mine)
		err := keepBeating(live, io.Discard, live, nil, nil, nil, func() {})
		if bye, ok := errors.AsType[*GoodbyeError](err); !ok || bye.Reason != "the session is closed" {
			t.Errorf("error %v, want a GoodbyeError", err)
		}
	})
}

// Whatever comes, readBlock neither panics nor takes more than it may, and reads back what writeBlock wrote.
func FuzzReadBlock(f *testing.F) {
	f.Add([]byte{0, 2, '{', '}'})
	f.Add([]byte{0, 0})
	f.Add([]byte{0xff, 0xff, '{'})
	f.Add([]byte("\x00\x1c{\"route\":\"web:80\",\"client\":1}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var o opening
		if err := readBlock(r, &o); err != nil {
			return
		}
		if len(data)-r.Len() > maxLine+2 {
			t.Errorf("%d bytes were taken", len(data)-r.Len())
		}
		var b bytes.Buffer
		if err := writeBlock(&b, o); err != nil {
			return // grew beyond the limit when it was encoded again
		}
		var again opening
		if err := readBlock(&b, &again); err != nil || again != o {
			t.Errorf("read %+v, wrote and read %+v: %v", o, again, err)
		}
	})
}

func TestLargeHeadersAreNotWritten(t *testing.T) {
	t.Parallel()
	if err := writeBlock(io.Discard, strings.Repeat("x", maxLine)); err == nil {
		t.Error("a header beyond the limit was written")
	}
}

func newCA(t *testing.T) *identity.CA {
	t.Helper()
	ca, _, _, err := identity.NewCA()
	must(t, err)
	return ca
}

func newKey(t *testing.T) *identity.SessionKey {
	t.Helper()
	key, err := identity.NewSessionKey()
	must(t, err)
	return key
}

func credentials(t *testing.T, ca *identity.CA, role identity.Role, name string) *identity.Credentials {
	t.Helper()
	key, csr, err := identity.Request()
	must(t, err)
	cert, err := ca.Issue(csr, role, name)
	must(t, err)
	c, err := identity.NewCredentials(key, cert, ca.CertificatePEM())
	must(t, err)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
