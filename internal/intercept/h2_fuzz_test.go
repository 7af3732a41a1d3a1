package intercept

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
)

// h2World is a router in memory, whose three sides say what a fuzzer wants.
type h2World struct {
	*Router
	doors          chan net.Conn
	closed         chan struct{}
	once           sync.Once
	mu             sync.Mutex
	origin, laptop []byte
	peers          sync.WaitGroup
}

func (w *h2World) Accept() (net.Conn, error) {
	select {
	case c := <-w.doors:
		return c, nil
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *h2World) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

func (w *h2World) Addr() net.Addr { return &net.TCPAddr{} }

// play is a peer that says its part, reads all it is told, and stays until the other side goes.
func (w *h2World) play(part *[]byte) net.Conn {
	here, there := net.Pipe()
	w.mu.Lock()
	say := *part
	w.mu.Unlock()
	w.peers.Go(func() { _, _ = here.Write(say) })
	w.peers.Go(func() {
		_, _ = io.Copy(io.Discard, here)
		here.Close()
	})
	return there
}

func newH2World(f *testing.F) *h2World {
	w := &h2World{doors: make(chan net.Conn), closed: make(chan struct{})}
	r, err := New(Options{
		Listen:    func(int) (net.Listener, error) { return w, nil },
		Endpoints: func(string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:80")} },
		Dial:      func(context.Context, netip.AddrPort) (net.Conn, error) { return w.play(&w.origin), nil },
		DialTunnel: func(_ context.Context, rt Route, _ net.Addr) (net.Conn, error) {
			if rt.ID == "none" {
				return nil, errors.New("none")
			}
			return w.play(&w.laptop), nil
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	w.Router = r
	f.Cleanup(func() { r.Close(cancelled()) })
	gone := Route{ID: "none", Match: Match{Headers: []HeaderMatch{{"x-key", "eve"}}}}
	l := Listener{Port: 1, Service: "shop/cart", ServicePort: 80, Origin: "o", Routes: []Route{forLaptop, gone}}
	if err := r.Apply(context.Background(), Table{Listeners: []Listener{l}}); err != nil {
		f.Fatal(err)
	}
	return w
}

// check fails if the books of a connection do not balance.
func (e *h2) checkBooks(t *testing.T) {
	e.mu.Lock()
	defer e.mu.Unlock()
	live, held := 0, 0
	for _, s := range e.diverted {
		if s != nil {
			live++
			held += len(s.held)
		}
	}
	switch {
	case live != e.live, held != e.heldUp, held > maxHeldUp, e.owed < 0, e.unpaid < 0:
		t.Errorf("live %d, counted %d; held %d, counted %d; owed %d, unpaid %d", live, e.live, held, e.heldUp, e.owed, e.unpaid)
	case len(e.diverted) > maxDiverted+goneStreams, len(e.all) > maxDetours, len(e.control) > maxControl+64:
		t.Errorf("%d diverted, %d detours, %d bytes of control", len(e.diverted), len(e.all), len(e.control))
	}
}

// FuzzHTTP2 has a client, an origin and a laptop say anything: the router must neither panic nor hang, and keep its books.
func FuzzHTTP2(f *testing.F) {
	for _, s := range h2Seeds() {
		f.Add(s[0], s[1], s[2], uint16(len(s[0])))
	}
	w := newH2World(f)
	f.Fuzz(func(t *testing.T, client, origin, laptop []byte, cut uint16) {
		greeting := h2Frame{kind: h2Settings}.appendTo(nil)
		w.mu.Lock()
		w.origin, w.laptop = append(greeting, origin...), append(greeting[:len(greeting):len(greeting)], laptop...)
		w.mu.Unlock()
		here, there := net.Pipe()
		w.doors <- there
		_ = here.SetDeadline(time.Now().Add(patience))
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, here)
		}()
		say := append([]byte(h2Preface), client...)
		at := min(len(say), len(h2Preface)+int(cut))
		if _, err := here.Write(say[:at]); err == nil {
			_, err = here.Write(say[at:])
			if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
				t.Error("the client is not read any more")
			}
		}
		time.Sleep(200 * time.Microsecond)
		for _, c := range w.port(1).snapshot(nil) {
			c.mu.Lock()
			e := c.h2
			c.mu.Unlock()
			if e != nil {
				e.checkBooks(t)
			}
		}
		here.Close()
		<-read
		await(t, "the end of the connection", func() bool { return w.Status().Listeners[0].Open == 0 })
		w.peers.Wait()
	})
}

// h2Seeds are conversations that go to all places: client, origin, laptop.
func h2Seeds() [][3][]byte {
	var table []byte
	enc := newH2Encoder(h2DefaultTable)
	request := func(b []byte, id uint32, end bool, key string) []byte {
		return appendBlock(b, id, end, nil, enc.encode([]hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"},
			{Name: ":path", Value: "/a"}, {Name: ":authority", Value: "cart"}, {Name: "x-key", Value: key}, {Name: "cookie", Value: "a=b"}, {Name: "cookie", Value: "c=d"}}))
	}
	data := func(b []byte, id uint32, n int, flags byte) []byte {
		return append(h2Frame{n, h2Data, flags, id}.appendTo(b), make([]byte, n)...)
	}
	respond := func(b []byte, id uint32, end bool) []byte {
		return appendBlock(b, id, end, nil, newH2Encoder(h2DefaultTable).encode([]hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "x-a", Value: "b"}}))
	}
	settings := h2Frame{kind: h2Settings}.appendTo(nil)
	both := request(request(settings, 1, false, "ada"), 3, false, "bob")
	both = data(data(both, 1, 10, 0), 3, 10, h2EndStream)
	both = data(appendWord(appendWord(both, h2WindowUpdate, 0, 1000), h2WindowUpdate, 1, 1000), 1, 70, h2EndStream|h2Padded)
	both = request(request(both, 5, true, "eve"), 7, true, "ada")
	both = appendWord(both, h2Reset, 7, h2Cancel)
	answer := data(respond(nil, 1, false), 1, 70_000>>3, 0)
	for range 8 {
		answer = data(answer, 1, 4_000, 0)
	}
	answer = respond(answer, 1, true)
	origin := data(respond(data(respond(nil, 3, false), 3, 4_000, h2EndStream), 5, false), 5, 9_000, 0)
	big := appendBlock(settings, 1, true, nil, make([]byte, 70_000))
	return [][3][]byte{
		{both, origin, answer},
		{both, appendGoAway(origin, 3, 0), appendGoAway(appendWord(answer, h2WindowUpdate, 0, 1<<20), 1, 2)},
		{both, appendGoAway(nil, h2MaxStreamID, 0), append(answer, "HTTP/1.1 400 Bad Request\r\n\r\n"...)},
		{both, append(origin, big...), append(answer, big...)},
		{big, nil, nil},
		{append(both, big...), nil, appendWord(nil, h2Reset, 1, 0)},
		{append(both, h2Frame{length: 1, kind: h2Continuation, stream: 1}.appendTo(nil)...), origin, nil},
		{[]byte(oddFrames(true)), []byte(oddFrames(false)), table},
	}
}
