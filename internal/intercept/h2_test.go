package intercept

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// h2Server is a real server of HTTP/2 in cleartext, Go's, that says who it is.
func h2Server(t testing.TB, name string) *net.TCPListener {
	t.Helper()
	ln := listen(t)
	srv := &http.Server{Handler: h2Handler(name), Protocols: cleartext()}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln
}

func cleartext() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

func h2Handler(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Name", name)
		fmt.Fprintf(w, "%s %s %s %s", name, r.Method, r.URL.Path, r.Host)
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) { // of a body, and what trailed it
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		w.Header().Set("X-Name", name)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%d %v %s", n, err, r.Trailer.Get("X-Said"))
		w.Header().Set("X-Sum", fmt.Sprintf("%x", h.Sum(nil)))
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		var n int
		fmt.Sscan(r.URL.Query().Get("n"), &n)
		w.Header().Set("X-Name", name)
		b := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		for n > 0 {
			k, err := w.Write(b[:min(n, len(b))])
			if n -= k; err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Name", name)
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { // each piece at once
		w.Header().Set("X-Name", name)
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		b := make([]byte, 32<<10)
		for {
			n, err := r.Body.Read(b)
			if _, werr := w.Write(b[:n]); werr != nil {
				return
			}
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/abort", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("X-Name", name)
		w.WriteHeader(204)
	})
	mux.HandleFunc("/forever", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Name", name)
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	return mux
}

// h2Client has one connection at a time.
func h2Client(t testing.TB, addr string) *http.Client {
	tr := &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
		DisableCompression: true,
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

type h2Rig struct {
	*rig
	origin, laptop *net.TCPListener
	log            bytes.Buffer
	down           atomic.Bool // no laptop
	mu             sync.Mutex
	tunnels        []net.Conn
}

var forLaptop = Route{ID: "r", Session: "ada", Match: Match{Headers: []HeaderMatch{{"x-key", "ada"}}}}

func newH2Rig(t testing.TB, hide bool) *h2Rig {
	g := &h2Rig{origin: h2Server(t, "origin"), laptop: h2Server(t, "laptop")}
	dial := tunnelTo(g.laptop, hide)
	g.rig = newRig(t, Options{Endpoints: endpoints(g.origin), Logger: slog.New(slog.NewTextHandler(&g.log, nil)),
		DialTunnel: func(ctx context.Context, r Route, a net.Addr) (net.Conn, error) {
			if g.down.Load() {
				return nil, errors.New("no laptop is connected")
			}
			c, err := dial(ctx, r, a)
			g.mu.Lock()
			defer g.mu.Unlock()
			g.tunnels = append(g.tunnels, c)
			return c, err
		}})
	g.apply("1", Listener{Routes: []Route{forLaptop}})
	return g
}

func ask(t testing.TB, c *http.Client, method, path, key string, body io.Reader) *http.Response {
	t.Helper()
	res, err := tryAsk(c, method, path, key, body)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func tryAsk(c *http.Client, method, path, key string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequest(method, "http://cart"+path, body)
	if err != nil {
		return nil, err
	}
	if key != "" {
		req.Header.Set("X-Key", key)
	}
	return c.Do(req)
}

func text(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHTTP2StreamsAreRoutedByRule(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, true)
	c := h2Client(t, g.addr(1))
	for i := range 50 {
		for _, who := range [][2]string{{"", "origin"}, {"ada", "laptop"}, {"bob", "origin"}} {
			res := ask(t, c, "GET", fmt.Sprintf("/%d", i), who[0], nil)
			if got, want := text(t, res), fmt.Sprintf("%s GET /%d cart", who[1], i); got != want {
				t.Fatalf("key %q: %q, want %q", who[0], got, want)
			}
		}
	}
	s := g.status()
	if s.Accepted != 1 || s.Origin != 100 || s.Routes[0].Requests != 50 || s.Wired != 0 || s.Fallbacks != 0 {
		t.Errorf("counted %+v", s)
	}
}

func TestHTTP2BodiesTrailersAndInterimResponsesArriveWhole(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, true)
	c := h2Client(t, g.addr(1))
	for _, key := range []string{"", "ada"} {
		name := map[string]string{"": "origin", "ada": "laptop"}[key]
		for _, size := range []int{0, 1, 16 << 10, 1 << 20, 20 << 20} {
			body := bytes.Repeat([]byte("abcdefghijklmnop"), size/16+1)[:size]
			res := ask(t, c, "POST", "/sum", key, bytes.NewReader(body))
			if got, want := text(t, res), fmt.Sprintf("%d <nil> ", size); got != want || res.Header.Get("X-Name") != name {
				t.Fatalf("%s: %q, want %q", name, got, want)
			}
			if got, want := res.Trailer.Get("X-Sum"), fmt.Sprintf("%x", sha256.Sum256(body)); got != want {
				t.Errorf("%s: trailer %q, want %q", name, got, want)
			}
			res = ask(t, c, "GET", fmt.Sprintf("/bytes?n=%d", size), key, nil)
			if n := len(text(t, res)); n != size {
				t.Errorf("%s: %d bytes, want %d", name, n, size)
			}
		}
		res := ask(t, c, "GET", "/hints", key, nil)
		if text(t, res); res.StatusCode != 204 || res.Header.Get("X-Name") != name {
			t.Errorf("%s: after hints: %v", name, res)
		}
		if res, err := tryAsk(c, "GET", "/abort", key, nil); err == nil || !strings.Contains(err.Error(), "INTERNAL_ERROR") {
			t.Errorf("%s: aborted stream gives %v, %v", name, res, err)
		}
	}
}

func TestHTTP2ManyStreamsAtOnce(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, true)
	c := h2Client(t, g.addr(1))
	var wg sync.WaitGroup
	sem := make(chan struct{}, 200)
	for i := range 10_000 {
		sem <- struct{}{}
		wg.Go(func() {
			defer func() { <-sem }()
			key, name := "", "origin"
			if i%2 == 0 {
				key, name = "ada", "laptop"
			}
			res, err := tryAsk(c, "POST", "/sum", key, strings.NewReader("hello"))
			if err != nil {
				t.Error(err)
				return
			}
			b, err := io.ReadAll(res.Body)
			if res.Body.Close(); err != nil || string(b) != "5 <nil> " || res.Header.Get("X-Name") != name {
				t.Errorf("%s: %q %v", name, b, err)
			}
		})
	}
	wg.Wait()
}

func TestHTTP2StalledReaderStallsOnlyItself(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, true)
	c := h2Client(t, g.addr(1))
	for _, stalled := range []string{"", "ada"} {
		res := ask(t, c, "GET", "/bytes?n=100000000", stalled, nil)
		defer res.Body.Close()
		for _, key := range []string{"", "ada"} {
			if n := len(text(t, ask(t, c, "GET", "/bytes?n=10000000", key, nil))); n != 10_000_000 {
				t.Errorf("%d bytes", n)
			}
		}
	}
}

func TestHTTP2StreamsBothWays(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, true)
	c := h2Client(t, g.addr(1))
	for _, key := range []string{"", "ada"} {
		r, w := io.Pipe()
		res := ask(t, c, "POST", "/echo", key, r)
		b := make([]byte, 5)
		for i := range 1000 {
			msg := fmt.Sprintf("%05d", i)
			if _, err := io.WriteString(w, msg); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != msg {
				t.Fatalf("%q %v, want %q", b, err, msg)
			}
		}
		w.Close()
		if s := text(t, res); s != "" {
			t.Errorf("after the end: %q", s)
		}
	}
}

