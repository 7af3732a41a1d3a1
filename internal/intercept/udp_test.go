package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var allDatagrams = []Route{{ID: "s/dns:53/udp", Session: "ada", All: true, Datagrams: true}}

// udpServer answers every datagram with its name, a colon and the datagram.
type udpServer struct {
	*net.UDPConn
	name  string
	heard atomic.Int64
}

func listenOn(t testing.TB, addr string) *net.UDPConn {
	t.Helper()
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUDP("udp", a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newUDPServer(t testing.TB, name string) *udpServer {
	s := &udpServer{UDPConn: listenOn(t, "127.0.0.1:0"), name: name}
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := s.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			s.heard.Add(1)
			_, _ = s.WriteToUDPAddrPort(append([]byte(s.name+":"), buf[:n]...), from)
		}
	}()
	return s
}

func (s *udpServer) addr() netip.AddrPort { return s.LocalAddr().(*net.UDPAddr).AddrPort() }

// udpRig is a router with one UDP port.
type udpRig struct {
	*rig
	origins atomic.Pointer[[]netip.AddrPort]
	laptop  atomic.Pointer[udpServer] // nil: away
	dials   atomic.Int64
	front   atomic.Pointer[net.UDPConn]
}

func newUDPRig(t testing.TB, bounds flowBounds, origins ...*udpServer) *udpRig {
	u := &udpRig{}
	u.setOrigins(origins...)
	u.rig = newRig(t, Options{
		Endpoints: func(string) []netip.AddrPort { return *u.origins.Load() },
		ListenUDP: func(int) (*net.UDPConn, error) {
			c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4zero})
			u.front.Store(c)
			return c, err
		},
		DialTunnel: func(ctx context.Context, rt Route, client net.Addr) (net.Conn, error) {
			u.dials.Add(1)
			l := u.laptop.Load()
			if l == nil {
				return nil, errors.New("no laptop")
			}
			return net.Dial("udp", l.addr().String())
		},
		flowBounds: bounds,
	})
	return u
}

func (u *udpRig) setOrigins(origins ...*udpServer) {
	var eps []netip.AddrPort
	for _, o := range origins {
		eps = append(eps, o.addr())
	}
	u.origins.Store(&eps)
}

func (u *udpRig) udp(version string, l Listener) {
	u.t.Helper()
	l.UDP, l.Service, l.ServicePort, l.Origin = true, "shop/dns", 53, "shop/dns:p53-udp"
	u.apply(version, l)
}

func (u *udpRig) port() int { return u.front.Load().LocalAddr().(*net.UDPAddr).Port }

// client is a socket of its own on a loopback address.
func (u *udpRig) client(from string) *udpClient {
	u.t.Helper()
	c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: u.port()})
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { c.Close() })
	return &udpClient{u.t, c}
}

type udpClient struct {
	t testing.TB
	*net.UDPConn
}

// ask sends one datagram and returns the answer, "" if there is none.
func (c *udpClient) ask(text string, most time.Duration) string {
	c.t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		return ""
	}
	_ = c.SetReadDeadline(time.Now().Add(most))
	buf := make([]byte, maxDatagram)
	n, err := c.Read(buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func (c *udpClient) expect(text, from string) {
	c.t.Helper()
	if got := c.ask(text, patience); got != from+":"+text {
		c.t.Fatalf("asked %.20q: got %.40q, want it from %s", text, got, from)
	}
}

func TestDatagramsOfOneClientStayTogether(t *testing.T) {
	t.Parallel()
	a, b := newUDPServer(t, "a"), newUDPServer(t, "b")
	u := newUDPRig(t, flowBounds{}, a, b)
	u.udp("1", Listener{})
	seen := map[string]bool{}
	for range 4 {
		c := u.client("127.0.0.1")
		who := c.ask("who", patience)
		seen[who] = true
		for range 5 {
			if again := c.ask("who", patience); again != who {
				t.Fatalf("first answered %q, then %q", who, again)
			}
		}
	}
	if len(seen) != 2 {
		t.Errorf("four clients were all answered by %v", seen)
	}
	s := u.status()
	if s.Open != 4 || s.Accepted != 4 || s.Dropped != 0 || !s.UDP {
		t.Errorf("status %+v", s)
	}
}

// Affinity by the client's address, as the Service has it, holds for all sockets of that client.
func TestDatagramsHaveAffinity(t *testing.T) {
	t.Parallel()
	u := newUDPRig(t, flowBounds{}, newUDPServer(t, "a"), newUDPServer(t, "b"), newUDPServer(t, "c"))
	u.udp("1", Listener{AffinitySeconds: 10800})
	for _, from := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
		who := u.client(from).ask("who", patience)
		for range 5 {
			if again := u.client(from).ask("who", patience); again != who || who == "" {
				t.Errorf("%s: first answered %q, then %q", from, who, again)
			}
		}
	}
}

