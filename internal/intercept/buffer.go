package intercept

import (
	"io"
	"sync"
)

// Most heads fit a small buffer, so an idle connection holds no more. A large
// one is had for long heads and for bodies.
const (
	smallBuffer = 8 << 10
	largeBuffer = maxHead
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// buffer holds bytes that were read and not yet passed on. Its zero value holds no memory.
type buffer struct {
	small *[smallBuffer]byte
	large *[largeBuffer]byte
	b     []byte // all of small or large
	r, w  int
}

func (b *buffer) bytes() []byte { return b.b[b.r:b.w] }
func (b *buffer) len() int      { return b.w - b.r }

// consume drops the first n bytes.
func (b *buffer) consume(n int) {
	b.r += n
	if b.r == b.w {
		b.r, b.w = 0, 0
	}
}

// full reports whether the bytes held leave no room for one more, even in a large buffer.
func (b *buffer) full() bool { return b.len() == largeBuffer }

// fill reads once. It makes room first; the caller has made sure there can be some.
func (b *buffer) fill(from io.Reader) error {
	switch {
	case b.b == nil:
		b.small = smallBuffers.Get().(*[smallBuffer]byte)
		b.b = b.small[:]
	case b.w == len(b.b) && b.r > 0:
		b.w = copy(b.b, b.bytes())
		b.r = 0
	case b.w == len(b.b):
		b.grow()
	}
	n, err := from.Read(b.b[b.w:])
	b.w += n
	if n > 0 {
		return nil // an error comes again with the next read
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// filled reports whether the last read could have brought more.
func (b *buffer) filled() bool { return b.w == len(b.b) }

// grow moves to a large buffer.
func (b *buffer) grow() {
	if b.large != nil {
		return
	}
	large := largeBuffers.Get().(*[largeBuffer]byte)
	w := copy(large[:], b.bytes())
	b.release()
	b.large, b.b, b.w = large, large[:], w
}

// release gives the memory back, and forgets what was held.
func (b *buffer) release() {
	if b.small != nil {
		smallBuffers.Put(b.small)
	}
	if b.large != nil {
		largeBuffers.Put(b.large)
	}
	*b = buffer{}
}
