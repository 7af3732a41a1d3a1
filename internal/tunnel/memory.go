package tunnel

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/libp2p/go-yamux/v5"
)

// A stream's window is memory that its sender may fill while nobody reads. Each begins with firstWindow; it grows, so that
// one stream can fill a long line, as long as all that the windows of one process have grown by is at most maxGrown. It
// doubles once in a round trip, so the first few begin with more: every one with a share of what is left of maxWider.
const (
	firstWindow = 256 << 10 // as the protocol says
	maxGrown    = 64 << 20
	maxWider    = 16 << 20
	widerShare  = 4
)

var errNoMemory = errors.New("the windows of all streams have grown enough")

// memory is what the windows of all streams of a process have grown by, and have begun wider than they must.
type memory struct{ grown, wider atomic.Int64 }

// widen says by how many bytes the first window of another stream may be wider; narrow gives them back.
func (m *memory) widen() int64 {
	for {
		now := m.wider.Load()
		by := (maxWider - now) / widerShare
		if by < firstWindow {
			return 0
		}
		if m.wider.CompareAndSwap(now, now+by) {
			return by
		}
	}
}

func (m *memory) narrow(by int64) { m.wider.Add(-by) }

// span is handed to a multiplexer for each of its streams.
func (m *memory) span() (yamux.MemoryManager, error) { return &span{of: m}, nil }

// span counts one stream.
type span struct {
	of *memory

	mu    sync.Mutex
	first bool // the first window is taken: every stream has it
	grown int64
	done  bool
}

// ReserveMemory lets the first window be, and every later growth if there is room.
func (s *span) ReserveMemory(size int, _ uint8) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.first {
		s.first = true
		return nil
	}
	if s.done || s.of.grown.Add(int64(size)) > maxGrown {
		if !s.done {
			s.of.grown.Add(-int64(size))
		}
		return errNoMemory
	}
	s.grown += int64(size)
	return nil
}

// ReleaseMemory gives back a part of what was reserved.
func (s *span) ReleaseMemory(size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(int64(size), s.grown)
	s.grown -= n
	s.of.grown.Add(-n)
}

// Done gives everything back.
func (s *span) Done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of.grown.Add(-s.grown)
	s.grown, s.done = 0, true
}
