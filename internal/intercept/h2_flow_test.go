package intercept

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Peer is a client that minds every frame.
type h2Peer struct {
	*http2.Framer
	t   testing.TB
	enc *h2Encoder
	dec *h2Decoder
}

func newH2Peer(t testing.TB, addr string, s ...http2.Setting) *h2Peer {
	c := dialPeer(t, addr)
	p := &h2Peer{http2.NewFramer(c, c), t, newH2Encoder(h2DefaultTable), newH2Decoder()}
	c.send(h2Preface)
	p.must(p.WriteSettings(s...))
	return p
}

func (p *h2Peer) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *h2Peer) ask(id uint32, path, key string, end bool) {
	p.t.Helper()
	method := "POST"
	if end {
		method = "GET"
	}
	p.must(p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: end, BlockFragment: p.enc.encode([]hpack.HeaderField{
		{Name: ":method", Value: method}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path}, {Name: ":authority", Value: "cart"}, {Name: "x-key", Value: key}})}))
}

// next reads frames until one that which accepts.
func (p *h2Peer) next(what string, which func(http2.Frame) bool) http2.Frame {
	p.t.Helper()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			p.t.Fatalf("waiting for %s: %v", what, err)
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			p.must(p.dec.decode(f.HeaderBlockFragment()))
		case *http2.SettingsFrame:
			if !f.IsAck() {
				p.must(p.WriteSettingsAck())
			}
		}
		if which(f) {
			return f
		}
	}
}

func isReset(id uint32) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		_, ok := f.(*http2.RSTStreamFrame)
		return ok && f.Header().StreamID == id
	}
}

// Origin and laptop share what the client takes: never more, and all of it in the end.
func TestHTTP2OriginAndLaptopShareTheClientsCredit(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, true)
	const size = 400_000
	p := newH2Peer(t, g.addr(1), http2.Setting{ID: http2.SettingInitialWindowSize, Val: size})
	granted, got := h2DefaultWindow, map[uint32]int{}
	for i, key := range []string{"bob", "ada", "bob", "ada"} {
		p.ask(uint32(2*i+1), fmt.Sprintf("/bytes?n=%d", size), key, true)
	}
	total, ended := 0, 0
	for unpaid := 0; ended < 4; {
		f := p.next("DATA", func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok }).(*http2.DataFrame)
		n := int(f.Length)
		got[f.StreamID] += n
		if total += n; total > granted {
			t.Fatalf("%d bytes came, %d were granted", total, granted)
		}
		if f.StreamEnded() {
			ended++
		}
		// Credit comes late and in odd amounts, as it does from clients that are busy.
		if unpaid += n; granted-total < 3000 {
			p.must(p.WriteWindowUpdate(0, uint32(unpaid)))
			granted += unpaid
			unpaid = 0
		}
	}
	for id, n := range got {
		if n != size {
			t.Errorf("stream %d: %d bytes", id, n)
		}
	}
}

// A laptop that takes nothing stalls only what is for it, and only so much of that is kept.
func TestHTTP2SlowLaptopIsBounded(t *testing.T) {
	t.Parallel()
	origin, laptop := listen(t), h2Server(t, "laptop")
	srv := &http.Server{Handler: h2Handler("origin"), Protocols: cleartext(), HTTP2: &http.HTTP2Config{
		MaxReceiveBufferPerConnection: 64 << 20, MaxReceiveBufferPerStream: 32 << 20}}
	go srv.Serve(origin)
	defer srv.Close()
	g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(laptop, true)})
	g.apply("1", Listener{Routes: []Route{forLaptop}})
	p := newH2Peer(t, g.addr(1))
	p.next("SETTINGS", func(f http2.Frame) bool { _, ok := f.(*http2.SettingsFrame); return ok })
	p.next("credit", func(f http2.Frame) bool { _, ok := f.(*http2.WindowUpdateFrame); return ok })
	p.ask(1, "/forever", "ada", false)
	chunk := bytes.Repeat([]byte("x"), 16<<10)
	for range maxHeldUp/len(chunk) + 128 { // more than it takes, less than the origin allows
		p.must(p.WriteData(1, false, chunk))
	}
	f := p.next("RST_STREAM", isReset(1)).(*http2.RSTStreamFrame)
	if f.ErrCode != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("reset with %v", f.ErrCode)
	}
	p.ask(3, "/sum", "bob", false)
	p.must(p.WriteData(3, true, chunk))
	p.next("an answer", func(f http2.Frame) bool { return f.Header().StreamID == 3 })
}

// An origin that takes its leave does not take streams along that a laptop has.
func TestHTTP2OriginsGoodbyeSparesTheLaptopsStreams(t *testing.T) {
	t.Parallel()
	origin, laptop := listen(t), h2Server(t, "laptop")
	srv := &http.Server{Handler: h2Handler("origin"), Protocols: cleartext()}
	go srv.Serve(origin)
	g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(laptop, true)})
	g.apply("1", Listener{Routes: []Route{forLaptop}})
	c := h2Client(t, g.addr(1))
	text(t, ask(t, c, "GET", "/", "", nil))
	r, w := io.Pipe()
	res := ask(t, c, "POST", "/echo", "ada", r)
	go srv.Shutdown(t.Context())
	time.Sleep(1500 * time.Millisecond) // net/http says good-bye in two steps, a second apart
	fmt.Fprint(w, "still there")
	w.Close()
	if got := text(t, res); got != "still there" {
		t.Errorf("%q", got)
	}
	await(t, "no connection", func() bool { return g.status().Open == 0 })
}