func TestHTTP2WithoutLaptopTheOriginAnswers(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, true)
	g.down.Store(true)
	c := h2Client(t, g.addr(1))
	for range 10 {
		res := ask(t, c, "POST", "/sum", "ada", strings.NewReader("hello"))
		if got := text(t, res); got != "5 <nil> " || res.Header.Get("X-Name") != "origin" {
			t.Fatalf("%q %v", got, res.Header)
		}
		if got := res.Header.Get("x-dayfly-fallback"); !strings.Contains(got, "no laptop") {
			t.Errorf("x-dayfly-fallback: %q", got)
		}
	}
	if s := g.status(); s.Fallbacks != 10 || s.Routes[0].Fallbacks != 10 || s.Origin != 10 {
		t.Errorf("counted %+v", s)
	}
	g.down.Store(false)
	if got := text(t, ask(t, c, "GET", "/", "ada", nil)); !strings.HasPrefix(got, "laptop") {
		t.Errorf("with the laptop back: %q", got)
	}
}

func TestHTTP2LaptopThatDiesTakesOnlyItsStreams(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, true)
	c := h2Client(t, g.addr(1))
	mine := ask(t, c, "GET", "/forever", "ada", nil)
	others := ask(t, c, "GET", "/forever", "", nil)
	g.mu.Lock()
	g.tunnels[0].(interface{ Reset() error }).Reset()
	g.mu.Unlock()
	if _, err := io.ReadAll(mine.Body); err == nil || !strings.Contains(err.Error(), "INTERNAL_ERROR") {
		t.Errorf("stream at the laptop: %v", err)
	}
	if got := text(t, ask(t, c, "GET", "/", "", nil)); !strings.HasPrefix(got, "origin") {
		t.Error(got)
	}
	if got := text(t, ask(t, c, "GET", "/", "ada", nil)); !strings.HasPrefix(got, "laptop") {
		t.Error(got)
	}
	others.Body.Close()
	if s := g.status(); s.Accepted != 1 {
		t.Errorf("%d connections", s.Accepted)
	}
}

