package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// echoUDP sends back what it gets, after its name and a line break, from the address that was asked.
func echoUDP(c *net.UDPConn, name string) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort(append([]byte(name+"\n"), buf[:n]...), from)
		}
	}
}

// askUDP sends one datagram and prints who answered: testapp askudp HOST:PORT [SIZE].
func askUDP(args []string) error {
	if len(args) == 0 {
		return errors.New("askudp HOST:PORT [SIZE]")
	}
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	text := "hello"
	if len(args) > 1 {
		size, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		text = strings.Repeat("x", size)
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
	buf := make([]byte, 64<<10)
	n, err := c.Read(buf)
	if err != nil {
		return err
	}
	by, back, _ := strings.Cut(string(buf[:n]), "\n")
	if back != text {
		return fmt.Errorf("%d bytes came back of %d", len(back), len(text))
	}
	fmt.Println(by)
	return nil
}

// loadUDP sends numbered datagrams, some clients from one socket for good, some from a new one each time, and prints a
// sample for each, until it is told to stop. A datagram that is not answered within a second is lost.
func loadUDP(args []string) error {
	f := flag.NewFlagSet("loadudp", flag.ExitOnError)
	addr := f.String("addr", "", "host:port to send to")
	steady := f.Int("steady", 4, "clients that keep their socket")
	fresh := f.Int("fresh", 4, "clients that take a new socket for each datagram")
	every := f.Duration("every", 10*time.Millisecond, "pause of a client between datagrams")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	go func() { // whoever started this has gone, or has heard enough
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	l := &udpLoader{addr: *addr, every: *every, out: json.NewEncoder(os.Stdout)}
	var wg sync.WaitGroup
	for i := range *steady {
		wg.Go(func() { l.steady(ctx, fmt.Sprint("steady-", i)) })
	}
	for i := range *fresh {
		wg.Go(func() { l.fresh(ctx, fmt.Sprint("fresh-", i)) })
	}
	wg.Wait()
	return nil
}

const lostAfter = time.Second

type udpLoader struct {
	addr  string
	every time.Duration

	mu  sync.Mutex
	out *json.Encoder
}

func (l *udpLoader) print(s sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.out.Encode(s)
}

// fresh asks from a new socket each time, and does not wait for one answer before it asks again.
func (l *udpLoader) fresh(ctx context.Context, name string) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wg.Go(func() {
			s := sample{Client: name, Conn: i, Sent: time.Now().UnixMicro()}
			s.Opened = s.Sent
			c, err := net.Dial("udp", l.addr)
			if err == nil {
				defer c.Close()
				_, err = io.WriteString(c, strconv.Itoa(i))
			}
			if err == nil {
				_ = c.SetReadDeadline(time.Now().Add(lostAfter))
				s.By, _, err = readEcho(c)
			}
			s.Done = time.Now().UnixMicro()
			if err != nil {
				s.Error = err.Error()
			}
			l.print(s)
		})
	}
}

// readEcho reads an answer of echoUDP: who, and what.
func readEcho(c net.Conn) (by, text string, err error) {
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	if err != nil {
		return "", "", err
	}
	by, text, _ = strings.Cut(string(buf[:n]), "\n")
	return by, text, nil
}

// steady asks from one socket, and finds out by their numbers which datagrams were answered.
func (l *udpLoader) steady(ctx context.Context, name string) {
	c, err := net.Dial("udp", l.addr)
	if err != nil {
		l.print(sample{Client: name, Error: err.Error()})
		return
	}
	var mu sync.Mutex
	waiting := map[int]sample{}
	settle := func(i int, by, why string) {
		mu.Lock()
		s, ok := waiting[i]
		delete(waiting, i)
		mu.Unlock()
		if ok {
			s.By, s.Error, s.Done = by, why, time.Now().UnixMicro()
			l.print(s)
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.Close()
	wg.Go(func() {
		for {
			by, text, err := readEcho(c)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if i, wrong := strconv.Atoi(text); err == nil && wrong == nil {
				settle(i, by, "")
			}
		}
	})
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			time.Sleep(lostAfter)
			return
		case <-tick.C:
		}
		now := time.Now().UnixMicro()
		mu.Lock()
		waiting[i] = sample{Client: name, Conn: i, Opened: now, Sent: now}
		mu.Unlock()
		_, err := io.WriteString(c, strconv.Itoa(i))
		if err != nil { // such as the refusal of the datagram before
			_, err = io.WriteString(c, strconv.Itoa(i))
		}
		time.AfterFunc(lostAfter, func() { settle(i, "", "lost") })
	}
}
