package intercept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// A flood of one captured Service neither takes the places of another nor of other callers of its own.
func TestAFloodOfOneServiceLeavesRoomForOthers(t *testing.T) {
	const most = 90
	origin := echoing(t)
	doors := map[int]string{}
	r, err := New(Options{
		MaxConns: most, Endpoints: func(string) []netip.AddrPort { return []netip.AddrPort{origin} },
		Listen: func(port int) (net.Listener, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				doors[port] = l.Addr().String()
			}
			return l, err
		},
	})
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r.Close(ctx)
	})
	must(t, r.Apply(t.Context(), Table{Version: "1", Listeners: []Listener{{Port: 1, Service: "shop/flooded", Origin: "o"}, {Port: 2, Service: "shop/quiet", Origin: "o"}}}))

	flood := func(port int, from string) (in int) {
		for range most {
			if _, err := said(t, from, doors[port]); err == nil {
				in++
			} else if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
				t.Fatalf("turned away with %v, not with a reset", err)
			}
		}
		return in
	}
	if in := flood(1, "127.0.0.2"); in != most/3 {
		t.Errorf("one caller holds %d of %d places, want a third", in, most)
	}
	if _, err := said(t, "127.0.0.3", doors[1]); err != nil {
		t.Errorf("another caller of the flooded service: %v", err)
	}
	for i := range 100 {
		flood(1, fmt.Sprintf("127.0.1.%d", i+1))
		if open := r.Status().Listeners[0].Open; open >= most/2 {
			break
		}
	}
	s := r.Status()
	if open := s.Listeners[0].Open; open > most/2 {
		t.Errorf("many callers hold %d of %d places at one service, want half", open, most)
	}
	if s.Listeners[0].Crowded == 0 {
		t.Error("those turned away are not counted")
	}
	for i := range most / 6 {
		if _, err := said(t, "127.0.0.2", doors[2]); err != nil {
			t.Fatalf("connection %d to the other service: %v", i, err)
		}
	}
	if c := r.Status().Listeners[1].Crowded; c != 0 {
		t.Errorf("%d callers of the other service were turned away", c)
	}
}

func TestRoomIsWhatFilesAllow(t *testing.T) {
	for files, want := range map[uint64]int{0: 1, 1024: 1, 1024 + 6*100: 100, 1 << 20: mostConns, 1 << 62: mostConns} {
		if got := roomFor(files); got != want {
			t.Errorf("%d files: room for %d, want %d", files, got, want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// said connects from an address and waits until the origin has answered a line; the connection stays open.
func said(t *testing.T, from, to string) (net.Conn, error) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	c, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("\x00hello\n")); err != nil {
		return nil, err
	}
	var b [7]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return nil, err
	}
	return c, nil
}

// echoing is a server that sends back what it gets.
func echoing(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}
