package main

import (
	"flag"
	"fmt"
	"net"
	"time"
)

// delay relays TCP connections and holds every byte back for a while, each way, as a long line does. It prints where each comes from.
func delay(args []string) error {
	f := flag.NewFlagSet("delay", flag.ExitOnError)
	from := f.String("listen", "127.0.0.1:0", "address to listen on")
	to := f.String("to", "", "host:port to relay to")
	by := f.Duration("by", 10*time.Millisecond, "for how long, each way")
	if err := f.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *from)
	if err != nil {
		return err
	}
	for {
		near, err := l.Accept()
		if err != nil {
			return err
		}
		far, err := net.Dial("tcp", *to)
		if err != nil {
			near.Close()
			continue
		}
		fmt.Println(near.RemoteAddr())
		go hold(near, far, *by)
		go hold(far, near, *by)
	}
}

// held is what was read at once, and when it may go on.
type held struct {
	due  time.Time
	data []byte
}

const inFlight = 2048 // pieces, of 64 KiB at most, that are on the line at once

func hold(dst, src net.Conn, by time.Duration) {
	line := make(chan held, inFlight)
	go func() {
		defer close(line)
		for {
			buf := make([]byte, 64<<10)
			n, err := src.Read(buf)
			if n > 0 {
				line <- held{time.Now().Add(by), buf[:n:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	broken := false
	for h := range line {
		time.Sleep(time.Until(h.due))
		if _, err := dst.Write(h.data); err != nil && !broken {
			broken = true
			src.Close() // the rest of the line drains
		}
	}
	if w, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
}