func TestHTTP2LaptopThatSpeaksSomethingElse(t *testing.T) {
	t.Parallel()
	origin, laptop := h2Server(t, "origin"), listen(t)
	srv := &http.Server{Handler: h2Handler("laptop")} // HTTP/1 only
	go srv.Serve(laptop)
	defer srv.Close()
	var log syncBuffer
	g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(laptop, true), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	g.apply("1", Listener{Routes: []Route{forLaptop}})
	c := h2Client(t, g.addr(1))
	if res, err := tryAsk(c, "GET", "/", "ada", nil); err == nil || !strings.Contains(err.Error(), "INTERNAL_ERROR") {
		t.Errorf("%v, %v", res, err)
	}
	if got := text(t, ask(t, c, "GET", "/", "", nil)); !strings.HasPrefix(got, "origin") {
		t.Error(got)
	}
	await(t, "a warning", func() bool { return strings.Contains(log.String(), "does not speak HTTP/2") })
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestHTTP2RouteAddedLaterTakesNewStreams(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, false)
	g.apply("2", Listener{})
	c := h2Client(t, g.addr(1))
	for i, want := range []string{"origin", "laptop", "origin"} {
		if i == 1 {
			g.apply("3", Listener{Routes: []Route{forLaptop}})
		} else if i == 2 {
			g.apply("4", Listener{})
		}
		if got := text(t, ask(t, c, "GET", "/", "ada", nil)); !strings.HasPrefix(got, want) {
			t.Errorf("step %d: %q", i, got)
		}
	}
	if s := g.status(); s.Accepted != 1 {
		t.Errorf("%d connections", s.Accepted)
	}
}

func TestHTTP2DrainMovesClientsAndBreaksNothing(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, true)
	c := h2Client(t, g.addr(1))
	r, w := io.Pipe()
	long := ask(t, c, "POST", "/echo", "ada", r)
	until := time.Now().Add(time.Minute)
	g.apply("2", Listener{DrainUntil: &until})
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		if got := text(t, ask(t, c, "GET", "/", "", nil)); !strings.HasPrefix(got, "origin") {
			t.Fatal(got)
		}
	}
	fmt.Fprint(w, "still there")
	w.Close()
	if got := text(t, long); got != "still there" {
		t.Errorf("%q", got)
	}
	c.CloseIdleConnections()
	await(t, "no connection", func() bool { return g.status().Open == 0 })
	if s := g.status(); s.Resets != 0 || s.Accepted < 2 {
		t.Errorf("counted %+v", s)
	}
}

func TestHTTP2ProbesNeverMatchARule(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, true)
	hostRule := Route{ID: "h", Match: Match{Headers: []HeaderMatch{{"Host", "cart"}}}}
	g.apply("2", Listener{Routes: []Route{forLaptop, hostRule}})
	c := h2Client(t, g.addr(1))
	for _, x := range []struct{ path, agent, key, want string }{
		{"/", "x/1", "", "laptop"}, // by :authority
		{"/", "kube-probe/1.36", "", "origin"},
		{"/", "kube-probe/1.36", "ada", "origin"},
		{"/grpc.health.v1.Health/Check", "grpc-go/1", "", "origin"},
		{"/grpc.health.v1.Health/Check", "grpc-go/1", "ada", "laptop"}, // asked for
		{"/grpc.health.v1.Health/Check", "kube-probe/1.36 grpc-go", "ada", "origin"},
	} {
		req, _ := http.NewRequest("GET", "http://cart"+x.path, nil)
		req.Header.Set("User-Agent", x.agent)
		if x.key != "" {
			req.Header.Set("X-Key", x.key)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := text(t, res); !strings.HasPrefix(got, x.want) {
			t.Errorf("%+v: %q", x, got)
		}
	}
}

