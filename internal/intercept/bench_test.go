package intercept

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
)

const benchGet = "GET /cart?a=1 HTTP/1.1\r\nHost: cart\r\nUser-Agent: Go-http-client/1.1\r\nAccept: application/json\r\n" +
	"Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nX-Request-Id: 8c5a0e1c\r\n\r\n"

var benchGetBytes = []byte(benchGet)

const benchOK = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 12\r\n\r\n{\"ok\": true}"

// serveBench answers every request of every connection, with no more work than that takes.
func serveBench(ln net.Listener, response []byte) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			b := make([]byte, 4096)
			n := 0
			for {
				k, err := c.Read(b[n:])
				if err != nil {
					return
				}
				if n += k; !bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) {
					continue
				}
				n = 0
				if _, err := c.Write(response); err != nil {
					return
				}
			}
		}()
	}
}

// askBench sends a request and reads the response, whose head is not larger than buf.
func askBench(c net.Conn, buf []byte, body int) error {
	if _, err := c.Write(benchGetBytes); err != nil {
		return err
	}
	n := 0
	for {
		k, err := c.Read(buf[n:])
		if err != nil {
			return err
		}
		n += k
		if i := bytes.Index(buf[:n], []byte("\r\n\r\n")); i >= 0 {
			for n -= i + 4; n < body; n += k {
				if k, err = c.Read(buf); err != nil {
					return err
				}
			}
			return nil
		}
	}
}

// benchWays returns the addresses of an origin: its own, behind a router, behind a router that
// sends the requests to it as to a laptop, and behind net/http's proxy.
func benchWays(b testing.TB, response string) [][2]string {
	origin := listen(b)
	go serveBench(origin, []byte(response))
	routed := newRig(b, Options{Endpoints: endpoints(origin)})
	routed.apply("1", Listener{Routes: []Route{{ID: "r", Match: Match{AnyOf: []Match{{Baggage: []BaggageMatch{{"dayfly", "k"}}}, {Headers: []HeaderMatch{{"x-dayfly-session", "k"}}}}}}}})
	tunnelled := newRig(b, Options{Endpoints: endpoints(), DialTunnel: tunnelTo(origin, true)})
	tunnelled.apply("1", Listener{Routes: []Route{{ID: "r", Match: Match{Headers: []HeaderMatch{{"Host", "cart"}}}}}})
	tr := &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true}
	b.Cleanup(tr.CloseIdleConnections)
	proxy := httptest.NewServer(&httputil.ReverseProxy{Transport: tr, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: origin.Addr().String()})
	}})
	b.Cleanup(proxy.Close)
	return [][2]string{{"direct", origin.Addr().String()}, {"router", routed.addr(1)}, {"router-tunnel", tunnelled.addr(1)}, {"ReverseProxy", proxy.Listener.Addr().String()}}
}

// BenchmarkWays reports how many requests each way serves, and the ratio to the direct way.
func BenchmarkWays(b *testing.B) {
	loads := []struct {
		name string
		size int
		run  func(b *testing.B, addr string, body int)
	}{
		{"1-connection", 0, benchSerial},
		{"64-connections", 0, benchParallel},
		{"new-connections", 0, benchNew},
		{"1MiB-responses", 1 << 20, benchSerial},
	}
	for _, load := range loads {
		response, body := benchOK, len(`{"ok": true}`)
		if load.size > 0 {
			response, body = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", load.size, make([]byte, load.size)), load.size
		}
		b.Run(load.name, func(b *testing.B) {
			var direct float64
			for _, way := range benchWays(b, response) {
				b.Run(way[0], func(b *testing.B) {
					b.ReportAllocs()
					load.run(b, way[1], body)
					rate := float64(b.N) / b.Elapsed().Seconds()
					if way[0] == "direct" {
						direct = rate
					}
					b.ReportMetric(rate, "req/s")
					b.ReportMetric(100*rate/direct, "%direct")
				})
			}
		})
	}
}

func benchSerial(b *testing.B, addr string, body int) {
	c, buf := benchDial(b, addr), make([]byte, 64<<10)
	for b.Loop() {
		if err := askBench(c, buf, body); err != nil {
			b.Fatal(err)
		}
	}
}

func benchParallel(b *testing.B, addr string, body int) {
	const conns = 64
	var left atomic.Int64
	left.Store(int64(b.N))
	cs := make([]net.Conn, conns)
	for i := range cs {
		cs[i] = benchDial(b, addr)
	}
	b.ResetTimer()
	done := make(chan error, conns)
	for _, c := range cs {
		go func() {
			buf := make([]byte, 8<<10)
			for left.Add(-1) >= 0 {
				if err := askBench(c, buf, body); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range cs {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

func benchNew(b *testing.B, addr string, body int) {
	buf := make([]byte, 8<<10)
	for b.Loop() {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		if err := askBench(c, buf, body); err != nil {
			b.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetLinger(0) // or ports run out
		_ = c.Close()
	}
}

func benchDial(b testing.TB, addr string) net.Conn {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// Not parallel: it counts the allocations of the whole process.
func TestANonMatchingRequestAllocatesNothing(t *testing.T) {
	ways := benchWays(t, benchOK)
	c, buf := benchDial(t, ways[1][1]), make([]byte, 8<<10)
	n := testing.AllocsPerRun(2000, func() {
		if err := askBench(c, buf, len(`{"ok": true}`)); err != nil {
			t.Fatal(err)
		}
	})
	if n >= 1 {
		t.Errorf("%v allocations", n)
	}
}