// What a laptop's own good-bye refuses, the client may send again.
func TestHTTP2LaptopsGoodbyeRefusesWhatItDidNotSee(t *testing.T) {
	t.Parallel()
	origin, laptop := h2Server(t, "origin"), listen(t)
	g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(laptop, true)})
	g.apply("1", Listener{Routes: []Route{forLaptop}})
	p := newH2Peer(t, g.addr(1))
	p.ask(1, "/", "ada", true)
	p.ask(3, "/", "ada", true)
	at := acceptPeer(t, "laptop", laptop)
	at.expect(h2Preface)
	l := http2.NewFramer(at, at)
	p.must(l.WriteSettings())
	for seen := 0; seen < 2; {
		f, err := l.ReadFrame()
		p.must(err)
		if _, ok := f.(*http2.HeadersFrame); ok {
			seen++
		}
	}
	p.must(l.WriteGoAway(1, http2.ErrCodeNo, nil))
	if f := p.next("RST_STREAM", isReset(3)).(*http2.RSTStreamFrame); f.ErrCode != http2.ErrCodeRefusedStream {
		t.Errorf("reset with %v", f.ErrCode)
	}
	at.reset()
	if f := p.next("RST_STREAM", isReset(1)).(*http2.RSTStreamFrame); f.ErrCode != http2.ErrCodeInternal {
		t.Errorf("reset with %v", f.ErrCode)
	}
}

// Header blocks that grow without end make a connection a wire, or end it once a laptop is in play.
func TestHTTP2EndlessHeadersAreBounded(t *testing.T) {
	t.Parallel()
	for _, mixed := range []bool{false, true} {
		g := newH2Rig(t, true)
		p := newH2Peer(t, g.addr(1))
		if mixed {
			p.ask(1, "/", "ada", true)
			p.next("the answer", func(f http2.Frame) bool {
				return f.Header().StreamID == 1 && f.Header().Flags.Has(http2.FlagDataEndStream)
			})
		}
		junk := []byte("\x00\x03abc\x7f\xff\xff\x01" + strings.Repeat("x", 16_000)) // a literal without end
		err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: junk})
		for range 10 {
			if err == nil {
				err = p.WriteContinuation(5, false, junk)
			}
		}
		for err == nil {
			var f http2.Frame
			if f, err = p.ReadFrame(); err == nil {
				if goAway, ok := f.(*http2.GoAwayFrame); ok && mixed && goAway.ErrCode != http2.ErrCodeEnhanceYourCalm {
					t.Errorf("%v", goAway)
				}
			}
		}
		await(t, "no connection", func() bool { return g.status().Open == 0 })
		if wired := g.status().Wired; (wired == 1) == mixed {
			t.Errorf("mixed %v: %d wires", mixed, wired)
		}
	}
}

// A server of HTTP/2 may speak first, and its client be late: its requests are routed all the same.
func TestHTTP2ServerThatSpeaksFirst(t *testing.T) {
	t.Parallel()
	origin, laptop := listen(t), h2Server(t, "laptop")
	g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(laptop, true)})
	g.apply("1", Listener{Routes: []Route{forLaptop}})
	c := dialPeer(t, g.addr(1))
	at := acceptPeer(t, "origin", origin) // the router has waited for the client long enough
	hello := string(h2Frame{kind: h2Settings}.appendTo(nil))
	at.send(hello)
	time.Sleep(5 * sniffWait)
	p := &h2Peer{http2.NewFramer(c, c), t, newH2Encoder(h2DefaultTable), newH2Decoder()}
	c.send(h2Preface + hello)
	at.expect(h2Preface + hello)
	p.ask(1, "/", "ada", true)
	p.next("the laptop's answer", func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok && f.Header().StreamID == 1 })
	if s := g.status(); s.Wired != 0 || s.Routes[0].Requests != 1 {
		t.Errorf("counted %+v", s)
	}
}

// What an origin has said before it ends comes, when the client has credit for it again.
func TestHTTP2OriginsLastWordsAwaitCredit(t *testing.T) {
	t.Parallel()
	origin, laptop := listen(t), h2Server(t, "laptop")
	g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(laptop, true)})
	g.apply("1", Listener{Routes: []Route{forLaptop}})
	p := newH2Peer(t, g.addr(1), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	at := acceptPeer(t, "origin", origin)
	at.send(string(h2Frame{kind: h2Settings}.appendTo(nil)))
	p.ask(1, fmt.Sprintf("/bytes?n=%d", h2DefaultWindow), "ada", true) // takes all the credit there is
	for n := 0; n < h2DefaultWindow; {
		f := p.next("DATA", func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok })
		n += int(f.Header().Length)
	}
	p.ask(3, "/", "bob", true)
	words := appendBlock(nil, 3, false, nil, newH2Stateless().encode([]hpack.HeaderField{{Name: ":status", Value: "200"}}))
	words = append(h2Frame{5, h2Data, h2EndStream, 3}.appendTo(words), "hello"...)
	at.send(string(appendGoAway(words, 3, 0)))
	at.CloseWrite()
	p.next("the origin's GOAWAY", func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok })
	time.Sleep(20 * time.Millisecond)
	p.must(p.WriteWindowUpdate(0, 100))
	f := p.next("the origin's words", func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok && f.Header().StreamID == 3 })
	if got := string(f.(*http2.DataFrame).Data()); got != "hello" {
		t.Errorf("%q", got)
	}
}
