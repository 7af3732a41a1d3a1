package protocols

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/flate"
	"github.com/lxzan/gws"

	"dayfly.dev/dayfly/internal/intercept"
)

// wsServers are servers of WebSocket that send back every message.
var wsServers = []struct {
	name  string
	serve http.Handler
	fails string // the cases that it does not pass, as its authors say too
}{
	{"coder/websocket", http.HandlerFunc(coderEcho), `^6\.|^7\.5\.1$|^13\.[35]\.`},
	{"lxzan/gws", http.HandlerFunc(gwsEcho), `^$`},
}

func coderEcho(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for {
		kind, b, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, b); err != nil {
			return
		}
	}
}

type gwsHandler struct{ gws.BuiltinEventHandler }

func (gwsHandler) OnPing(c *gws.Conn, payload []byte) { _ = c.WritePong(payload) }

func (gwsHandler) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	_ = c.WriteMessage(m.Opcode, m.Bytes())
}

var gwsUpgrader = gws.NewUpgrader(gwsHandler{}, &gws.ServerOption{
	CheckUtf8Enabled: true, ReadMaxPayloadSize: 32 << 20, WriteMaxPayloadSize: 32 << 20, Logger: quiet{},
	PermessageDeflate: gws.PermessageDeflate{Enabled: true, ServerContextTakeover: true, ClientContextTakeover: true},
})

type quiet struct{}

func (quiet) Error(...any) {}

func gwsEcho(w http.ResponseWriter, r *http.Request) {
	c, err := gwsUpgrader.Upgrade(w, r)
	if err != nil {
		return
	}
	c.ReadLoop()
}

func wsServe(t *testing.T, h http.Handler) string {
	ln := listen(t)
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// TestWebSocketClientsCannotTellTheRouterFromAWire: in each case of Autobahn's test suite a client that sends the same
// octets gets the same octets back, and the same end, from a server of WebSocket and through the router, from the original
// and from a laptop. What the servers answer is mostly what the suite asks for, or little would be compared.
func TestWebSocketClientsCannotTellTheRouterFromAWire(t *testing.T) {
	for _, server := range wsServers {
		t.Run(server.name, func(t *testing.T) {
			t.Parallel()
			direct := wsServe(t, server.serve)
			nobody := wsServe(t, http.NotFoundHandler())
			key := func(value string) intercept.Match {
				return intercept.Match{Headers: []intercept.HeaderMatch{{Name: "x-key", Value: value}}}
			}
			passed, _ := route(t, direct, nobody, key("bob"))
			taken, r := route(t, nobody, direct, key("ada"))
			ways := map[string]string{"not matching": passed, "matching": taken}
			known := regexp.MustCompile(server.fails)
			ran, fine := 0, 0
			judge := func(id string, play func(addr string) wsAnswer, verdict func(wsAnswer) error) {
				want := play(direct)
				err := verdict(want)
				if err != nil && !known.MatchString(id) {
					t.Errorf("%s: direct: %v", id, err)
				}
				for name, addr := range ways {
					got := play(addr)
					if same(got, want, func() wsAnswer { return play(direct) }) {
						continue
					}
					t.Errorf("%s, %s:\n%v\ndirect:\n%v", id, name, got, want)
				}
				if ran++; err == nil {
					fine++
				}
			}
			for _, c := range wsCases() {
				if c.ends && known.MatchString(c.id) { // it sends back what it ought to refuse
					c.ends, c.want = false, []string{"?"}
				}
				judge(c.id, func(addr string) wsAnswer { return c.play(t, addr) }, c.verdict)
			}
			for _, g := range compressedGroups() {
				for i, size := range compressedSizes {
					id := fmt.Sprintf("%s.%d", g.group, i+1)
					judge(id, func(addr string) wsAnswer { return g.play(t, addr, size[0], size[1]) }, func(a wsAnswer) error { return g.verdict(a, size[0]) })
				}
			}
			t.Logf("%d cases, %d of which the server passes direct", ran, fine)
			if ran != 517 {
				t.Errorf("%d cases were run, the suite has 517", ran)
			}
			if s := r.Status().Listeners[0]; int(s.Routes[0].Requests) < ran || s.Fallbacks > 0 || s.Origin > 0 {
				t.Errorf("counted %+v", s)
			}
		})
	}
}

// same reports whether two answers are the same. A server that ends a connection with octets unread may have its last ones
// lost or not, direct as well: what it may do direct it may do through the router.
func same(got, direct wsAnswer, again func() wsAnswer) bool {
	for range 20 {
		if got.key() == direct.key() {
			return true
		}
		direct = again()
	}
	return false
}

// wsAnswer is all that a client got.
type wsAnswer struct {
	head   string // of the response, but for the time of day
	frames []wsFrame
	sum    [sha256.Size]byte // of all octets after the head
	end    string
}

// key is what is compared.
func (a wsAnswer) key() string { return fmt.Sprintf("%s %x %s", a.head, a.sum, a.end) }

func (a wsAnswer) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q\n", a.head)
	for i, f := range a.frames {
		if i == 5 {
			fmt.Fprintf(&b, "… %d frames\n", len(a.frames))
			break
		}
		fmt.Fprintf(&b, "op %d rsv %d more %v, %d octets %.60q\n", f.op, f.rsv, f.more, len(f.payload), f.payload)
	}
	return b.String() + a.end
}

