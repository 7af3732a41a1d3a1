package tunnel

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A router that leaves is succeeded: the laptop calls again at once, and the streams of the old connection go on.
func TestLaptopCallsTheSuccessorOfARouterThatLeaves(t *testing.T) {
	t.Parallel()
	old := newRig(t)
	next := newRigOf(t, old.ca, old.key)
	var left atomic.Bool
	cfg, err := old.key.ClientTLS(old.ca.CertificatePEM())
	must(t, err)
	client := NewClient(ClientOptions{
		Version: "v1", Session: "s", TLS: cfg, Routers: []string{"router-0"}, Serves: []string{"web:80"}, Drain: time.Second,
		Answer: echoing(t),
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			to := old
			if left.Load() {
				to = next
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", to.listener.Addr().String())
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); client.Run(ctx) }()
	defer func() { cancel(); <-done }()
	stream := dialUntil(t, old.server)
	defer stream.Close()
	left.Store(true)
	began := time.Now()
	old.server.Leave()
	second := dialUntil(t, next.server)
	defer second.Close()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the successor was called after %s", took)
	}
	for _, c := range []net.Conn{stream, second} {
		must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
		_, err := c.Write([]byte("x"))
		must(t, err)
		_, err = c.Read(make([]byte, 1))
		must(t, err)
	}
}

// dialUntil opens a stream as soon as the laptop is connected.
func dialUntil(t *testing.T, s *Server) net.Conn {
	t.Helper()
	for range 1000 {
		if c, err := s.Dial(t.Context(), "s", "web:80", &net.TCPAddr{}); err == nil {
			return c
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("the laptop did not connect")
	return nil
}

// echoing answers every route with a process that sends back what it gets.
func echoing(t *testing.T) func(context.Context, string) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go Join(c, c)
		}
	}()
	return func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
}

// After a sleep, a connection counts only if something comes through it; a clock that was merely set ends none.
func TestConnectionsThatDidNotSurviveASleepAreNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sleep{last: time.Now()}
		tick := func(until time.Duration) (now time.Time) {
			for range until / lookEvery {
				time.Sleep(lookEvery)
				now = time.Now()
				s.look(now)
			}
			return now
		}
		now := tick(time.Minute)
		if s.lost(now.Add(-time.Second), now) {
			t.Error("lost without a sleep")
		}
		time.Sleep(8 * time.Hour) // without a look
		heard := time.Now().Add(-time.Minute)
		now = tick(wakeTime + 2*lookEvery)
		if !s.lost(heard, now) {
			t.Error("a connection that has been silent since the laptop woke is not lost")
		}
		if !s.lost(s.woke.Add(stale/2), now) {
			t.Error("what had waited in the kernel was taken for life")
		}
		if s.lost(s.woke.Add(stale*2), now) {
			t.Error("a connection that was heard after the sleep is lost")
		}
	})
}
