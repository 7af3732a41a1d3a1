package intercept

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	toLaptop = []Route{{ID: "s/cart:80", Session: "ada", Match: matching}}
	allOfIt  = []Route{{ID: "s/cart:80", Session: "ada", All: true}}
)

// pair is an origin and a laptop behind a router.
type pair struct {
	*rig
	origin, laptop *door
}

func newPair(t testing.TB, hide bool) *pair {
	p := &pair{origin: newDoor(t), laptop: newDoor(t)}
	p.rig = newRig(t, Options{Endpoints: endpoints(p.origin), DialTunnel: tunnelTo(p.laptop, hide)})
	return p
}

func (p *pair) dial() *peer { return dialPeer(p.t, p.addr(1)) }

func (p *pair) atOrigin() *peer { p.t.Helper(); return p.origin.speaker(p.t, "origin") }
func (p *pair) atLaptop() *peer { p.t.Helper(); return p.laptop.speaker(p.t, "laptop") }

// open passes one request and its response.
func (p *pair) open() (c, o *peer) {
	p.t.Helper()
	c = p.dial()
	c.send(get)
	o = p.atOrigin()
	o.expect(get)
	pass(o, c, ok)
	return c, o
}

func TestTableChangesApplyToTheNextRequestOfAnOpenConnection(t *testing.T) {
	t.Parallel()
	p := newPair(t, true)
	p.apply("1", Listener{})
	c, o := p.open()
	p.apply("2", Listener{Routes: toLaptop})
	c.send(get)
	l := p.atLaptop()
	l.expect(get)
	pass(l, c, ok)
	p.apply("3", Listener{})
	pass(c, o, get)
	pass(o, c, ok)
	p.apply("4", Listener{Routes: allOfIt})
	pass(c, l, get)
	pass(l, c, ok)
	want := ListenerStatus{Port: 1, Service: "shop/cart", ServicePort: 80, Open: 1, Accepted: 1, Origin: 2, Matched: 2,
		Routes: []RouteStatus{{ID: "s/cart:80", Requests: 1}}, Met: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	if got := p.status(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("status %+v\nwant %+v", got, want)
	}
}

func TestRuleRoutesComeBeforeAll(t *testing.T) {
	t.Parallel()
	rule, all := newDoor(t), newDoor(t)
	g := newRig(t, Options{Endpoints: endpoints(), DialTunnel: func(ctx context.Context, rt Route, client net.Addr) (net.Conn, error) {
		return tunnelTo(map[bool]net.Listener{true: all, false: rule}[rt.All], true)(ctx, rt, client)
	}})
	g.apply("1", Listener{Routes: []Route{{ID: "all", All: true}, {ID: "rule", Match: matching}}})
	c := dialPeer(t, g.addr(1))
	c.send(get)
	rule.speaker(t, "rule").expect(get)
	c = dialPeer(t, g.addr(1))
	c.send(strings.Replace(get, "shop", "ship", 1))
	all.speaker(t, "all").expect(strings.Replace(get, "shop", "ship", 1))
	c = dialPeer(t, g.addr(1))
	c.send("\x00binary")
	all.speaker(t, "all").expect("\x00binary")
}

func TestProbesNeverMatchARule(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	p.apply("1", Listener{Routes: toLaptop})
	probe := "GET / HTTP/1.1\r\nHost: shop\r\nuser-agent: kube-probe/1.36\r\n\r\n"
	p.dial().send(probe)
	p.atOrigin().expect(probe)
	expectNobody(t, p.laptop.TCPListener)
}

// Each server says who it is; every answer must come from where a table said that was in
// force at some time between request and response.
func TestEveryRequestGoesWhereTheTableInForceSays(t *testing.T) {
	t.Parallel()
	named := func(name string) *net.TCPListener {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %d", name, len(body))
		}))
		t.Cleanup(s.Close)
		return s.Listener.(*net.TCPListener)
	}
	g := newRig(t, Options{Endpoints: endpoints(named("origin")), DialTunnel: tunnelTo(named("laptop"), true)})
	tables := []struct {
		routes []Route
		from   string
	}{{nil, "origin"}, {[]Route{{ID: "r", Match: Match{Baggage: []BaggageMatch{{"dayfly", "k"}}}}}, "laptop"}, {nil, "origin"}, {allOfIt, "laptop"}}
	var begun, applied atomic.Int64
	g.apply("0", Listener{})

	var requests, exact atomic.Int64
	ask := func(cl *http.Client, size int) error {
		q, _ := http.NewRequest("POST", "http://"+g.addr(1)+"/", strings.NewReader(strings.Repeat("x", size)))
		q.Header.Set("Baggage", "a=b, dayfly=k;p")
		before := applied.Load()
		p, err := cl.Do(q)
		if err != nil {
			return err
		}
		defer p.Body.Close()
		b, err := io.ReadAll(p.Body)
		after := begun.Load()
		if err != nil {
			return err
		}
		requests.Add(1)
		if before == after {
			exact.Add(1)
		}
		for v := before; v <= after; v++ {
			if string(b) == fmt.Sprintf("%s %d", tables[v%int64(len(tables))].from, size) {
				return nil
			}
		}
		return fmt.Errorf("between tables %d and %d %q answered", before, after, b)
	}

	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			tr := &http.Transport{DisableKeepAlives: i%4 == 0}
			defer tr.CloseIdleConnections()
			cl := &http.Client{Transport: tr, Timeout: 2 * patience}
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				if err := ask(cl, []int{0, 10, 20_000}[n%3]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for v := int64(1); v <= 200; v++ {
		begun.Store(v)
		g.apply(fmt.Sprint(v), Listener{Routes: tables[v%int64(len(tables))].routes})
		applied.Store(v)
		n := exact.Load()
		await(t, "requests under one table", func() bool { return exact.Load() > n+3 || t.Failed() })
	}
	close(done)
	wg.Wait()
	t.Logf("%d requests, %d of them under one table; %+v", requests.Load(), exact.Load(), g.status())
	if s := g.status(); s.Fallbacks+s.Resets+s.Wired > 0 {
		t.Errorf("fallbacks, resets or wired connections: %+v", s)
	}
}

