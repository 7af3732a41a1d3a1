package router

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

// One caller that knocks without end leaves places for others, and every place comes back.
func TestCrowdLeavesPlacesForOthers(t *testing.T) {
	c := newCrowd(4, 3)
	var leave []func()
	for i := range 3 {
		l, ok := c.enter(fmt.Sprintf("10.0.0.1:%d", i))
		if !ok {
			t.Fatalf("caller %d found no place", i)
		}
		leave = append(leave, l)
	}
	if _, ok := c.enter("10.0.0.1:9"); ok {
		t.Error("one address took more places than one address may")
	}
	l, ok := c.enter("10.0.0.2:1")
	if !ok {
		t.Fatal("nothing was left for another address")
	}
	if _, ok := c.enter("10.0.0.3:1"); ok {
		t.Error("more places were given than there are")
	}
	for _, l := range append(leave, l, leave[0]) { // twice is once
		l()
	}
	if c.all != 0 || len(c.from) != 0 {
		t.Errorf("places lost: %d, %v", c.all, c.from)
	}
}

// Connections on which nothing is said do not pile up.
func TestSilentConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := newCrowd(10, 2)
	s := &http.Server{ConnState: c.track(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), Handler: http.NotFoundHandler()}
	go s.Serve(l)
	defer s.Close()
	dial := func() net.Conn {
		d := net.Dialer{Timeout: 5 * time.Second}
		conn, err := d.DialContext(context.Background(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		return conn
	}
	answered := func(conn net.Conn) bool {
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return false
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return true
	}
	first, second := dial(), dial()
	third := dial()
	if answered(third) {
		t.Error("a third connection was answered")
	}
	if !answered(first) || !answered(second) {
		t.Error("the first two were not answered")
	}
	for range 100 { // the server notes the end of a connection a moment later
		if answered(dial()) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("places were not given back")
}
