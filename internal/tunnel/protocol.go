// Package tunnel carries requests from a router to a laptop through one connection that the laptop made.
//
// The laptop calls; the router opens the streams. From the outside in:
//
//	a byte stream     whatever reaches the router (a WebSocket through the API server, in practice)
//	TLS 1.3           the router shows a certificate of dayfly's authority, the laptop the key of its session
//	yamux             many streams, each with a window of its own: a slow one stalls only itself
//
// The laptop opens the first stream, the control stream: one JSON line of hello, answered by one JSON line of welcome, and
// then a heartbeat line from either side every two seconds. A connection from which nothing at all was read for eight
// seconds is dead, however healthy it looks to TCP; so is one that is silent for a heartbeat's time after this machine slept.
//
// Every other stream is opened by the router: a length-prefixed JSON header says which route it is for and who calls; the
// laptop answers with one byte, 0 when its own process accepted the connection, and from then on the stream is that
// connection; or, if the header says so, it carries the datagrams between one client and that process, each with two bytes of
// length before it. Any other byte is followed by a length-prefixed reason, and the router lets the original answer. The
// router need not wait with the first bytes of a connection: those that follow the header are lost if the process does not accept.
//
// Either side can take its leave without breaking a request: the router opens no more streams, waits for those that are
// open, for the session's drain time at most, and closes the connection. The laptop asks for that with a heartbeat that
// says so, and closes the connection itself if its drain time passes first. A router that leaves says so in the same way:
// the laptop calls its successor, which has the same name, and keeps the old connection until the router closes it.
package tunnel

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-yamux/v5"
)

const (
	beatEvery     = 2 * time.Second
	deadAfter     = 8 * time.Second
	handshakeTime = 10 * time.Second
	answerTime    = 8 * time.Second // for the laptop to say whether its process accepted
	maxLine       = 16 << 10
	maxStreams    = 10_000   // of a router, at the laptop
	maxFromLaptop = 1        // the control stream
	maxFrame      = 64 << 10 // with its header
	frameHeader   = 12       // of yamux
	laptopWindow  = 1 << 20  // that a laptop lets a stream begin with: it has more memory for each than a router
)

// hello is the laptop's first line.
type hello struct {
	Version string   `json:"version"`
	Session string   `json:"session"` // ID: a key alone names no session, for anybody can write another's public key into theirs
	Serves  []string `json:"serves"`  // the routes that this connection answers
}

// welcome is the router's answer.
type welcome struct {
	Version string `json:"version"`
	Router  string `json:"router"`
	Error   string `json:"error,omitempty"`
}

// beat is every later line of the control stream.
type beat struct {
	Bye string `json:"bye,omitempty"` // why the sender closes the connection
	// Leaving, from a laptop: it wants no more streams, and the connection closed when the last has ended. From a router:
	// it goes away, and its successor should be called.
	Leaving bool `json:"leaving,omitempty"`
}

// opening heads every stream that the router opens.
type opening struct {
	Route  string `json:"route"`
	Client string `json:"client"`

	Datagrams bool `json:"datagrams,omitempty"` // what follows are datagrams, see datagramConn
}

// ErrNoTunnel says that no connected laptop answers the route.
var ErrNoTunnel = errors.New("the laptop is not connected")

// RefusedError says that the laptop is connected but its process did not take the connection.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// liveConn notes when something was last read, by a clock that nobody sets.
type liveConn struct {
	net.Conn
	began    time.Time
	lastRead atomic.Int64 // since began
}

func newLiveConn(c net.Conn) *liveConn { return &liveConn{Conn: c, began: time.Now()} }

func (c *liveConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.lastRead.Store(int64(time.Since(c.began)))
	}
	return n, err
}

func (c *liveConn) heard() time.Time { return c.began.Add(time.Duration(c.lastRead.Load())) }