func TestOriginAnswersAndSaysSoWhenTheLaptopIsOutOfReach(t *testing.T) {
	t.Parallel()
	origin := listen(t)
	g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: func(context.Context, Route, net.Addr) (net.Conn, error) {
		return nil, errors.New("no heartbeat\r\nfor 3 s: ä")
	}})
	g.apply("1", Listener{Routes: toLaptop})
	c := dialPeer(t, g.addr(1))
	c.send(get)
	o := acceptPeer(t, "origin", origin)
	o.expect(get)
	o.send("HTTP/1.1 103 Early Hints\r\n\r\n" + ok)
	c.expect("HTTP/1.1 103 Early Hints\r\n\r\n" + strings.Replace(ok, "\r\n\r\n", "\r\nx-dayfly-fallback: no heartbeat  for 3 s:\r\n\r\n", 1))
	pass(c, o, strings.Replace(get, "shop", "other", 1))
	pass(o, c, ok)

	g.apply("2", Listener{Routes: allOfIt})
	c = dialPeer(t, g.addr(1))
	c.send("\x00binary")
	acceptPeer(t, "origin", origin).expect("\x00binary")
	s := g.status()
	if s.Fallbacks != 2 || s.Routes[0].Fallbacks != 2 || s.Origin != 2 {
		t.Errorf("status %+v", s)
	}
}

