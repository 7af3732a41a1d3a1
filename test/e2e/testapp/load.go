package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sample is one request, or one exchange of bytes with the echo port, as its client saw it. Times are microseconds since
// the epoch; the machines of the test cluster share one clock.
type sample struct {
	Client string `json:"c"`
	Conn   int    `json:"n"`           // counts the client's connections
	Opened int64  `json:"o"`           // when the connection was asked for
	Sent   int64  `json:"s"`           // when the request was begun; 0: the connection never came to be
	Done   int64  `json:"d"`           // when it was answered, or failed
	Key    bool   `json:"k,omitempty"` // it carried the routing key
	By     string `json:"by,omitempty"`
	Via    string `json:"via,omitempty"`   // the address that whoever answered saw, if it was not the client's own
	Close  bool   `json:"close,omitempty"` // the response asks to open another connection for the next request
	Ended  string `json:"ended,omitempty"` // the idle connection before this one was ended by the other side: eof or reset
	Error  string `json:"err,omitempty"`
}

// load runs clients that never repeat a request and prints a sample as one line of JSON for each, until it is told to stop.
func load(args []string) error {
	f := flag.NewFlagSet("load", flag.ExitOnError)
	l := &loader{}
	f.StringVar(&l.http, "http", "", "host:port to send requests to")
	f.StringVar(&l.echo, "echo", "", "host:port to exchange bytes with; empty: none")
	f.StringVar(&l.key, "key", "", "routing key of every second request")
	keepAlive := f.Int("keepalive", 32, "clients that keep their connection; every second one only for a while")
	fresh := f.Int("fresh", 1, "clients that open a connection for every request")
	f.DurationVar(&l.every, "every", 50*time.Millisecond, "pause of a client between requests")
	f.DurationVar(&l.timeout, "timeout", 10*time.Second, "for opening a connection, and for a response")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	go func() { // whoever started this has gone, or has heard enough
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	l.out = json.NewEncoder(os.Stdout)
	var wg sync.WaitGroup
	for i := range *keepAlive {
		life := 0
		if i%2 == 1 {
			life = 60
		}
		wg.Go(func() { l.requests(ctx, fmt.Sprintf("keepalive-%d", i), life) })
	}
	for i := range *fresh {
		wg.Go(func() { l.requests(ctx, fmt.Sprintf("fresh-%d", i), 1) })
	}
	if l.echo != "" {
		wg.Go(func() { l.echoes(ctx, "echo-long", 0) })
		wg.Go(func() { l.echoes(ctx, "echo-fresh", 1) })
	}
	wg.Wait()
	return nil
}

type loader struct {
	http, echo, key string
	every, timeout  time.Duration

	mu  sync.Mutex // one sample is one line
	out *json.Encoder
}

func (l *loader) print(s sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.out.Encode(s)
}

func micros() int64 { return time.Now().UnixMicro() }

// pause waits until the client's next turn; it reports false when there is none.
func (l *loader) pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(l.every/2 + rand.N(l.every)):
		return true
	}
}

// requests is one client. It opens a connection of its own accord after life requests (0: never), and when it was asked to
// or finds an idle connection ended, as a client must. It never sends a request twice.
func (l *loader) requests(ctx context.Context, name string, life int) {
	var c *httpConn
	defer func() { c.close() }()
	number, left, ended := 0, 0, ""
	for turn := 0; l.pause(ctx); turn++ {
		if c != nil {
			if ended = idleEnd(c.conn); ended != "" {
				c.close()
				c = nil
			}
		}
		if c == nil {
			number++
			left = life
			if life > 1 {
				left = life/2 + rand.N(life)
			}
		}
		s := sample{Client: name, Conn: number, Key: turn%2 == 1, Ended: ended}
		ended = ""
		var err error
		if c == nil {
			s.Opened = micros()
			if c, err = l.open(ctx, s.Opened); err != nil {
				s.Done, s.Error = micros(), "opening: "+kindOf(err)
				l.print(s)
				continue
			}
		}
		s.Opened, s.Sent = c.opened, micros()
		err = c.exchange(&s, l.http, l.key, l.timeout, left == 1)
		s.Done = micros()
		if err != nil {
			s.Error = kindOf(err)
		}
		left--
		if err != nil || s.Close || left == 0 {
			c.close()
			c = nil
		}
		l.print(s)
	}
}

