package intercept

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
)

// A script plays both ends of a conversation, one step after the other, so that what one
// end does is seen by the other before the next step: nothing can be held back.
type script struct {
	name string
	why  string
	play func(s *stage)
	not  wayKind // where something else is promised
}

type wayKind uint8

const (
	toOrigin  wayKind = 1 << iota // every byte goes to the origin
	toAll                         // every byte goes to the laptop
	toMatched                     // requests go to the laptop, and what is no request to an origin that is not on stage
)

// stage is where a script is played: directly, or with a router in between.
type stage struct {
	t      testing.TB
	addr   string
	server *net.TCPListener
	peers  []*peer
}

func newStage(t testing.TB, w way) *stage {
	s := &stage{t: t, server: listen(t)}
	s.addr = s.server.Addr().String()
	if w.route != nil {
		origin := s.server
		if w.kind == toMatched {
			origin = listen(t) // dialled if the client is slow to speak
		}
		g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(s.server, w.stream)})
		rt := *w.route
		rt.ID = "r"
		g.apply("1", Listener{Routes: []Route{rt}})
		s.addr = g.addr(1)
	}
	return s
}

func (s *stage) dial() *peer   { return s.add(dialPeer(s.t, s.addr)) }
func (s *stage) accept() *peer { return s.add(acceptPeer(s.t, "server", s.server)) }

func (s *stage) add(p *peer) *peer {
	s.peers = append(s.peers, p)
	return p
}

// open sends the first bytes of a client and has the server read them.
func (s *stage) open(first string) (client, server *peer) {
	s.t.Helper()
	client = s.dial()
	client.send(first)
	server = s.accept()
	server.expect(first)
	return client, server
}

func (s *stage) transcript() string {
	var b strings.Builder
	for i, p := range s.peers {
		fmt.Fprintf(&b, "%s %d:\n%q\n", p.name, i, p.log.String())
	}
	return b.String()
}

// pass sends s from one end and has the other read it.
func pass(from, to *peer, s string) {
	from.t.Helper()
	from.send(s)
	to.expect(s)
}

const (
	get  = "GET /cart?a=1 HTTP/1.1\r\nHost: shop\r\n\r\n"
	ok   = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	odd  = "GET /cart?a=%20b HTTP/1.1\r\nHost: shop\r\nX-B: 2\r\nx-a:1\r\nX-B:  two\t\r\nACCEPT:\r\ncookie: \xe4;,\"\r\nContent-length: 0\r\n\r\n"
	post = "POST /cart HTTP/1.1\r\nHost: shop\r\nContent-Length: 10\r\n\r\n"
)

