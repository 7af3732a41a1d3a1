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
	waiting []byte
	err     error
	closed  bool
}

func (c *cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waiting) >= corkSize && c.err == nil && !c.closed {
		c.changed.Wait()
	}
	switch {
	case c.err != nil:
		return 0, c.err
	case c.closed:
		return 0, net.ErrClosed
	}
	c.waiting = append(c.waiting, p...)
	c.changed.Broadcast()
	return len(p), nil
}

func (c *cork) flush() {
	defer close(c.done)
	var out []byte
	for {
		if out = c.take(out); out == nil {
			return
		}
		if _, err := c.ReadWriteCloser.Write(out); err != nil {
			c.mu.Lock()
			c.err = err
			c.changed.Broadcast()
			c.mu.Unlock()
			return
		}
	}
}

// take waits for something to write and leaves spare in its place; nil is that nothing will come. While nothing is written
// no memory is held.
func (c *cork) take(spare []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.waiting) == 0 {
		if c.closed {
			return nil
		}
		c.waiting, spare = nil, nil
		c.changed.Wait()
	}
	out := c.waiting
	c.waiting = spare[:0]
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