type httpConn struct {
	conn   *net.TCPConn
	read   *bufio.Reader
	opened int64
}

func (l *loader) open(ctx context.Context, opened int64) (*httpConn, error) {
	conn, err := (&net.Dialer{Timeout: l.timeout, KeepAlive: -1}).DialContext(context.WithoutCancel(ctx), "tcp", l.http)
	if err != nil {
		return nil, err
	}
	return &httpConn{conn.(*net.TCPConn), bufio.NewReader(conn), opened}, nil
}

func (c *httpConn) close() {
	if c != nil {
		c.conn.Close()
	}
}

// exchange posts a body and reads who answered.
func (c *httpConn) exchange(s *sample, host, key string, timeout time.Duration, last bool) error {
	body := bytes.Repeat([]byte("dayfly "), 1+rand.N(400))
	var head strings.Builder
	fmt.Fprintf(&head, "POST /load HTTP/1.1\r\nHost: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n", host, len(body))
	if s.Key {
		fmt.Fprintf(&head, "X-Dayfly-Session: %s\r\n", key)
	}
	if last {
		head.WriteString("Connection: close\r\n")
	}
	head.WriteString("\r\n")
	_ = c.conn.SetDeadline(time.Now().Add(timeout))
	if _, err := c.conn.Write(append([]byte(head.String()), body...)); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	resp, err := http.ReadResponse(c.read, &http.Request{Method: http.MethodPost})
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	defer resp.Body.Close()
	var r reply
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return fmt.Errorf("reading the body of a %s: %w", resp.Status, err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if r.BodyBytes != int64(len(body)) {
		return fmt.Errorf("%d bytes of %d arrived", r.BodyBytes, len(body))
	}
	s.By, s.Close, s.Via = r.ServedBy, resp.Close, hostOf(r.Peer)
	if s.Via == hostOf(c.conn.LocalAddr().String()) {
		s.Via = ""
	}
	return nil
}

func hostOf(hostport string) string {
	h, _, _ := net.SplitHostPort(hostport)
	return h
}

// idleEnd says whether the other side has ended a connection on which nothing is under way: eof, reset, or "" if not.
func idleEnd(c *net.TCPConn) string {
	raw, err := c.SyscallConn()
	if err != nil {
		return "reset"
	}
	end := ""
	_ = raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch {
		case err == nil && n == 0:
			end = "eof"
		case err != nil && err != syscall.EAGAIN:
			end = "reset"
		}
		return true
	})
	return end
}

// echoes is one client of the echo port: the server says its name, then sends back what it gets.
func (l *loader) echoes(ctx context.Context, name string, life int) {
	var conn net.Conn
	var read *bufio.Reader
	number, left := 0, 0
	var opened int64
	by := ""
	for l.pause(ctx) {
		s := sample{Client: name}
		var err error
		if conn == nil {
			number++
			left, opened = life, micros()
			if conn, err = (&net.Dialer{Timeout: l.timeout}).DialContext(context.WithoutCancel(ctx), "tcp", l.echo); err == nil {
				read = bufio.NewReader(conn)
				_ = conn.SetDeadline(time.Now().Add(l.timeout))
				by, err = read.ReadString('\n')
			}
		}
		s.Conn, s.Opened, s.By = number, opened, strings.TrimSpace(by)
		if err == nil {
			s.Sent = micros()
			err = bounce(conn, read, l.timeout)
		}
		s.Done = micros()
		if err != nil {
			s.Error = kindOf(err)
		}
		left--
		if conn != nil && (err != nil || left == 0) {
			conn.Close()
			conn = nil
		}
		l.print(s)
	}
}

func bounce(conn net.Conn, read *bufio.Reader, timeout time.Duration) error {
	line := fmt.Sprintf("%d\n", rand.Uint64())
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(conn, line); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	got, err := read.ReadString('\n')
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if got != line {
		return errors.New("other bytes came back")
	}
	return nil
}

// kindOf names an error so that equal ones can be counted.
func kindOf(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.EPIPE):
		return "broken pipe"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return "no route to host"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "eof"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return err.Error()
}
