package intercept

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"
)

// large is more than a signed or 32-bit count holds.
const large = 2<<30 + 1

// A body of more than 2 GiB arrives whole, sized or as one chunk, and takes no more memory than a small one. Not parallel:
// the memory of the whole process is what it looks at.
func TestBodiesOf2GiBArriveWholeInBoundedMemory(t *testing.T) {
	for _, way := range ways {
		if way.kind == toAll || way.name == "matching" { // the kernel moves the bytes, as where nothing matches
			continue
		}
		t.Run(way.name, func(t *testing.T) {
			s := newStage(t, way)
			c, o := s.open(fmt.Sprintf("PUT / HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n", large))
			begun, grown := time.Now(), growth()
			pour(t, c, o, large)
			pass(o, c, fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", large))
			pour(t, o, c, large)
			pass(o, c, "\r\n0\r\n\r\n")
			most := grown()
			pass(c, o, get)
			pass(o, c, ok)
			t.Logf("%.0f MB/s, at most %.1f MB more in use", 2*large/time.Since(begun).Seconds()/1e6, float64(most)/1e6)
			if most > 8<<20 {
				t.Errorf("%d bytes of memory were taken for it", most)
			}
		})
	}
}

// growth watches how much memory is in use, and returns a function that tells by how much it was more at most. What is no longer used and not
// yet collected does not count: that depends on how busy the machine is.
func growth() func() int64 {
	use := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	read := func() int64 {
		runtime.GC()
		metrics.Read(use)
		return int64(use[0].Value.Uint64() + use[1].Value.Uint64())
	}
	before, most := read(), int64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.Tick(50 * time.Millisecond); ; {
			select {
			case <-stop:
				return
			case <-tick:
				most = max(most, read()-before)
			}
		}
	}()
	return func() int64 {
		close(stop)
		<-stopped
		return most
	}
}

// sea is what pour pours, twice, so that what begins anywhere in it goes on as if there were no end.
var sea = func() []byte {
	b := make([]byte, 1<<20+7) // no divisor of anybody's buffer
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return bytes.Repeat(b, 2)
}()

// pour passes size bytes that are checked at the speed of memory, unlike passMuch's.
func pour(t testing.TB, from, to *peer, size int64) {
	t.Helper()
	_ = from.SetDeadline(time.Now().Add(10 * patience))
	_ = to.SetDeadline(time.Now().Add(10 * patience))
	period := int64(len(sea) / 2)
	go func() {
		for n := int64(0); n < size; {
			k, err := from.Write(sea[:min(period, size-n)])
			if n += int64(k); err != nil {
				return // the reader tells
			}
		}
	}()
	got := make([]byte, 256<<10)
	for n := int64(0); n < size; n += int64(len(got)) {
		got = got[:min(int64(len(got)), size-n)]
		if _, err := io.ReadFull(to, got); err != nil {
			t.Fatalf("%s: after %d bytes: %v", to.name, n, err)
		}
		if at := n % period; !bytes.Equal(got, sea[at:at+int64(len(got))]) {
			t.Fatalf("%s: other bytes after %d", to.name, n)
		}
	}
}

// The windows of HTTP/2 are counted in 31 bits, which such a body fills once; here one there and one back share a connection.
func TestHTTP2BodiesOf2GiBArriveWholeInBoundedMemory(t *testing.T) {
	g := newH2Rig(t, true)
	for _, way := range []struct{ name, key, by string }{{"not matching", "", "origin"}, {"matching", "ada", "laptop"}} {
		t.Run(way.name, func(t *testing.T) {
			c := h2Client(t, g.addr(1))
			begun, grown := time.Now(), growth()
			back := ask(t, c, "GET", fmt.Sprintf("/bytes?n=%d", large), way.key, nil)
			defer back.Body.Close()
			var wg sync.WaitGroup
			wg.Go(func() {
				if n, err := io.Copy(io.Discard, back.Body); n != large || err != nil || back.Header.Get("X-Name") != way.by {
					t.Errorf("%d bytes from %s, %v", n, back.Header.Get("X-Name"), err)
				}
			})
			there := ask(t, c, "POST", "/count", way.key, io.LimitReader(zeros{}, large))
			if got := text(t, there); got != fmt.Sprint(large) || there.Header.Get("X-Name") != way.by {
				t.Errorf("%s got %s bytes, want %d", there.Header.Get("X-Name"), got, large)
			}
			wg.Wait()
			most := grown()
			t.Logf("%.0f MB/s, at most %.1f MB more in use, by client and server too", 2*large/time.Since(begun).Seconds()/1e6, float64(most)/1e6)
			if most > 32<<20 {
				t.Errorf("%d bytes of memory were taken for it", most)
			}
		})
	}
	if s := g.status(); s.Origin != 2 || s.Routes[0].Requests != 2 {
		t.Errorf("counted %+v", s)
	}
}