var scripts = []script{
	{"odd headers keep their bytes", "order, case, spacing, duplicates, obsolete text", func(s *stage) {
		c, o := s.open(odd)
		pass(o, c, "HTTP/1.1 299 Fine, \xe4 thanks\r\nx-Z: 1\r\nX-Y:2\r\nx-z:\t3  \r\ncontent-length: 3\r\n\r\nabc")
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"no reason phrase", "a status line may end after the code, with a space or without", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na")
		pass(c, o, get)
		pass(o, c, "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\na")
	}, 0},
	{"body in pieces", "a sized body is relayed as it comes", func(s *stage) {
		c, o := s.open(post + "01234")
		pass(c, o, "5")
		pass(c, o, "6789")
		pass(o, c, ok)
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"chunked request", "extensions, trailers and odd splits stay", func(s *stage) {
		c, o := s.open("POST / HTTP/1.1\r\nHost: shop\r\ntransfer-encoding:  Chunked\r\nTrailer: x-sum\r\n\r\n")
		for _, piece := range []string{"5;a=b", ";c=\"d\"\r", "\nhel", "lo", "\r", "\n", "00A\r\n0123456789\r\n0;last", "\r\nx-Sum: 1\r", "\nx-B:2\r\n", "\r", "\n"} {
			pass(c, o, piece)
		}
		pass(o, c, ok)
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"chunked response", "each chunk is seen before the next exists; trailers stay", func(s *stage) {
		c, o := s.open(get)
		for _, piece := range []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n", "3;x\r\nab", "c\r\n", "0\r\n", "x-T: 1\r\n", "\r\n"} {
			pass(o, c, piece)
		}
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"sized response in pieces", "as a slow download", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")
		for range 100 {
			pass(o, c, strings.Repeat("x", 2000))
		}
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"event stream", "a response without a length lasts until the origin ends it", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
		pass(o, c, "data: 1\n\n")
		pass(o, c, "data: 2\n\n")
		_ = o.CloseWrite()
		c.expectEnd()
		_ = c.Close()
		o.expectEnd()
	}, 0},
	{"client leaves an event stream", "the origin must notice although it is not writing", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		pass(o, c, "1\r\na\r\n")
		_ = c.Close()
		o.expectEnd()
	}, 0},
	{"100-continue", "the client waits for the interim response", func(s *stage) {
		c, o := s.open("PUT / HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
		pass(o, c, "HTTP/1.1 100 Continue\r\n\r\n")
		pass(c, o, "abc")
		pass(o, c, ok)
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"expectation failed", "the final response comes without the body", func(s *stage) {
		c, o := s.open("PUT / HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
		pass(o, c, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		_ = o.CloseWrite()
		c.expectEnd()
		_ = c.Close()
		o.expectEnd()
	}, 0},
	{"early hints", "interim responses pass as they come, also two in one piece with the final", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
		pass(o, c, "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n"+ok)
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"responses without a body", "HEAD, 204 and 304 announce what does not follow", func(s *stage) {
		c, o := s.open("HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n")
		pass(o, c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
		pass(c, o, "HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n")
		pass(o, c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		pass(c, o, get)
		pass(o, c, "HTTP/1.1 204 No Content\r\n\r\n")
		pass(c, o, get)
		pass(o, c, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n")
		pass(c, o, get)
		pass(o, c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"HTTP/1.0", "ends with the response", func(s *stage) {
		c, o := s.open("GET / HTTP/1.0\r\nHost: shop\r\n\r\n")
		pass(o, c, "HTTP/1.0 200 OK\r\n\r\nhello")
		_ = o.Close()
		c.expectEnd()
	}, 0},
	{"HTTP/1.0 without headers", "there may be none at all", func(s *stage) {
		c, o := s.open("GET / HTTP/1.0\r\n\r\n")
		pass(o, c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		_ = o.Close()
		c.expectEnd()
	}, toMatched},
	{"HTTP/1.0 keep-alive", "persists if both say so", func(s *stage) {
		q := "GET / HTTP/1.0\r\nHost: shop\r\nConnection: Keep-Alive\r\n\r\n"
		c, o := s.open(q)
		pass(o, c, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")
		pass(c, o, q)
		pass(o, c, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_ = o.Close()
		c.expectEnd()
	}, 0},
	{"connection close by the client", "the origin ends it", func(s *stage) {
		c, o := s.open("GET / HTTP/1.1\r\nHost: shop\r\nConnection: foo, Close\r\n\r\n")
		pass(o, c, ok)
		_ = o.Close()
		c.expectEnd()
	}, 0},
	{"connection close by the origin", "the client ends it", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
		_ = c.Close()
		o.expectEnd()
	}, 0},
	{"websocket", "after 101 both directions are bytes, and end one by one", func(s *stage) {
		c, o := s.open("GET /ws HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		pass(o, c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x01a")
		pass(c, o, "\x81\x81\x00\x00\x00\x00b")
		pass(o, c, "\x81\x01c")
		pass(c, o, get)
		_ = c.CloseWrite()
		o.expectEnd()
		pass(o, c, "\x88\x00")
		_ = o.Close()
		c.expectEnd()
	}, 0},
	{"eager upgrade", "bytes of the new protocol may come with the request", func(s *stage) {
		c := s.dial()
		c.send("GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\neager")
		o := s.accept()
		o.expect("GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		o.send("HTTP/1.1 101 Switching\r\n\r\n")
		o.expect("eager")
		c.expect("HTTP/1.1 101 Switching\r\n\r\n")
		pass(c, o, "more")
	}, 0},
	{"refused upgrade", "HTTP goes on", func(s *stage) {
		c, o := s.open("GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
		pass(o, c, ok)
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"CONNECT", "a tunnel after 2xx, HTTP otherwise", func(s *stage) {
		q := "CONNECT db:5432 HTTP/1.1\r\nHost: shop\r\n\r\n"
		c, o := s.open(q)
		pass(o, c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
		pass(c, o, q)
		pass(o, c, "HTTP/1.1 200 Connection established\r\n\r\n")
		pass(c, o, "\x00\x01")
		pass(o, c, "\x02")
		_ = o.CloseWrite()
		c.expectEnd()
		pass(c, o, "late")
		_ = c.Close()
		o.expectEnd()
	}, 0},
	{"early response", "the response is complete while the body still streams, and HTTP goes on after it", func(s *stage) {
		c, o := s.open(post + "01")
		pass(o, c, ok)
		pass(c, o, "234")
		pass(c, o, "56789")
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"early response and end", "the origin refuses the body", func(s *stage) {
		c, o := s.open(post + "01")
		pass(o, c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		_ = o.CloseWrite()
		c.expectEnd()
		pass(c, o, "234")
		_ = c.Close()
		o.expectEnd()
	}, 0},
	{"end after an early response", "without a word before", func(s *stage) {
		c, o := s.open(post + "01")
		pass(o, c, ok)
		_ = o.CloseWrite()
		c.expectEnd()
		_ = c.Close()
		o.expectEnd()
	}, 0},
	{"full duplex", "request and response stream at the same time", func(s *stage) {
		c, o := s.open("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n")
		pass(o, c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for range 10 {
			pass(c, o, "4\r\nping\r\n")
			pass(o, c, "4\r\npong\r\n")
		}
		pass(o, c, "0\r\n\r\n")
		pass(c, o, "0\r\n\r\n")
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"client ends its side after the request", "the origin sees it and can still answer", func(s *stage) {
		c, o := s.open(get)
		_ = c.CloseWrite()
		o.expectEnd()
		pass(o, c, ok)
		_ = o.Close()
		c.expectEnd()
	}, 0},
	{"client ends its side within a body", "the origin sees the cut, and can say so", func(s *stage) {
		c, o := s.open(post + "01")
		_ = c.CloseWrite()
		o.expectEnd()
		pass(o, c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		_ = o.Close()
		c.expectEnd()
	}, 0},
	{"client resets while it waits", "the origin sees a reset", func(s *stage) {
		c, o := s.open(get)
		c.reset()
		o.expectReset()
	}, 0},
	{"client resets within a body", "the origin sees a reset", func(s *stage) {
		c, o := s.open(post + "01")
		c.reset()
		o.expectReset()
	}, 0},
	{"client resets an upgraded connection", "the origin sees a reset", func(s *stage) {
		c, o := s.open("GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		pass(o, c, "HTTP/1.1 101 Switching\r\n\r\n")
		c.reset()
		o.expectReset()
	}, 0},
	{"origin ends within a response", "a cut body is seen as cut", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nabc")
		_ = o.Close()
		c.expectEnd()
	}, 0},
	{"origin ends within a head", "what there was of it is seen", func(s *stage) {
		c, o := s.open(get)
		o.send("HTTP/1.1 200 OK\r\nConte")
		_ = o.Close()
		if got, how := c.rest(); got+how != "HTTP/1.1 200 OK\r\nConteend" {
			s.t.Errorf("client read %q and %s", got, how)
		}
	}, toAll | toMatched},
	{"origin resets within a response", "the client sees a reset", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nabc")
		o.reset()
		c.expectReset()
	}, 0},
	{"origin resets within a large response", "also when the kernel moves the bytes", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, "HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\nabc")
		o.reset()
		c.expectReset()
	}, 0},
	{"client ends an idle connection", "so does the origin's", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, ok)
		_ = c.Close()
		o.expectEnd()
	}, 0},
	{"pipelining", "requests that come together are answered in order", func(s *stage) {
		c := s.dial()
		c.send(get + post + "0123456789" + odd)
		o := s.accept()
		o.expect(get)
		o.send(ok)
		o.expect(post + "0123456789")
		o.send("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
		o.expect(odd)
		o.send(ok)
		c.expect(ok + "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + ok)
	}, 0},
	{"a head in many pieces", "a slow client", func(s *stage) {
		c := s.dial()
		for i := range len(odd) {
			c.send(odd[i : i+1])
		}
		o := s.accept()
		o.expect(odd)
		pass(o, c, ok)
	}, 0},
	{"a response head in many pieces", "a slow origin", func(s *stage) {
		c, o := s.open(get)
		for i := range len(ok) {
			o.send(ok[i : i+1])
		}
		c.expect(ok)
		pass(c, o, get)
	}, 0},
	{"a head of 60 KiB", "large cookies, in both directions", func(s *stage) {
		big := "x-Big: " + strings.Repeat("b", 60<<10) + "\r\n\r\n"
		c, o := s.open(get[:len(get)-2] + big)
		pass(o, c, "HTTP/1.1 204 No\r\n"+big)
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"origin-first protocol", "such as SMTP: the client waits for the greeting", func(s *stage) {
		c := s.dial()
		o := s.accept()
		pass(o, c, "220 mail ESMTP\r\n")
		pass(c, o, "EHLO me\r\n")
		pass(o, c, "250 hi\r\n")
		_ = c.CloseWrite()
		o.expectEnd()
		pass(o, c, "221 bye\r\n")
		_ = o.Close()
		c.expectEnd()
	}, toMatched},
	{"a silent client that speaks at last", "a connection opened in advance", func(s *stage) {
		c := s.dial()
		o := s.accept() // the router has given up waiting
		pass(c, o, get)
		pass(o, c, ok)
		pass(c, o, get)
		pass(o, c, ok)
	}, toMatched},
	{"origin ends before the client has spoken", "such as a server that is full", func(s *stage) {
		c := s.dial()
		o := s.accept()
		_ = o.Close()
		c.expectEnd()
	}, toMatched},
	{"origin resets before the client has spoken", "such as a server that is full", func(s *stage) {
		c := s.dial()
		o := s.accept()
		o.reset()
		c.expectReset()
	}, toAll | toMatched},
	{"a client that only listens", "such as for the time of day", func(s *stage) {
		c := s.dial()
		_ = c.CloseWrite()
		o := s.accept()
		o.expectEnd()
		pass(o, c, "12:00\r\n")
		_ = o.Close()
		c.expectEnd()
	}, toMatched},
	{"a client that only connects", "such as a TCP health check", func(s *stage) {
		c := s.dial()
		_ = c.Close()
		s.accept().expectEnd()
	}, toMatched},
	{"TLS", "is not looked into", func(s *stage) {
		c, o := s.open("\x16\x03\x01\x00\x05hello")
		pass(o, c, "\x16\x03\x03\x00\x02hi")
		pass(c, o, "\x17\x03\x03")
		_ = c.CloseWrite()
		o.expectEnd()
	}, toMatched},
	{"HTTP/2", "with prior knowledge", func(s *stage) {
		c, o := s.open("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		pass(o, c, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		pass(c, o, "\x00\x00\x00\x04\x01\x00\x00\x00\x00")
	}, toMatched},
	{"Redis", "text that looks like a method", func(s *stage) {
		c, o := s.open("PING\r\n")
		pass(o, c, "+PONG\r\n")
		pass(c, o, "*1\r\n$4\r\nPING\r\n")
	}, toMatched},
	{"a word without an end", "could become a request line, but the server may know better", func(s *stage) {
		c, o := s.open("HELLO")
		pass(o, c, "WORLD")
		pass(c, o, "!")
	}, toMatched},
	{"not HTTP any more", "after a request", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, ok)
		pass(c, o, "\r\n")
		pass(c, o, get)
		pass(o, c, ok)
	}, toMatched},
	{"a head above the bound", "is the origin's business", func(s *stage) {
		c := s.dial()
		big := get[:len(get)-2] + "x-Big: " + strings.Repeat("b", 70<<10) + "\r\n\r\n"
		go c.Write([]byte(big))
		o := s.accept()
		o.expect(big)
		pass(o, c, "HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n")
	}, toMatched},
	{"a response head above the bound", "is the client's business", func(s *stage) {
		c, o := s.open(get)
		big := "HTTP/1.1 200 OK\r\nx-Big: " + strings.Repeat("b", 70<<10) + "\r\nContent-Length: 0\r\n\r\n"
		go o.Write([]byte(big))
		c.expect(big)
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"a response that is no HTTP", "HTTP/0.9, or a misdirected client", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, "<html>")
		pass(o, c, "hello")
		_ = o.Close()
		c.expectEnd()
	}, 0},
	{"responses that cannot be framed", "whoever knows better shall read them", func(s *stage) {
		for _, head := range []string{
			"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
			"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
			"HTTP/1.1 200 OK\nContent-Length: 5\n\n",
			"HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\nContent-Length: 5\r\n\r\n",
			"HTTP/1.1 200 OK\r\nX A: 1\r\nContent-Length: 5\r\n\r\n",
			"HTTP/2 200\r\nContent-Length: 5\r\n\r\n",
			"HTTP/1.1 099 No\r\nContent-Length: 5\r\n\r\n",
		} {
			c, o := s.open(get)
			pass(o, c, head)
			pass(o, c, "hello")
			pass(c, o, "whatever")
			pass(o, c, "and so on")
			_ = c.Close()
			o.expectEnd()
		}
	}, 0},
	{"chunks that cannot be framed", "in both directions", func(s *stage) {
		for _, chunk := range []string{"zz\r\nabc", "5 \r\nhello\r\n", "1\nx\n0\n\n", "1\r\nabc\r\n", ";\r\n", "fffffffffffffffff\r\n", "0\r\n bad\r\n\r\n", "0\r\nx:y\n\n", "1;\x00\r\n", "-1\r\n"} {
			c, o := s.open(get)
			pass(o, c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			pass(o, c, chunk)
			pass(o, c, "more")
			pass(c, o, "whatever")
			_ = c.Close()
			o.expectEnd()

			c, o = s.open("POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
			pass(c, o, "more")
			pass(o, c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
			pass(c, o, get)
			pass(o, c, "bye")
			_ = o.Close()
			c.expectEnd()
		}
	}, 0},
	{"more than was asked", "bytes after the end of a response", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, ok+"and more")
		pass(c, o, "what?")
		pass(o, c, "yes")
	}, 0},
	{"origin speaks on an idle connection", "such as 408 before it ends it", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, ok)
		pass(o, c, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
		_ = o.Close()
		c.expectEnd()
	}, toAll | toMatched},
	{"10,000 requests on a connection", "one after the other", func(s *stage) {
		c, o := s.open(get)
		pass(o, c, ok)
		for i := range 10_000 {
			pass(c, o, numbered(i))
			pass(o, c, ok)
		}
	}, 0},
	{"10,000 requests in flight on a connection", "pipelined by a client that does not wait", func(s *stage) {
		c := s.dial()
		go func() {
			for i := range 10_000 {
				_, _ = io.WriteString(c, numbered(i))
			}
		}()
		o := s.accept()
		for i := range 10_000 {
			o.expect(numbered(i))
			o.send(ok)
			if i%100 == 99 {
				c.expect(strings.Repeat(ok, 100))
			}
		}
		c.expectQuiet()
	}, 0},
	{"64 MiB each way", "by splice where there are two sockets", func(s *stage) {
		const size = 64 << 20
		c, o := s.open(fmt.Sprintf("PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n", size))
		passMuch(s.t, c, o, size)
		pass(o, c, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
		passMuch(s.t, o, c, size)
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"16 MiB in chunks each way", "which must be read to find their end", func(s *stage) {
		const size = 1 << 20
		c, o := s.open("PUT / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n")
		pass(o, c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for _, way := range [][2]*peer{{c, o}, {o, c}} {
			for range 16 {
				pass(way[0], way[1], fmt.Sprintf("%x\r\n", size))
				passMuch(s.t, way[0], way[1], size)
				pass(way[0], way[1], "\r\n")
			}
			pass(way[0], way[1], "0\r\n\r\n")
		}
		pass(c, o, get)
		pass(o, c, ok)
	}, 0},
	{"8 MiB until the end", "by a wire", func(s *stage) {
		const size = 8 << 20
		c, o := s.open(get)
		pass(o, c, "HTTP/1.1 200 OK\r\n\r\n")
		passMuch(s.t, o, c, size)
		_ = o.Close()
		c.expectEnd()
	}, 0},
}

// numbered is a request that no other is like; one in four has a body.
func numbered(i int) string {
	if i%4 == 0 {
		return fmt.Sprintf("PUT /cart/%d HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nabc", i)
	}
	return fmt.Sprintf("GET /cart/%d HTTP/1.1\r\nHost: shop\r\n\r\n", i)
}

// passMuch passes size random bytes.
func passMuch(t testing.TB, from, to *peer, size int64) {
	t.Helper()
	seed := [32]byte{1}
	go io.CopyN(struct{ io.Writer }{from}, rand.NewChaCha8(seed), size)
	want, got := rand.NewChaCha8(seed), make([]byte, 256<<10)
	same := make([]byte, len(got))
	for n := int64(0); n < size; n += int64(len(got)) {
		got = got[:min(int64(len(got)), size-n)]
		if _, err := io.ReadFull(to, got); err != nil {
			t.Fatalf("%s: after %d bytes: %v", to.name, n, err)
		}
		_, _ = want.Read(same[:len(got)])
		if string(got) != string(same[:len(got)]) {
			t.Fatalf("%s: other bytes after %d", to.name, n)
		}
	}
}

var (
	matching = Match{Headers: []HeaderMatch{{Name: "Host", Value: "shop"}}}
	missing  = Match{Headers: []HeaderMatch{{Name: "Host", Value: "other"}}}
)

type way struct {
	name   string
	route  *Route // nil: directly
	stream bool   // the tunnel is not a TCP connection
	kind   wayKind
}

// ways are the ways between client and server; nobody may be able to tell them apart.
var ways = []way{
	{name: "direct", kind: toOrigin},
	{name: "not matching", kind: toOrigin, route: &Route{Match: missing}},
	{name: "matching", kind: toMatched, route: &Route{Match: matching}},
	{name: "matching, stream", kind: toMatched, route: &Route{Match: matching}, stream: true},
	{name: "all", kind: toAll, route: &Route{All: true}},
	{name: "all, stream", kind: toAll, route: &Route{All: true}, stream: true},
}

func TestNobodyCanTellTheRouterFromAWire(t *testing.T) {
	for _, sc := range scripts {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			var direct string
			for _, way := range ways {
				if sc.not&way.kind != 0 {
					continue
				}
				t.Run(way.name, func(t *testing.T) {
					s := newStage(t, way)
					sc.play(s)
					if way.route == nil {
						direct = s.transcript()
					} else if got := s.transcript(); got != direct {
						t.Errorf("%s\ndirect:\n%.2000s\nhere:\n%.2000s", sc.why, direct, got)
					}
				})
			}
		})
	}
}

// The bytes that requests are smuggled with. Every one is passed on as it is, and nothing
// after it is taken for a request that a rule could match.
var smuggling = []string{
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
	"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\rTransfer-Encoding: chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\nTransfer-Encoding: chunked\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\n\rContent-Length: 5\r\n\r\n",
	"POST / HTTP/1.1\nHost: a\n\n",
	"POST / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nX\x00: a\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nX-\xc3\xa4: a\r\n\r\n",
	"POST  / HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /  HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST / a HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST / HTTP/1.1 \r\nHost: a\r\n\r\n",
	"POST / HTTP/1.10\r\nHost: a\r\n\r\n",
	"POST / HTTP/1.2\r\nHost: a\r\n\r\n",
	"POST / HTTP/01.1\r\nHost: a\r\n\r\n",
	"POST / http/1.1\r\nHost: a\r\n\r\n",
	"GET /\r\n\r\n",
	"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
	" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"get / HTTP/1.1\r\nHost: a\r\n\r\n",
	"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
	strings.Repeat("A", 40) + " / HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", maxFields) + "\r\n",
}

func TestSmuggledRequestsAreNeverLookedInto(t *testing.T) {
	const hidden = "GET /hidden HTTP/1.1\r\nHost: shop\r\n\r\n"
	origin, laptop := listen(t), listen(t)
	g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(laptop, false)})
	g.apply("1", Listener{Routes: []Route{{ID: "r", Match: matching}}})
	for i, bad := range smuggling {
		c := dialPeer(t, g.addr(1))
		c.send(bad + hidden)
		o := acceptPeer(t, "origin", origin)
		o.expect(bad + hidden)
		pass(c, o, hidden)
		pass(o, c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		_ = o.Close()
		c.expectEnd()
		_ = c.Close()
		if got := g.status().Wired; got != uint64(i+1) {
			t.Errorf("%q is not counted as wired", bad)
		}
	}
	expectNobody(t, laptop)
}