func TestDatagramsKeepTheirBounds(t *testing.T) {
	t.Parallel()
	u := newUDPRig(t, flowBounds{}, newUDPServer(t, "o"))
	u.udp("1", Listener{})
	c := u.client("127.0.0.1")
	for _, size := range []int{0, 1, 1500, 9000, 65505} {
		c.expect(strings.Repeat("x", size), "o")
	}
}

// The table in force decides for the next datagram, also of a socket that is in use; the laptop's loss sends it back.
func TestFlowsMoveAtOnce(t *testing.T) {
	t.Parallel()
	origin, laptop := newUDPServer(t, "origin"), newUDPServer(t, "laptop")
	u := newUDPRig(t, flowBounds{}, origin)
	u.udp("1", Listener{})
	c := u.client("127.0.0.1")
	c.expect("1", "origin")
	u.laptop.Store(laptop)
	u.udp("2", Listener{Routes: allDatagrams})
	c.expect("2", "laptop")
	u.udp("3", Listener{})
	c.expect("3", "origin")
	u.udp("4", Listener{Routes: allDatagrams})
	c.expect("4", "laptop")
	u.laptop.Store(nil)
	laptop.Close()
	await(t, "the origin answers", func() bool { return c.ask("5", 100*time.Millisecond) == "origin:5" })
	s := u.status()
	if s.Fallbacks == 0 || s.Routes[0].Fallbacks == 0 {
		t.Errorf("no fallback was counted: %+v", s)
	}
	late := newUDPServer(t, "laptop")
	u.laptop.Store(late)
	await(t, "the laptop answers again", func() bool { return c.ask("6", 100*time.Millisecond) == "laptop:6" })
}

func TestWithoutALaptopTheOriginAnswersEveryDatagram(t *testing.T) {
	t.Parallel()
	u := newUDPRig(t, flowBounds{}, newUDPServer(t, "origin"))
	u.udp("1", Listener{Routes: allDatagrams})
	for i := range 20 {
		u.client("127.0.0.1").expect(fmt.Sprint(i), "origin")
	}
}

