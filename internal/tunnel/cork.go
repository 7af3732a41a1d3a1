package tunnel

import (
	"io"
	"net"
	"sync"
	"time"
)

const (
	corkSize  = 256 << 10   // bytes that may wait before Write blocks
	corkFlush = time.Second // how long Close waits for them to leave
)

// Cork gathers what is written while an earlier write is on its way, and writes it in one. Layers above write in small
// pieces (a WebSocket by 4 KiB, TLS by 16 KiB), and every hop to the laptop would handle each by itself. What finds nothing
// on its way leaves at once. An error of a write shows at the next one. Like rwc, it may be closed while it is written to.
func Cork(rwc io.ReadWriteCloser) io.ReadWriteCloser {
	c := &cork{ReadWriteCloser: rwc, done: make(chan struct{})}
	c.changed.L = &c.mu
	go c.flush()
	return c
}

type cork struct {
	io.ReadWriteCloser
	done chan struct{} // closed when flush has ended

	mu      sync.Mutex
	changed sync.Cond // of what follows
	waiting *corked   // nil: nothing waits
	err     error
	closed  bool
}

// corked is what waits to be written. Buffers are shared by all corks: one has none while nothing is written, and what came by
// growing piece by piece would be copied, and thrown away, again and again.
type corked struct {
	n    int
	data [corkSize]byte
}

var corkBuffers = sync.Pool{New: func() any { return new(corked) }}

func (c *cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 0; ; {
		switch {
		case c.err != nil:
			return n, c.err
		case c.closed:
			return n, net.ErrClosed
		case n == len(p):
			return n, nil
		case c.waiting == nil:
			c.waiting = corkBuffers.Get().(*corked)
			c.waiting.n = 0
			c.changed.Broadcast()
		case c.waiting.n == corkSize:
			c.changed.Wait()
			continue
		}
		k := copy(c.waiting.data[c.waiting.n:], p[n:])
		c.waiting.n += k
		n += k
	}
}

func (c *cork) flush() {
	defer close(c.done)
	for {
		out := c.take()
		if out == nil {
			return
		}
		_, err := c.ReadWriteCloser.Write(out.data[:out.n])
		corkBuffers.Put(out)
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.changed.Broadcast()
			c.mu.Unlock()
			return
		}
	}
}

// take waits for something to write; nil is that nothing will come.
func (c *cork) take() *corked {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.waiting == nil {
		if c.closed {
			return nil
		}
		c.changed.Wait()
	}
	out := c.waiting
	c.waiting = nil
	c.changed.Broadcast()
	return out
}

// Close lets what was written leave, for a second at most, and closes.
func (c *cork) Close() error {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	c.changed.Broadcast()
	c.mu.Unlock()
	if again {
		return net.ErrClosed
	}
	stuck := time.AfterFunc(corkFlush, func() { c.ReadWriteCloser.Close() })
	<-c.done
	if !stuck.Stop() {
		return nil
	}
	return c.ReadWriteCloser.Close()
}
