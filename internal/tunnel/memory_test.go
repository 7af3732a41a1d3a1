package tunnel

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// Callers that do not read stall their own streams and no other, and what a router keeps for them is bounded: a first
// window for each stream, and what all windows may have grown by, or begun wider.
func TestAStalledStreamStallsOnlyItselfAndKeepsLittle(t *testing.T) {
	const stalled = 64
	r := newRig(t)
	r.laptop(r.key, r.ca.CertificatePEM(), program(t, func(c *net.TCPConn) {
		defer c.Close()
		var first [1]byte
		if _, err := io.ReadFull(c, first[:]); err != nil {
			return
		}
		if first[0] == 'e' { // echo
			_, _ = io.Copy(c, c)
			return
		}
		chunk := make([]byte, 64<<10) // more than anybody wants
		for {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	}))
	r.awaitConnected()
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse)
	}
	before := heap()
	for range stalled {
		c := r.dial()
		_, err := c.Write([]byte("x"))
		must(t, err)
		_, err = io.CopyN(io.Discard, c, 8<<20) // read well first, so that the window grows
		must(t, err)
	}
	steady := int64(-1)
	for now := heap(); now-steady > 1<<20 || steady < 0; now = heap() { // until nothing comes any more
		steady = now
		time.Sleep(300 * time.Millisecond)
	}
	grown := steady - before
	t.Logf("%d stalled streams: the heap of router and laptop together grew by %d KiB; windows have grown by %d KiB", stalled, grown>>10, r.server.windows.grown.Load()>>10)
	const each = firstWindow + 192<<10 // the laptop's copying buffer, goroutines and the multiplexer's own are in it
	if most := int64(stalled*each + maxGrown + maxWider + 16<<20); grown > most {
		t.Errorf("the heap grew by %d MiB, at most %d are expected", grown>>20, most>>20)
	}
	if n := r.server.windows.grown.Load(); n > maxGrown {
		t.Errorf("windows have grown by %d bytes, at most %d may be", n, maxGrown)
	}

	if n := r.server.windows.wider.Load(); n > maxWider || n < maxWider/2 {
		t.Errorf("first windows are wider by %d bytes in all, at most %d may be", n, maxWider)
	}

	c := r.dial()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	must(t, sendBack(c, 1<<20))
}

// A stream can carry what its wide first window admits before anybody reads, and gives the room back when it ends.
func TestFirstWindowsAreWideWhileThereIsRoom(t *testing.T) {
	r := newRig(t)
	var sent [64]atomic.Int64
	answer := program(t, func(c *net.TCPConn) {
		_ = c.SetWriteBuffer(4 << 10)
		var which [1]byte
		if _, err := io.ReadFull(c, which[:]); err != nil {
			return
		}
		for chunk := make([]byte, 4<<10); ; sent[which[0]].Add(int64(len(chunk))) {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
	r.laptop(r.key, r.ca.CertificatePEM(), func(ctx context.Context, route string) (net.Conn, error) {
		c, err := answer(ctx, route)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return c, err
	})
	r.awaitConnected()
	var streams []net.Conn
	for i := range sent {
		wider := (maxWider - r.server.windows.wider.Load()) / widerShare
		if wider < firstWindow {
			wider = 0
		}
		c := r.dial()
		streams = append(streams, c)
		_, err := c.Write([]byte{byte(i)})
		must(t, err)
		if i > 0 && i < len(sent)-1 {
			continue
		}
		want := firstWindow + wider // nobody reads
		for end := time.Now().Add(10 * time.Second); sent[i].Load() < want && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
		if n := sent[i].Load(); n < want || n > want+512<<10 { // a little waits in the laptop and its sockets
			t.Errorf("stream %d: the process could send %d KiB, its window is %d KiB", i, n>>10, want>>10)
		}
	}
	if n := r.server.windows.wider.Load(); n > maxWider || n < maxWider/2 {
		t.Errorf("first windows are wider by %d bytes in all", n)
	}
	for _, c := range streams {
		must(t, c.Close())
		must(t, c.(*Stream).Reset())
	}
	if n := r.server.windows.wider.Load(); n != 0 {
		t.Errorf("%d bytes are never given back", n)
	}
}

// sendBack sends n bytes and reads them back.
func sendBack(c net.Conn, n int64) error {
	if _, err := c.Write([]byte("e")); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(make([]byte, n))
		sent <- err
	}()
	if _, err := io.CopyN(io.Discard, c, n); err != nil {
		return err
	}
	return <-sent
}

func TestWindowsGrowTogetherOnlySoFar(t *testing.T) {
	t.Parallel()
	var m memory
	spans := make([]*span, 10)
	for i := range spans {
		s, err := m.span()
		must(t, err)
		spans[i] = s.(*span)
		must(t, spans[i].ReserveMemory(firstWindow, 255)) // every stream has its first
	}
	if n := m.grown.Load(); n != 0 {
		t.Errorf("first windows count as growth: %d", n)
	}
	must(t, spans[0].ReserveMemory(maxGrown, 128))
	if err := spans[1].ReserveMemory(1, 128); err == nil {
		t.Error("windows grow beyond the bound")
	}
	spans[0].ReleaseMemory(10)
	must(t, spans[1].ReserveMemory(10, 128))
	for _, s := range spans {
		s.Done()
		s.Done()
	}
	if n := m.grown.Load(); n != 0 {
		t.Errorf("%d bytes are never given back", n)
	}
	if err := spans[0].ReserveMemory(1, 128); err == nil {
		t.Error("a stream that has ended reserves memory")
	}
}