// TestHTTP2ThatMatchesNothingPassesByteForByte sends frames that no parser would write again as they
// are: padding, priorities, unknown types, empty frames, continuations, and pieces at odd places.
func TestHTTP2ThatMatchesNothingPassesByteForByte(t *testing.T) {
	t.Parallel()
	for _, cut := range []int{1, 7, 1 << 20} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			t.Parallel()
			ln := newDoor(t)
			g := newRig(t, Options{Endpoints: endpoints(ln), DialTunnel: tunnelTo(listen(t), true)})
			g.apply("1", Listener{Routes: []Route{forLaptop}})
			up := h2Preface + oddFrames(true)
			client := dialPeer(t, g.addr(1))
			client.sendIn(up, cut)
			origin := ln.speaker(t, "origin")
			origin.expect(up)
			down := oddFrames(false)
			origin.sendIn(down, cut)
			client.expect(down)
			client.CloseWrite()
			origin.expectEnd()
			origin.CloseWrite()
			client.expectEnd()
			if s := g.status(); s.Wired != 0 || s.Origin != 2 {
				t.Errorf("counted %+v", s)
			}
		})
	}
}

// oddFrames are in order, if odd, from a client or from a server.
func oddFrames(client bool) string {
	var b []byte
	frame := func(kind, flags byte, stream uint32, payload string) {
		b = append(h2Frame{len(payload), kind, flags, stream}.appendTo(b), payload...)
	}
	frame(h2Settings, 0, 0, "\x00\x03\x00\x00\x00\x64\x00\x04\x00\x10\x00\x00\xab\xcd\x01\x02\x03\x04")
	frame(h2Settings, h2Ack, 0, "")
	frame(h2WindowUpdate, 0, 0, "\x00\x00\x10\x00")
	frame(h2Ping, 0, 0, "12345678")
	frame(0xfa, 0x55, 0, "grease")
	frame(h2Priority, 0, 9, "\x00\x00\x00\x00\x10")
	block := "\x82\x86\x84\x41\x01a\x40\x05x-key\x03bob"
	if !client {
		block = "\x88\x40\x05x-key\x03bob"
	}
	frame(h2Headers, h2Padded|h2HasPriority, 1, "\x03\x00\x00\x00\x00\x07"+block[:4]+"\x00\x00\x00")
	frame(h2Continuation, 0, 1, block[4:9])
	frame(h2Continuation, 0, 1, "")
	frame(h2Continuation, h2EndHeaders, 1, block[9:])
	frame(h2Data, h2Padded, 1, "\x05hello\x00\x00\x00\x00\x00")
	frame(0xfb, 0, 1, "unknown")
	frame(h2Data, 0, 1, "")
	if client {
		frame(h2Headers, h2EndHeaders|h2EndStream, 3, "\x82\x86\x84\xbf\xbe") // by the table
	}
	frame(h2Data, h2EndStream, 1, strings.Repeat("x", 70_000)) // larger than any buffer
	frame(h2Reset, 0, 3, "\x00\x00\x00\x08")
	frame(h2GoAway, 0, 0, "\x00\x00\x00\x03\x00\x00\x00\x00bye")
	return string(b)
}

// sendIn sends s in pieces of size n.
func (p *peer) sendIn(s string, n int) {
	p.t.Helper()
	go func() {
		for len(s) > 0 {
			k := min(n, len(s))
			if _, err := io.WriteString(p, s[:k]); err != nil {
				return
			}
			s = s[k:]
		}
	}()
}

func TestHTTP2LaptopWhoseRouteIsGoneIsLeftAlone(t *testing.T) {
	t.Parallel()
	g := newH2Rig(t, false)
	c := h2Client(t, g.addr(1))
	text(t, ask(t, c, "GET", "/", "ada", nil))
	r, w := io.Pipe()
	res := ask(t, c, "POST", "/echo", "ada", r)
	g.apply("2", Listener{})
	time.Sleep(2 * sweepEvery)
	fmt.Fprint(w, "still there")
	w.Close()
	if got := text(t, res); got != "still there" {
		t.Errorf("%q", got)
	}
	g.mu.Lock()
	tunnel := g.tunnels[0]
	g.mu.Unlock()
	await(t, "the end of the connection to the laptop", func() bool {
		_, err := tunnel.Write(nil)
		return errors.Is(err, net.ErrClosed)
	})
	if got := text(t, ask(t, c, "GET", "/", "ada", nil)); !strings.HasPrefix(got, "origin") {
		t.Error(got)
	}
}