// What was asked before a flow moved is still answered by who was asked.
func TestLateAnswersOfAFormerUpstreamArrive(t *testing.T) {
	t.Parallel()
	slow := listenOn(t, "127.0.0.1:0")
	u := newUDPRig(t, flowBounds{}, newUDPServer(t, "origin"))
	u.laptop.Store(&udpServer{UDPConn: slow})
	u.udp("1", Listener{Routes: allDatagrams})
	c := u.client("127.0.0.1")
	if _, err := c.Write([]byte("slow")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	_ = slow.SetReadDeadline(time.Now().Add(patience))
	_, from, err := slow.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	u.udp("2", Listener{})
	c.expect("fast", "origin")
	if _, err := slow.WriteToUDPAddrPort([]byte("late"), from); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "late" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

// A pod that is gone, or that has closed its port, is left for another.
func TestFlowLeavesAnEndpointThatIsGone(t *testing.T) {
	t.Parallel()
	a, b := newUDPServer(t, "a"), newUDPServer(t, "b")
	u := newUDPRig(t, flowBounds{}, a)
	u.udp("1", Listener{})
	c := u.client("127.0.0.1")
	c.expect("1", "a")
	u.setOrigins(b)
	await(t, "the other endpoint answers", func() bool { return c.ask("2", 100*time.Millisecond) == "b:2" })
	u.setOrigins(a, b)
	a.Close()
	d := u.client("127.0.0.1")
	for range 3 { // whichever of the two comes first
		await(t, "the one that listens answers", func() bool { return d.ask("3", 100*time.Millisecond) == "b:3" })
	}
	u.setOrigins()
	e := u.client("127.0.0.1")
	if got := e.ask("4", 50*time.Millisecond); got != "" {
		t.Errorf("no endpoint, and %q answered", got)
	}
	u.setOrigins(b)
	e.expect("5", "b")
}

func TestOneClientCannotTakeTheFlowsOfOthers(t *testing.T) {
	t.Parallel()
	u := newUDPRig(t, flowBounds{flows: 20, perClient: 5, queue: 4, queued: 1 << 20}, newUDPServer(t, "o"))
	u.udp("1", Listener{})
	steady := u.client("127.0.0.2")
	steady.expect("first", "o")
	for i := range 50 {
		u.client("127.0.0.3").expect(fmt.Sprint(i), "o")
	}
	s := u.status()
	if s.Open != 6 || s.Accepted != 51 {
		t.Errorf("%d flows of %d are open, want 6 of 51", s.Open, s.Accepted)
	}
	steady.expect("second", "o")
	if now := u.status(); now.Accepted != 51 {
		t.Error("the flow of a client that has one was taken for another's")
	}
	for i := range 60 { // many addresses: the port's own bound; who is in use stays
		u.client(fmt.Sprintf("127.0.1.%d", i+1)).expect("x", "o")
		steady.expect("y", "o")
	}
	if s := u.status(); s.Open != 20 || s.Accepted != 111 {
		t.Errorf("%d flows of %d are open, want 20 of 111", s.Open, s.Accepted)
	}
}

// A laptop that does not take datagrams costs its own flows some, and nobody else anything.
func TestStalledLaptopStallsNobodyElse(t *testing.T) {
	t.Parallel()
	stalled, other := net.Pipe() // nobody reads from other
	t.Cleanup(func() { stalled.Close(); other.Close() })
	origin := newUDPServer(t, "origin")
	u := newUDPRig(t, flowBounds{flows: 10, perClient: 10, queue: 4, queued: 100_000}, origin)
	var first sync.Once
	u.opts.DialTunnel = func(context.Context, Route, net.Addr) (c net.Conn, err error) {
		err = errors.New("no laptop")
		first.Do(func() { c, err = stalled, nil })
		return c, err
	}
	u.udp("1", Listener{Routes: allDatagrams})
	slow := u.client("127.0.0.2")
	for range 20 {
		if _, err := slow.Write(make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "what does not fit is dropped", func() bool { return u.status().Dropped > 0 })
	u.client("127.0.0.3").expect("hello", "origin")
	if q := u.Router.port(-1).flows.queued.Load(); q > 100_000 {
		t.Errorf("%d bytes wait", q)
	}
	await(t, "the stalled flow goes to the origin", func() bool { return slow.ask("again", 100*time.Millisecond) == "origin:again" })
}

// Ending a flow gives everything back: its place, its socket, what waits in its queue.
func TestSilentFlowsEnd(t *testing.T) {
	t.Parallel()
	u := newUDPRig(t, flowBounds{}, newUDPServer(t, "o"))
	u.laptop.Store(newUDPServer(t, "laptop"))
	u.udp("1", Listener{Routes: allDatagrams})
	c := u.client("127.0.0.1")
	c.expect("1", "laptop")
	fl := u.Router.port(-1).flows
	l, now := fl.listener(), time.Now()
	one := &flow{up: &target{route: l.all}} // as c's is
	one.answered.Store(true)
	one.touch(now)
	for _, c := range []struct {
		why  string
		age  time.Duration
		idle time.Duration
		l    *listener
		want bool
	}{
		{"young", time.Second, 29 * time.Second, l, false},
		{"young and silent", time.Second, 31 * time.Second, l, true},
		{"settled", time.Minute, 119 * time.Second, l, false},
		{"settled and silent", time.Minute, 121 * time.Second, l, true},
		{"its port is gone", time.Minute, 2 * time.Second, nil, true},
		{"its port drains", time.Minute, 2 * time.Second, &listener{Listener: Listener{DrainUntil: &now}}, true},
		{"it belongs elsewhere", time.Minute, 2 * time.Second, &listener{}, true},
		{"it belongs elsewhere, and is in use", time.Minute, time.Second / 2, &listener{}, false},
	} {
		one.since = now.Add(c.idle - c.age)
		if got := one.over(c.l, false, now.Add(c.idle)); got != c.want {
			t.Errorf("%s: %v", c.why, got)
		}
	}
	u.udp("2", Listener{}) // it belongs elsewhere now, and its client says no more
	await(t, "the flow ends", func() bool { return u.status().Open == 0 })
	if q := fl.queued.Load(); q != 0 {
		t.Errorf("%d bytes wait for nobody", q)
	}
	c.expect("2", "o") // as if nothing had been
}

func TestDrainingPortServesUntilItLeavesTheTable(t *testing.T) {
	t.Parallel()
	u := newUDPRig(t, flowBounds{}, newUDPServer(t, "o"))
	u.udp("1", Listener{})
	c := u.client("127.0.0.1")
	c.expect("1", "o")
	past := time.Now().Add(-time.Second)
	u.udp("2", Listener{DrainUntil: &past})
	c.expect("2", "o")
	await(t, "silence", func() bool { return u.status().Open == 0 })
	u.client("127.0.0.1").expect("3", "o")
	if err := u.Apply(context.Background(), Table{Version: "3"}); err != nil {
		t.Fatal(err)
	}
	if got := c.ask("4", 50*time.Millisecond); got != "" {
		t.Errorf("a port that is gone answered %q", got)
	}
}

func TestPortNumberOfBothProtocolsIsTwoPorts(t *testing.T) {
	t.Parallel()
	u := newUDPRig(t, flowBounds{}, newUDPServer(t, "o"))
	u.apply("1", Listener{})
	dialPeer(t, u.addr(1)) // is let in
	u.udp("2", Listener{})
	u.client("127.0.0.1").expect("1", "o")
	u.apply("3", Listener{})
	if s := u.status(); s.UDP || s.Open != 0 {
		t.Errorf("status %+v", s)
	}
	for _, l := range []Listener{
		{Port: 1, Service: "a/b", UDP: true, Routes: []Route{{ID: "r", Match: matching, Datagrams: true}}},
		{Port: 1, Service: "a/b", UDP: true, Routes: []Route{{ID: "r", All: true}}},
		{Port: 1, Service: "a/b", Routes: allDatagrams},
	} {
		if u.Apply(context.Background(), Table{Version: "4", Listeners: []Listener{l}}) == nil {
			t.Errorf("%+v was taken", l)
		}
	}
}

func TestClosingARouterLetsDatagramsGoOnUntilTheyStop(t *testing.T) {
	t.Parallel()
	u := newUDPRig(t, flowBounds{}, newUDPServer(t, "o"))
	u.udp("1", Listener{})
	c := u.client("127.0.0.1")
	c.expect("1", "o")
	closed := make(chan struct{})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() { defer close(closed); u.Close(ctx) }()
	for range 20 {
		c.expect("2", "o")
	}
	select {
	case <-closed:
	case <-ctx.Done():
		t.Fatal("it did not end although nobody says anything")
	}
}
