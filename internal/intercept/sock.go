package intercept

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// past, as a deadline, wakes whoever is reading.
var past = time.Unix(1, 0)

// readable is what can be seen of a connection without reading from it.
type readable uint8

const (
	unknown readable = iota // not a TCP connection, or a system that cannot tell
	quiet                   // open, nothing to read
	hasData
	ended // its peer has sent FIN
	wasReset
)

// sock looks at a TCP connection while nobody, or somebody else, reads from it.
// Its methods are not for concurrent use.
type sock struct {
	raw syscall.RawConn

	// Arguments and results of look are kept here, and look itself made once,
	// so that looking allocates nothing.
	look  func(fd uintptr)
	state func(fd uintptr)
	buf   [1]byte
	seen  readable
	dead  bool
}

// sockOf returns nil if c is not a TCP connection.
func sockOf(c net.Conn) *sock {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	s := &sock{raw: raw}
	s.look = func(fd uintptr) { s.seen = peek(fd, s.buf[:]) }
	s.state = func(fd uintptr) { s.dead = tcpClosed(fd) }
	return s
}

func (s *sock) peek() readable {
	if s == nil {
		return unknown
	}
	s.seen = wasReset // if it is closed, look is not called
	_ = s.raw.Control(s.look)
	return s.seen
}

// gone reports whether nothing is left of the connection in the kernel: it was
// reset, or both sides have ended it.
func (s *sock) gone() bool {
	if s == nil {
		return false
	}
	s.dead = true
	_ = s.raw.Control(s.state)
	return s.dead
}

// hardClose closes c so that its peer sees a reset.
func hardClose(c net.Conn) {
	switch c := c.(type) {
	case interface{ SetLinger(int) error }:
		_ = c.SetLinger(0)
	case interface{ Reset() error }:
		_ = c.Reset()
	}
	_ = c.Close()
}

func softClose(c net.Conn) { _ = c.Close() }

// closeWrite ends one direction of c. Where that cannot be done it ends both, since
// a peer that is never told of the end waits for ever.
func closeWrite(c net.Conn) {
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite()
		return
	}
	_ = c.Close()
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

func isEnd(err error) bool { return errors.Is(err, io.EOF) }