func TestARequestThatTheLaptopDroppedIsSentToTheOriginOnlyIfThatIsSafe(t *testing.T) {
	t.Parallel()
	for _, hide := range []bool{false, true} {
		p := newPair(t, hide)
		p.apply("1", Listener{Routes: toLaptop})

		for _, q := range []string{get, "PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nabc"} {
			c := p.dial()
			c.send(q)
			l := p.atLaptop()
			l.expect(q)
			l.reset()
			o := p.atOrigin()
			o.expect(q)
			o.send(ok)
			if r := readResponse(t, c); r.Header.Get("x-dayfly-fallback") == "" || r.StatusCode != 200 {
				t.Errorf("response %v does not say that the origin gave it", r)
			}
		}
		for _, q := range []string{"POST / HTTP/1.1\r\nHost: shop\r\n\r\n", post + "012", "PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nab"} {
			c := p.dial()
			c.send(q)
			l := p.atLaptop()
			l.expect(q)
			_ = l.Close()
			r := readResponse(t, c)
			body, _ := io.ReadAll(r.Body)
			if r.StatusCode != 502 || !r.Close || !strings.Contains(string(body), `"ada"`) {
				t.Errorf("%q: response %v %s", q, r, body)
			}
		}
		c := p.dial()
		c.send(get)
		l := p.atLaptop()
		l.expect(get)
		pass(l, c, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
		l.reset()
		c.expectReset()
		expectNobody(t, p.origin.TCPListener)
		if s := p.status(); s.Fallbacks != 2 {
			t.Errorf("status %+v", s)
		}
	}
}

// A laptop's process that does not accept a connection must not cost the request, so what cannot be sent twice waits for it.
func TestOnlyWhatCanBeSentTwiceIsSentBeforeTheLaptopAccepts(t *testing.T) {
	t.Parallel()
	for _, q := range []struct {
		request, rest string
		early         bool
	}{
		{get, "", true},
		{"PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nabc", "", true},
		{"PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nab", "c", false},
		{post + "0123456789", "", false},
	} {
		for _, refusal := range []error{nil, errors.New("nothing listens there")} {
			origin, laptop := newDoor(t), newDoor(t)
			verdict, asked := make(chan error), make(chan struct{})
			dial := tunnelTo(laptop, true)
			g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: func(ctx context.Context, rt Route, client net.Addr) (net.Conn, error) {
				c, err := dial(ctx, rt, client)
				return pending{c.(stream), asked, verdict}, err
			}})
			g.apply("1", Listener{Routes: toLaptop})
			c := dialPeer(t, g.addr(1))
			c.send(q.request)
			<-asked
			l := acceptPeer(t, "laptop", laptop.TCPListener)
			if q.early {
				l.expect(q.request)
			} else {
				l.expectQuiet()
			}
			verdict <- refusal
			answers := l
			if refusal != nil {
				answers = origin.speaker(t, "origin")
			}
			if refusal != nil || !q.early {
				answers.expect(q.request)
			}
			if q.rest != "" {
				pass(c, answers, q.rest)
			}
			answers.send(ok)
			r := readResponse(t, c)
			why := ""
			if refusal != nil {
				why = refusal.Error()
			}
			if got := r.Header.Get("x-dayfly-fallback"); got != why || r.StatusCode != 200 {
				t.Errorf("%q, laptop says %v: %s, fallback %q", q.request, refusal, r.Status, got)
			}
			if refusal == nil {
				expectNobody(t, origin.TCPListener)
			}
		}
	}
}

// pending is a stream whose laptop takes its time to accept.
type pending struct {
	stream
	asked   chan<- struct{}
	verdict <-chan error
}

func (p pending) Accepted() error {
	p.asked <- struct{}{}
	err := <-p.verdict
	if err != nil {
		_ = p.Reset()
	}
	return err
}

func TestAClientThatGaveUpIsNotReplayed(t *testing.T) {
	t.Parallel()
	p := newPair(t, true)
	p.apply("1", Listener{Routes: toLaptop})
	c := p.dial()
	c.send(get)
	l := p.atLaptop()
	l.expect(get)
	_ = c.Close()
	l.expectEnd()
	_ = l.Close()
	await(t, "the connection to end", func() bool { return p.status().Open == 0 })
	expectNobody(t, p.origin.TCPListener)
}

func TestALaptopThatClosedItsIdleConnectionIsDialledAgain(t *testing.T) {
	t.Parallel()
	for _, hide := range []bool{false, true} {
		origin, laptop := listen(t), listen(t)
		g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(laptop, hide)})
		g.apply("1", Listener{Routes: toLaptop})
		c := dialPeer(t, g.addr(1))
		for range 3 {
			c.send(post + "0123456789")
			l := acceptPeer(t, "laptop", laptop)
			l.expect(post + "0123456789")
			pass(l, c, ok)
			_ = l.Close()
		}
		if s := g.status(); s.Fallbacks > 0 || s.Routes[0].Requests != 3 {
			t.Errorf("status %+v", s)
		}
	}
}