// wsClient is one end of a connection that was upgraded.
type wsClient struct {
	t    testing.TB
	conn *net.TCPConn
	read *bufio.Reader
	sum  io.Writer
	got  wsAnswer
}

const wsPatience = 10 * time.Second

func dialWS(t testing.TB, addr, offer string) (c *wsClient, done func() wsAnswer) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(6 * wsPatience))
	c = &wsClient{t: t, conn: conn.(*net.TCPConn)}
	var b strings.Builder
	b.WriteString("GET /echo HTTP/1.1\r\nHost: shop\r\nX-Key: ada\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
	if offer != "" {
		fmt.Fprintf(&b, "Sec-WebSocket-Extensions: %s\r\n", offer)
	}
	if _, err := io.WriteString(conn, b.String()+"\r\n"); err != nil {
		t.Fatal(err)
	}
	c.read = bufio.NewReaderSize(conn, 64<<10)
	for {
		line, err := c.read.ReadString('\n')
		if err != nil {
			t.Fatalf("reading the response to an upgrade: %q, %v", c.got.head+line, err)
		}
		if !strings.HasPrefix(line, "Date: ") {
			c.got.head += line
		}
		if line == "\r\n" {
			break
		}
	}
	if !strings.HasPrefix(c.got.head, "HTTP/1.1 101 ") {
		t.Fatalf("no upgrade: %s", c.got.head)
	}
	sum := sha256.New()
	c.sum = sum
	return c, func() wsAnswer {
		defer conn.Close()
		for c.got.end == "" {
			c.next()
		}
		sum.Sum(c.got.sum[:0])
		return c.got
	}
}

// next reads a frame, or the end.
func (c *wsClient) next() {
	_ = c.conn.SetReadDeadline(time.Now().Add(wsPatience))
	f, raw, err := readFrame(c.read)
	_, _ = c.sum.Write(raw)
	ne, _ := errors.AsType[net.Error](err)
	switch {
	case err == nil:
		c.got.frames = append(c.got.frames, f)
	case errors.Is(err, syscall.ECONNRESET):
		c.got.end = "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		c.got.end = "end"
	case ne != nil && ne.Timeout():
		c.got.end = fmt.Sprintf("nothing for %v", wsPatience)
	default:
		c.t.Error(err)
		c.got.end = err.Error()
	}
}

// readFrame reads a frame of a server, and returns it as it is too.
func readFrame(r *bufio.Reader) (f wsFrame, raw []byte, err error) {
	take := func(n int) (b []byte) {
		if err == nil {
			at := len(raw)
			raw = slices.Grow(raw, n)[:at+n]
			n, err = io.ReadFull(r, raw[at:])
			raw = raw[:at+n]
			b = raw[at:]
		}
		return b
	}
	head := take(2)
	if err != nil {
		return f, raw, err
	}
	n := int(head[1] & 0x7f)
	f.op, f.rsv, f.more = head[0]&0xf, head[0]>>4&7, head[0]&0x80 == 0
	switch n {
	case 126:
		if b := take(2); err == nil {
			n = int(binary.BigEndian.Uint16(b))
		}
	case 127:
		if b := take(8); err == nil {
			n = int(min(binary.BigEndian.Uint64(b), 64<<20))
		}
	}
	f.payload = string(take(n))
	return f, raw, err
}

// send sends a step, whose end the server may not wait for, and awaits its answers.
func (c *wsClient) send(s wsStep) {
	var whole []byte
	var cuts []int
	for _, f := range s.frames {
		whole = append(whole, f.octets()...)
		cuts = append(cuts, len(whole))
	}
	var pieces [][]byte
	switch {
	case s.chop > 0:
		pieces = slices.Collect(slices.Chunk(whole, s.chop))
	case s.chop == byFrame || s.cut != nil:
		if s.cut != nil {
			cuts = append(slices.Clone(s.cut), len(whole))
		}
		at := 0
		for _, cut := range cuts {
			pieces, at = append(pieces, whole[at:cut]), cut
		}
	default:
		pieces = [][]byte{whole}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i, p := range pieces {
			if s.cut != nil && i > 0 {
				time.Sleep(10 * time.Millisecond) // so that what was sent is read by itself
			}
			if _, err := c.conn.Write(p); err != nil {
				return // the answer tells why
			}
		}
	})
	for want := len(c.got.frames) + s.await; len(c.got.frames) < want && c.got.end == ""; {
		c.next()
	}
}

