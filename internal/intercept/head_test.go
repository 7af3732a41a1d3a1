package intercept

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
)

// parseAt parses b given in two pieces, or in single bytes if at is negative.
func parseAt(parse func([]byte) progress, b []byte, at int) progress {
	if at < 0 {
		for i := 1; i < len(b); i++ {
			if p := parse(b[:i]); p != partial {
				return p
			}
		}
	} else if p := parse(b[:at]); p != partial {
		return p
	}
	return parse(b)
}

func TestAHeadIsUnderstoodInTheSameWayHoweverItComes(t *testing.T) {
	for _, raw := range append([]string{get, odd, post, "HEAD * HTTP/1.0\r\n\r\n"}, smuggling...) {
		var whole, q request
		whole.reset()
		want := whole.parse([]byte(raw))
		for at := -1; at < len(raw); at++ {
			q.reset()
			if got := parseAt(q.parse, []byte(raw), at); got != want || got == complete && (q.size != whole.size || q.length != whole.length) {
				t.Errorf("%q in pieces at %d: got %d, whole %d", raw, at, got, want)
			}
		}
	}
}

// What is understood must be understood by net/http in the same way.
func FuzzRequestHead(f *testing.F) {
	for _, s := range append([]string{get, odd, post, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"}, smuggling...) {
		f.Add([]byte(s), 5)
	}
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		if len(b) > maxHead {
			return
		}
		var q, pieces request
		q.reset()
		pieces.reset()
		got := q.parse(b)
		if at > 0 && at < len(b) {
			if p := parseAt(pieces.parse, b, at); p != got {
				t.Fatalf("in pieces at %d: %d, whole: %d", at, p, got)
			}
		}
		if got != complete {
			return
		}
		for _, fl := range q.fields {
			if fl.name.off < fl.line.off || fl.value.end > fl.line.end || fl.line.end > q.size {
				t.Fatalf("field %+v is outside its line", fl)
			}
		}
		ref, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b[:q.size])))
		if err != nil {
			return // it refuses more, such as targets and Hosts; the origin may too
		}
		isChunked := len(ref.TransferEncoding) == 1 && ref.TransferEncoding[0] == "chunked"
		if isChunked != q.chunked || !isChunked && ref.ContentLength != max(q.length, 0) || ref.ProtoMinor != int(q.minor) {
			t.Errorf("chunked %v, length %d; net/http: %v, %d", q.chunked, q.length, ref.TransferEncoding, ref.ContentLength)
		}
	})
}

func FuzzResponseHead(f *testing.F) {
	for _, s := range []string{ok, "HTTP/1.1 200\r\n\r\n", "HTTP/1.0 304 Not\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 101 S\r\n\r\nx", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"} {
		f.Add([]byte(s), 5)
	}
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		var p, pieces response
		p.reset()
		pieces.reset()
		got := p.parse(b)
		if at > 0 && at < len(b) {
			if pr := parseAt(pieces.parse, b, at); pr != got {
				t.Fatalf("in pieces at %d: %d, whole: %d", at, pr, got)
			}
		}
		if got != complete || p.ambiguous || p.chunked && p.minor == 0 {
			return
		}
		ref, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b[:p.size])), nil)
		if err != nil {
			return
		}
		bd := p.body(otherMethod)
		switch {
		case p.status/100 == 1: // whatever it announces, nothing follows
		case bd.kind == chunked && ref.ContentLength != -1,
			bd.kind == sized && ref.ContentLength != bd.left,
			bd.kind == noBody && ref.ContentLength > 0 && p.status != 304:
			t.Errorf("body %+v; net/http: %v, %d", bd, ref.TransferEncoding, ref.ContentLength)
		}
	})
}

// What is found to be a chunked body must be one to net/http, and the same however it comes.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\nrest", "A;x=\"y\"\r\n0123456789\r\n0\r\nT: 1\r\n\r\n", "1\r\nab\r\n", "5 \r\nhello", "ffffffffffffffff\r\n", "0\r\n\n", "\r\n"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		var whole, pieces chunkScanner
		n, got := whole.scan(b)
		if at > 0 && at < len(b) {
			m, p := pieces.scan(b[:at])
			if p == partial {
				var k int
				k, p = pieces.scan(b[at:])
				m += k
			}
			if m != n || p != got {
				t.Fatalf("in pieces at %d: %d bytes, %d; whole: %d, %d", at, m, p, n, got)
			}
		}
		if got != complete {
			return
		}
		if _, err := io.Copy(io.Discard, httputil.NewChunkedReader(bytes.NewReader(b[:n]))); err != nil && !strings.Contains(err.Error(), "too") {
			t.Errorf("net/http refuses %q: %v", b[:n], err)
		}
	})
}

func TestAnEditedHeadKeepsTheRest(t *testing.T) {
	tests := []struct{ why, head, fallback, want string }{
		{"keep-alive goes", "HTTP/1.1 200 OK\r\nA: 1\r\nconnection: Keep-Alive\r\nB: 2\r\nkeep-alive: timeout=1\r\n\r\n", "", "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nConnection: close\r\n\r\n"},
		{"other options stay", "HTTP/1.1 200 OK\r\nConnection: x-hop\r\n\r\n", "", "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nConnection: close\r\n\r\n"},
		{"close stays alone", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"},
		{"no headers", "HTTP/1.1 200 OK\r\n\r\n", "why", "HTTP/1.1 200 OK\r\nConnection: close\r\nx-dayfly-fallback: why\r\n\r\n"},
	}
	for _, tt := range tests {
		var p response
		p.reset()
		if p.parse([]byte(tt.head)) != complete {
			t.Fatal(tt.why)
		}
		if got := string(p.edited([]byte(tt.head+"body"), tt.fallback, true)); got != tt.want+"body" {
			t.Errorf("%s: got %q", tt.why, got)
		}
	}
}