func readResponse(t testing.TB, c *peer) *http.Response {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAnIdleConnectionEndsAsItsOriginDoes(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	p.apply("1", Listener{Routes: []Route{{ID: "r", Match: missing}}})
	c, o := p.open()
	begun := time.Now()
	_ = o.Close()
	c.expectEnd()
	if d := time.Since(begun); d > time.Second {
		t.Errorf("the client learned it after %v", d)
	}
	c, o = p.open()
	o.reset()
	c.expectReset()
}

// The client begins its request before the origin ends the connection, so that the router
// cannot pass on that end.
func TestARequestOnAConnectionThatItsOriginEndedGetsAnother(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	p.apply("1", Listener{})
	c, o := p.open()
	c.send(post[:10])
	_ = o.Close()
	c.send(post[10:] + "0123456789")
	o = p.atOrigin()
	o.expect(post + "0123456789")
	pass(o, c, ok)
}

func TestAServiceWithoutEndpointsResets(t *testing.T) {
	t.Parallel()
	g := newRig(t, Options{Endpoints: endpoints()})
	g.apply("1", Listener{})
	for _, first := range []string{get, "\x00binary", ""} {
		c := dialPeer(t, g.addr(1))
		c.send(first)
		c.expectReset()
	}
}

func TestAnEndpointOutOfReachIsPassedOver(t *testing.T) {
	t.Parallel()
	gone, here := listen(t), listen(t)
	eps := endpoints(gone, gone, here)
	gone.Close()
	g := newRig(t, Options{Endpoints: eps})
	for i, l := range []Listener{{}, {AffinitySeconds: 10800}} {
		g.apply(fmt.Sprint(i), l)
		for range 5 {
			dialPeer(t, g.addr(1)).send(get)
			acceptPeer(t, "origin", here).expect(get)
		}
	}
}

func TestConnectionsAreSpreadOverEndpoints(t *testing.T) {
	t.Parallel()
	lns := []*net.TCPListener{listen(t), listen(t), listen(t)}
	g := newRig(t, Options{Endpoints: endpoints(lns[0], lns[1], lns[2])})
	g.apply("1", Listener{})
	for range 2 * len(lns) {
		dialPeer(t, g.addr(1)).send(get)
	}
	for _, ln := range lns {
		acceptPeer(t, "origin", ln).expect(get)
		acceptPeer(t, "origin", ln).expect(get)
	}
}

func TestAffinityKeepsAClientOnItsEndpoint(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	dialled := map[string][]netip.AddrPort{} // by client
	var client string
	lns := []net.Listener{listen(t), listen(t), listen(t)}
	g := newRig(t, Options{Endpoints: endpoints(lns...), Dial: func(ctx context.Context, ep netip.AddrPort) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		dialled[client] = append(dialled[client], ep)
		return Dial(ctx, ep)
	}})
	g.apply("1", Listener{AffinitySeconds: 60})
	used := map[netip.AddrPort]bool{}
	for i := 2; i < 42; i++ {
		ip := fmt.Sprintf("127.0.0.%d", i)
		mu.Lock()
		client = ip
		mu.Unlock()
		for n := 1; n <= 3; n++ {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
			c, err := d.Dial("tcp", g.addr(1))
			if err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal("this system has one loopback address only: ", err)
				}
				t.Skip("this system has one loopback address only: ", err)
			}
			defer c.Close()
			_, _ = io.WriteString(c, get)
			await(t, "a dial", func() bool { mu.Lock(); defer mu.Unlock(); return len(dialled[ip]) == n })
		}
		if len(slices.Compact(slices.Clone(dialled[ip]))) != 1 {
			t.Errorf("%s went to %v", ip, dialled[ip])
		}
		used[dialled[ip][0]] = true
	}
	if len(used) != len(lns) {
		t.Errorf("40 clients went to %d of %d endpoints", len(used), len(lns))
	}
}