func (k wsCase) play(t testing.TB, addr string) wsAnswer {
	c, done := dialWS(t, addr, "")
	for _, s := range k.steps {
		c.send(s)
	}
	if !k.ends {
		for pending := len(k.want); c.got.end == "" && len(messages(c.got.frames, nil)) < pending; {
			c.next()
		}
		c.send(wsStep{frames: []wsFrame{closeFrame(1000, "")}})
	}
	a := done()
	if k.ends && a.end == "reset" {
		a.end = "end" // a reset if octets came that the server did not want any more, before it had gone or after
	}
	return a
}

// verdict is what the suite would say of an answer.
func (k wsCase) verdict(a wsAnswer) error {
	got := messages(a.frames, nil)
	if !slices.Equal(got, k.want) {
		return fmt.Errorf("%d messages and pongs, want %d:\n%v", len(got), len(k.want), a)
	}
	return closedBy(a, k.code)
}

func closedBy(a wsAnswer, codes []int) error {
	if codes == nil {
		return nil
	}
	last := wsFrame{}
	if len(a.frames) > 0 {
		last = a.frames[len(a.frames)-1]
	}
	if last.op != wsClose || len(last.payload) < 2 || !slices.Contains(codes, int(binary.BigEndian.Uint16([]byte(last.payload)))) {
		return fmt.Errorf("not closed with %v:\n%v", codes, a)
	}
	return nil
}

// messages are what frames carry; inflate reads those that are compressed.
func messages(frames []wsFrame, inflate func(string) string) (out []string) {
	kind, rsv, text := "", byte(0), strings.Builder{}
	for _, f := range frames {
		switch f.op {
		case wsPong:
			out = append(out, "pong "+f.payload)
			continue
		case wsText, wsBinary:
			kind, rsv = map[byte]string{wsText: "text ", wsBinary: "binary "}[f.op], f.rsv
			text.Reset()
		case 0:
		default:
			continue
		}
		text.WriteString(f.payload)
		if !f.more {
			s := text.String()
			if rsv == 4 && inflate != nil {
				s = inflate(s)
			}
			out = append(out, kind+s)
		}
	}
	return out
}

// compressedCount is how many messages a case of 12 and 13 sends; the suite's send a thousand.
const compressedCount = 6

func (g compressed) message(i, size int) string {
	at := i * size % (len(g.data) - size)
	return g.data[at : at+size]
}

func (g compressed) play(t testing.TB, addr string, size, fragment int) wsAnswer {
	c, done := dialWS(t, addr, g.offer)
	deflate := deflater(c.got.head)
	for i := range compressedCount {
		m := g.message(i, size)
		payload, rsv := m, byte(0)
		if deflate != nil {
			payload, rsv = deflate(m), 4
		}
		frames := fragments(g.op, payload, cmp.Or(fragment, max(len(payload), 1)))
		frames[0].rsv = rsv
		c.send(wsStep{frames: frames})
		for want := i + 1; c.got.end == "" && len(messages(c.got.frames, nil)) < want; {
			c.next()
		}
	}
	c.send(wsStep{frames: []wsFrame{closeFrame(1000, "")}})
	return done()
}

func (g compressed) verdict(a wsAnswer, size int) error {
	if !strings.Contains(a.head, "permessage-deflate") {
		return fmt.Errorf("compression was not agreed on: %s", a.head)
	}
	kind := map[byte]string{wsText: "text ", wsBinary: "binary "}[g.op]
	var want []string
	for i := range compressedCount {
		want = append(want, kind+g.message(i, size))
	}
	if got := messages(a.frames, inflater(a.head)); !slices.Equal(got, want) {
		return fmt.Errorf("%d messages that are not those sent:\n%v", len(got), a)
	}
	return closedBy(a, []int{1000})
}

var emptyBlock = []byte{0, 0, 0xff, 0xff}

// deflater compresses message after message as the response to an offer agrees to; nil: not at all.
func deflater(head string) func(string) string {
	if !strings.Contains(head, "permessage-deflate") {
		return nil
	}
	var bits int
	if _, after, ok := strings.Cut(head, "client_max_window_bits="); ok {
		_, _ = fmt.Sscanf(after, "%d", &bits)
	}
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	if bits > 0 && bits < 15 {
		w, _ = flate.NewWriterWindow(&b, 1<<bits)
	}
	return func(s string) string {
		b.Reset()
		if strings.Contains(head, "client_no_context_takeover") {
			w.Reset(&b)
		}
		_, _ = io.WriteString(w, s)
		_ = w.Flush()
		return string(bytes.TrimSuffix(b.Bytes(), emptyBlock))
	}
}

// inflater reads message after message that a server has compressed.
func inflater(head string) func(string) string {
	var window []byte
	return func(s string) string {
		last := []byte{1, 0, 0, 0xff, 0xff}
		r := flate.NewReaderDict(io.MultiReader(strings.NewReader(s), bytes.NewReader(emptyBlock), bytes.NewReader(last)), window)
		b, err := io.ReadAll(r)
		if err != nil {
			return fmt.Sprintf("what cannot be inflated: %v", err)
		}
		if !strings.Contains(head, "server_no_context_takeover") {
			window = append(window, b...)
			window = window[max(0, len(window)-32<<10):]
		}
		return string(b)
	}
}