// sleep notices that this machine, or this process, stood still: what its connections lead to may be gone, and nothing
// says so where the network changed meanwhile.
type sleep struct {
	last time.Time // when it was looked at last
	woke time.Time // zero: it never slept
}

const (
	lookEvery = 500 * time.Millisecond
	sleepTime = 3 * time.Second        // without a look is sleep
	stale     = 300 * time.Millisecond // what is read so soon after waking may have waited in the kernel all the time
	wakeTime  = beatEvery + stale + 200*time.Millisecond
)

// look is told the time, every lookEvery. The clock of the machine goes on in its sleep, the one that measures does not;
// a clock that was set looks like sleep, and does no harm.
func (s *sleep) look(now time.Time) {
	if now.Round(0).Sub(s.last.Round(0)) > sleepTime {
		s.woke = now
	}
	s.last = now
}

// lost says whether a connection on which something was heard last at a time has not survived the sleep.
func (s *sleep) lost(heard, now time.Time) bool {
	return !s.woke.IsZero() && now.Sub(s.woke) > wakeTime && heard.Before(s.woke.Add(stale))
}

// muxConfig allows the peer so many streams at once: each may hold a window of memory before anybody reads it.
func muxConfig(incoming uint32) *yamux.Config {
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false // the control stream's heartbeat does this, and counts any byte read as life
	cfg.ConnectionWriteTimeout = deadAfter
	cfg.MaxIncomingStreams = incoming
	cfg.WriteCoalesceDelay = 0
	cfg.ReadBufSize = 64 << 10
	cfg.MaxMessageSize = maxFrame
	cfg.LogOutput = io.Discard
	return cfg
}

// writeBlock and readBlock carry JSON headers: two bytes of length, big-endian, then that many bytes.
func writeBlock(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > maxLine {
		return fmt.Errorf("header of %d bytes is larger than %d", len(data), maxLine)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(data))), data...))
	return err
}

func readBlock(r io.Reader, v any) error {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint16(size[:])
	if int(n) > maxLine {
		return fmt.Errorf("header of %d bytes is larger than %d", n, maxLine)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// keepBeating writes heartbeats to w and reads the peer's from r until the connection is dead, the peer says goodbye or
// stop is closed; in the last case it says goodbye itself. It returns why. When leave is closed it asks for leave, and it
// calls leaving when the peer asks.
func keepBeating(conn *liveConn, w io.Writer, r io.Reader, stop, leave <-chan struct{}, farewell func() string, leaving func()) error {
	said := make(chan error, 1)
	go func() { // ends when the connection is closed, which every caller does next
		for {
			var b beat
			if err := readBlock(r, &b); err != nil {
				said <- fmt.Errorf("the connection ended: %w", err)
				return
			}
			if b.Bye != "" {
				said <- &GoodbyeError{b.Bye}
				return
			}
			if b.Leaving {
				leaving()
			}
		}
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	slept := sleep{last: time.Now()}
	due := time.Now().Add(beatEvery)
	for {
		select {
		case err := <-said:
			return err
		case <-stop:
			_ = writeBlock(w, beat{Bye: farewell()})
			return nil
		case <-leave:
			leave = nil
			if err := writeBlock(w, beat{Leaving: true}); err != nil {
				return fmt.Errorf("the connection ended: %w", err)
			}
		case <-tick.C:
			now, heard := time.Now(), conn.heard()
			slept.look(now)
			if quiet := now.Sub(heard); quiet > deadAfter || slept.lost(heard, now) {
				return fmt.Errorf("nothing was heard for %s", quiet.Round(time.Second))
			}
			if now.Before(due) {
				continue
			}
			due = now.Add(beatEvery)
			if err := writeBlock(w, beat{}); err != nil {
				return fmt.Errorf("the connection ended: %w", err)
			}
		}
	}
}

// GoodbyeError says that the peer closed the connection on purpose, and why.
type GoodbyeError struct{ Reason string }

func (e *GoodbyeError) Error() string { return e.Reason }