func TestAnEndpointThatGoesMovesOnlyItsOwnClients(t *testing.T) {
	t.Parallel()
	var eps []netip.AddrPort
	for i := range 10 {
		eps = append(eps, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 8080))
	}
	count := map[netip.AddrPort]int{}
	for i := range 1000 {
		client := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		var before, after [originTries]netip.AddrPort
		rendezvous(before[:], eps, client)
		rendezvous(after[:], eps[:9], client)
		count[before[0]]++
		if before[0] != eps[9] && before[0] != after[0] {
			t.Fatalf("%v moved from %v to %v", client, before[0], after[0])
		}
		if before[0] == eps[9] && after[0] != before[1] {
			t.Fatalf("%v moved to %v, not to its second choice %v", client, after[0], before[1])
		}
	}
	for ep, n := range count {
		if n < 60 || n > 150 {
			t.Errorf("%v has %d clients of 1000", ep, n)
		}
	}
}

func TestADrainAsksClientsToReconnectAndResetsWhatIsLeftAtItsDeadline(t *testing.T) {
	t.Parallel()
	p := newPair(t, true)
	p.apply("1", Listener{Routes: toLaptop})
	// One idle, one that answers with keep-alive, one with two requests on their way, one
	// upgraded, one that stays idle.
	closes, o1 := p.openByLaptop()
	keeps, o2 := p.openByLaptop()
	piped, o3 := p.openByLaptop()
	idle, o4 := p.openByLaptop()
	raw := p.dial()
	raw.send("\x00binary")
	p.atOrigin().expect("\x00binary")
	keeps.send(get)
	o2.expect(get)

	until := time.Now().Add(time.Hour)
	p.apply("2", Listener{DrainUntil: &until})

	o2.send("HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 4\r\n\r\nby")
	keeps.expect("HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nby")
	o2.send("es")
	keeps.expect("es")
	keeps.expectEnd()

	// A new request of an open connection goes to the origin now.
	closes.expectQuiet()
	closes.send(get)
	o := p.atOrigin()
	o.expect(get)
	o.send(ok)
	closes.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
	closes.expectEnd()

	piped.send(get + get)
	o = p.atOrigin()
	o.expect(get)
	pass(o, piped, ok)
	o.expect(get)
	o.send(ok)
	piped.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
	piped.expectEnd()

	idle.expectQuiet()
	raw.expectQuiet()
	until = time.Now().Add(2 * sweepEvery)
	p.apply("3", Listener{DrainUntil: &until})
	idle.expectReset()
	raw.expectReset()
	if now := time.Now(); now.Before(until) {
		t.Errorf("reset %v before the deadline", until.Sub(now))
	}
	late := p.dial() // a client that has not heard of the end yet
	late.send(get)
	o = p.atOrigin()
	o.expect(get)
	await(t, "both resets to be counted", func() bool { return p.status().Resets == 2 })
	if !p.status().Draining {
		t.Error("the port is not draining")
	}
	for _, l := range []*peer{o1, o3, o4} {
		_ = l.Close()
	}
}

func (p *pair) openByLaptop() (c, l *peer) {
	p.t.Helper()
	c = p.dial()
	c.send(get)
	l = p.atLaptop()
	l.expect(get)
	pass(l, c, ok)
	return c, l
}

func TestAListenerThatLeavesTheTableResetsItsConnections(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	p.apply("1", Listener{})
	c, o := p.open()
	p.apply("2", Listener{Service: "shop/other", Origin: "other"}) // the port serves another
	c.expectReset()
	o.expectReset()
	if s := p.status(); s.Resets != 1 || s.Accepted != 0 {
		t.Errorf("status %+v", s)
	}
	c, o = p.open()
	if err := p.Apply(t.Context(), Table{Version: "3"}); err != nil {
		t.Fatal(err)
	}
	c.expectReset()
	o.expectReset()
	if c, err := net.Dial("tcp", p.addr(1)); err == nil {
		t.Error("the port is still open")
		c.Close()
	}
	p.apply("4", Listener{})
	p.open()
}

