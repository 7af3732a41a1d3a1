package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// longway makes two network devices; what is sent into one comes out of the other after a while. They go with the process.
func longway(args []string) error {
	f := flag.NewFlagSet("longway", flag.ExitOnError)
	by := f.Duration("by", 50*time.Millisecond, "for how long a frame is on its way")
	if err := f.Parse(args); err != nil {
		return err
	}
	var ends [2]*os.File
	for i := range ends {
		var err error
		if ends[i], err = tap(f.Arg(i)); err != nil {
			return fmt.Errorf("making device %q: %w", f.Arg(i), err)
		}
	}
	fmt.Println("ready")
	ended := make(chan error, 2)
	go func() { ended <- carry(ends[1], ends[0], *by) }()
	go func() { ended <- carry(ends[0], ends[1], *by) }()
	return <-ended
}

func tap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func carry(dst, src *os.File, by time.Duration) error {
	line := make(chan held, 8*inFlight)
	go func() {
		for h := range line {
			time.Sleep(time.Until(h.due))
			_, _ = dst.Write(h.data) // what nobody takes is lost, as on any line
		}
	}()
	for {
		buf := make([]byte, 2<<10)
		n, err := src.Read(buf)
		if err != nil {
			return fmt.Errorf("reading from %s: %w", src.Name(), err)
		}
		line <- held{time.Now().Add(by), buf[:n:n]}
	}
}
