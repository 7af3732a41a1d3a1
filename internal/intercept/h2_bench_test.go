package intercept

import (
	"encoding/binary"
	"io"
	"net"
	"syscall"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// serveBenchH2 answers every request of every connection with the same headers and 12 bytes.
func serveBenchH2(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			block := newH2Stateless().encode([]hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"}})
			skip := len(h2Preface)
			out := h2Frame{kind: h2Settings}.appendTo(nil)
			var in buffer
			for {
				if skip > 0 && in.len() >= skip {
					in.consume(skip)
					skip = 0
				}
				for skip == 0 && in.len() >= h2HeadSize && in.len() >= h2FrameOf(in.bytes()).size() {
					f := h2FrameOf(in.bytes())
					in.consume(f.size())
					if f.kind == h2Headers {
						out = appendBlock(out, f.stream, false, nil, block)
						out = append(h2Frame{12, h2Data, h2EndStream, f.stream}.appendTo(out), `{"ok": true}`...)
					}
				}
				if _, err := c.Write(out); err != nil {
					return
				}
				out = out[:0]
				if in.fill(c) != nil {
					return
				}
			}
		}()
	}
}

// h2Caller makes one request after the other, with headers that the table has.
type h2Caller struct {
	net.Conn
	id         uint32
	first, all []byte
	in         buffer
	paid       int
}

func newH2Caller(t testing.TB, addr, key string) *h2Caller {
	c := &h2Caller{Conn: benchDial(t, addr), id: 1}
	enc := newH2Encoder(h2DefaultTable)
	fields := []hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: "/shop.Cart/Add"},
		{Name: ":authority", Value: "cart"}, {Name: "content-type", Value: "application/grpc"}, {Name: "user-agent", Value: "grpc-go/1.85.0"},
		{Name: "te", Value: "trailers"}, {Name: "traceparent", Value: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, {Name: "x-key", Value: key}}
	c.first = append(h2Frame{kind: h2Settings}.appendTo([]byte(h2Preface)), appendBlock(nil, 1, true, nil, enc.encode(fields))...)
	c.all = appendBlock(nil, 1, true, nil, enc.encode(fields))
	if _, err := c.Write(c.first); err != nil {
		t.Fatal(err)
	}
	if err := c.await(); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *h2Caller) call() error {
	c.id += 2
	binary.BigEndian.PutUint32(c.all[5:], c.id)
	b := c.all
	if c.paid += 12; c.paid > 4096 {
		b = appendWord(b[:len(b):len(b)], h2WindowUpdate, 0, uint32(c.paid))
		c.paid = 0
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	return c.await()
}

func (c *h2Caller) await() error {
	for {
		for c.in.len() >= h2HeadSize && c.in.len() >= h2FrameOf(c.in.bytes()).size() {
			f := h2FrameOf(c.in.bytes())
			c.in.consume(f.size())
			switch {
			case f.kind == h2Reset || f.kind == h2GoAway:
				return io.ErrUnexpectedEOF
			case f.stream == c.id && f.ends():
				return nil
			}
		}
		if err := c.in.fill(c.Conn); err != nil {
			return err
		}
	}
}

func h2Ways(t testing.TB) [][3]string {
	origin := listen(t)
	go serveBenchH2(origin)
	g := newRig(t, Options{Endpoints: endpoints(origin), DialTunnel: tunnelTo(origin, true)})
	g.apply("1", Listener{Routes: []Route{forLaptop}})
	return [][3]string{{"direct", origin.Addr().String()}, {"router", g.addr(1)}, {"router-tunnel", g.addr(1), "ada"}}
}

// BenchmarkHTTP2 reports the processor time of a call, that of client and server included.
func BenchmarkHTTP2(b *testing.B) {
	for _, conns := range []int{1, 32} {
		for _, way := range h2Ways(b) {
			b.Run(way[0]+map[int]string{1: "/1-connection", 32: "/32-connections"}[conns], func(b *testing.B) {
				callers := make([]*h2Caller, conns)
				for i := range callers {
					callers[i] = newH2Caller(b, way[1], way[2])
				}
				b.ReportAllocs()
				before := processorTime()
				b.ResetTimer()
				done := make(chan error, conns)
				for i, c := range callers {
					go func() {
						for n := i; n < b.N; n += conns {
							if err := c.call(); err != nil {
								done <- err
								return
							}
						}
						done <- nil
					}()
				}
				for range callers {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(processorTime()-before)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

func processorTime() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

// Not parallel: it counts the allocations of the whole process.
func TestANonMatchingHTTP2StreamAllocatesNothing(t *testing.T) {
	c := newH2Caller(t, h2Ways(t)[1][1], "bob")
	n := testing.AllocsPerRun(2000, func() {
		if err := c.call(); err != nil {
			t.Fatal(err)
		}
	})
	if n >= 1 {
		t.Errorf("%v allocations", n)
	}
}