func TestATableThatCannotBeServedLeavesTheFormerInForce(t *testing.T) {
	t.Parallel()
	r, err := New(Options{Endpoints: endpoints(), Listen: func(port int) (net.Listener, error) {
		if port > 100 {
			return nil, errors.New("in use")
		}
		return net.Listen("tcp", "127.0.0.1:0")
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(cancelled())
	if err := r.Apply(t.Context(), Table{Version: "1", Listeners: []Listener{{Port: 1, Service: "a/a"}}}); err != nil {
		t.Fatal(err)
	}
	err = r.Apply(t.Context(), Table{Version: "2", Listeners: []Listener{{Port: 2, Service: "a/b"}, {Port: 101, Service: "a/c"}, {Port: 102, Service: "a/d"}}})
	if err == nil || !strings.Contains(err.Error(), "101 for a/c") || !strings.Contains(err.Error(), "102 for a/d") {
		t.Errorf("error %v does not name the listeners", err)
	}
	if s := r.Status(); s.Version != "1" || len(s.Listeners) != 1 || len(r.allPorts()) != 1 {
		t.Errorf("status %+v", s)
	}
	r.Close(cancelled())
	if err := r.Apply(t.Context(), Table{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestCloseDrainsAndResetsWhatIsLeft(t *testing.T) {
	t.Parallel()
	p := newPair(t, false)
	p.apply("1", Listener{})
	busy, o := p.open()
	idle, _ := p.open()
	busy.send(get)
	o.expect(get)
	ctx, cancel := context.WithCancel(t.Context())
	closed := make(chan struct{})
	go func() { p.Close(ctx); close(closed) }()
	await(t, "closing", p.closing.Load)
	o.send(ok)
	busy.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
	busy.expectEnd()
	_ = busy.Close()
	idle.expectQuiet()
	cancel()
	<-closed
	idle.expectReset()
}

func TestASlowReaderHoldsItsOriginBack(t *testing.T) {
	t.Parallel()
	for _, head := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3b9aca00\r\n"} {
		p := newPair(t, true)
		p.apply("1", Listener{Routes: toLaptop})
		c := p.dial()
		c.send(get)
		l := p.atLaptop()
		l.expect(get)
		pass(l, c, head)
		_ = l.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := io.Copy(struct{ io.Writer }{l}, io.LimitReader(zeros{}, 1e9))
		if err == nil || n > 64<<20 {
			t.Errorf("%d bytes went to a client that reads none", n)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// Not parallel: it looks at all goroutines.
func TestNoGoroutineOutlivesClose(t *testing.T) {
	for _, hide := range []bool{false, true} {
		p := newPair(t, hide)
		p.apply("1", Listener{Routes: toLaptop})
		p.openByLaptop() // idle
		c := p.dial()    // within a body
		c.send(post + "012")
		p.atLaptop().expect(post + "012")
		c = p.dial() // answered, within a body
		c.send(post + "012")
		l := p.atLaptop()
		l.expect(post + "012")
		pass(l, c, ok)
		c = p.dial() // wired
		c.send("\x00")
		p.atOrigin().expect("\x00")
		c = p.dial() // wired, one half ended
		c.send("\x00")
		o := p.atOrigin()
		o.expect("\x00")
		_ = o.CloseWrite()
		c.expectEnd()
		p.dial() // silent
		acceptPeer(t, "origin", p.origin.TCPListener)
		p.dial().send("GET /") // within a head
		await(t, "seven connections", func() bool { return p.status().Open == 6+1 })
		p.Close(cancelled())
		// A goroutine that has said it is done takes a moment to be gone.
		await(t, "the last goroutine to return", func() bool { return ours() == "" })
	}
}

// ours returns the stacks of goroutines that run code of this package, but for this one.
func ours() string {
	buf := make([]byte, 1<<20)
	var found strings.Builder
	for _, s := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] {
		s, _, _ = strings.Cut(s, "\ncreated by ")
		if strings.Contains(s, "internal/intercept.(") {
			found.WriteString(s + "\n\n")
		}
	}
	return found.String()
}
