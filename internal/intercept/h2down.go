package intercept

import (
	"sync"
	"sync/atomic"
)

// h2Down is the way to the client. Whoever holds the lock writes whole frames.
type h2Down struct {
	sync.Mutex
	buf     []byte     // what goes to the client before what is at hand in conn.out
	enc     *h2Encoder // of blocks that come from laptops
	scratch []byte
	blocked []blockedFrame // that wait for credit of the client, and what must not pass them
	ids     map[uint32]int // how many of blocked each stream has
	heads   int            // how many of blocked are header blocks of the origin
	held    int            // bytes in blocked that came from the origin
	stuck   atomic.Bool    // blocked is not empty
	space   chan struct{}  // tells the origin's reader that held has shrunk

	greeted chan struct{} // closed when the client has the origin's first frame, its SETTINGS
	left    int           // bytes to come of the payload of the origin's frame that is being passed on
	block   bool          // the origin's header block is not complete
}

// blockedFrame is a frame for the client that has to wait.
type blockedFrame struct {
	b []byte
	s *diverted // whose it is; nil: the origin's
}

// relayDown reads the origin until it ends.
func (e *h2) relayDown() ending {
	how := e.readOrigin()
	if how == endReset {
		e.fail()
	}
	return how
}

func (e *h2) readOrigin() ending {
	out, down := &e.c.out, &e.down
	locked := false
	defer func() {
		if locked {
			down.Unlock()
		}
	}()
	for {
		if out.len() > 0 {
			if !locked {
				e.lockDown()
				locked = true
			}
			if e.wired.Load() {
				return e.pumpDown()
			}
			if e.takeOut() != nil {
				return endReset
			}
			if down.left == 0 && !down.block {
				down.Unlock()
				locked = false
				e.awaitHeld(maxHeldDown)
			}
		}
		if out.filled() {
			out.grow()
		}
		switch err := out.fill(e.origin); {
		case err == nil:
		case isEnd(err):
			if !locked {
				e.lockDown()
			}
			locked = false
			return e.originEnd()
		default:
			return endReset
		}
	}
}

// pumpDown is a wire. The lock is held.
func (e *h2) pumpDown() ending {
	if e.writeDown(nil) != nil || pump(e.c.client, e.origin.Conn, &e.c.out) != srcEnded {
		return endReset
	}
	closeWrite(e.c.client)
	return endClose
}

// originEnd passes on the end of the origin, once the laptops have answered what they have if the
// origin has said good-bye before. It is called with the lock, and gives it back.
func (e *h2) originEnd() ending {
	out := &e.c.out
	err := e.writeDown(out.bytes())
	out.consume(out.len())
	e.down.Unlock()
	if err != nil {
		return endReset
	}
	e.awaitLaptops()
	e.awaitHeld(1)
	e.down.Lock()
	defer e.down.Unlock()
	closeWrite(e.c.client)
	return endClose
}

// lockDown takes the lock between two frames, with the small frames that wait already in buf.
func (e *h2) lockDown() {
	down := &e.down
	down.Lock()
	if !e.isGreeted() {
		return
	}
	e.mu.Lock()
	down.buf = append(down.buf[:0], e.control...)
	e.control = e.control[:0]
	e.mu.Unlock()
	if down.stuck.Load() {
		e.unblock()
	}
}

// writeDown writes to the client what was put together for it, and then b.
func (e *h2) writeDown(b []byte) error {
	down := &e.down
	if len(down.buf) > 0 {
		b = append(down.buf, b...)
		down.buf = b[:0]
		if cap(b) > 2*largeBuffer {
			down.buf = nil
		}
	}
	if len(b) == 0 {
		return nil
	}
	_, err := e.c.client.Write(b)
	return err
}

// takeOut passes on what conn.out holds: as it is, or once laptops speak too, in whole frames and
// as the client's credit allows.
func (e *h2) takeOut() error {
	out, down := &e.c.out, &e.down
	b := out.bytes()
	mixed := e.mixed.Load()
	run, i := 0, 0 // b[run:i] is for the client as it is
	for i < len(b) {
		if down.left > 0 {
			n := min(down.left, len(b)-i)
			down.left -= n
			i += n
			continue
		}
		rest := b[i:]
		if len(rest) < h2HeadSize {
			break
		}
		f := h2FrameOf(rest)
		whole := len(rest) >= f.size()
		if !whole && f.size() <= largeBuffer && (mixed || f.kind == h2Settings || f.kind == h2GoAway) {
			break
		}
		e.noteDown(f, rest, whole)
		switch {
		case !whole || !mixed && f.kind != h2GoAway:
			e.spend(f)
			i += h2HeadSize
			down.left = f.length
		case f.kind == h2GoAway:
			down.buf = e.originGoAway(append(down.buf, b[run:i]...), rest[:f.size()])
			i += f.size()
			run = i
		default:
			down.buf = e.admit(append(down.buf, b[run:i]...), f, rest[:f.size()], nil)
			i += f.size()
			run = i
		}
	}
	err := e.writeDown(b[run:i])
	if out.consume(i); i > 0 && !e.isGreeted() {
		close(down.greeted)
	}
	return err
}

func (e *h2) isGreeted() bool {
	select {
	case <-e.down.greeted:
		return true
	default:
		return false
	}
}

// awaitGreeting keeps everybody else from speaking to the client before the origin has.
func (e *h2) awaitGreeting() bool {
	select {
	case <-e.down.greeted:
		return true
	case <-e.ctx.Done():
		return false
	}
}

// noteDown takes note of a frame of the origin, of which b has all if whole.
func (e *h2) noteDown(f h2Frame, b []byte, whole bool) {
	switch f.kind {
	case h2Headers, h2PushPromise:
		e.down.block = !f.has(h2EndHeaders)
		e.mu.Lock()
		e.clientTable.change = false // it has told the client, if there was a change
		e.mu.Unlock()
	case h2Continuation:
		e.down.block = e.down.block && !f.has(h2EndHeaders)
	case h2Settings:
		if whole {
			e.originSettings(f, b[h2HeadSize:f.size()])
		}
	}
	e.note(f, byOrigin)
}

func (e *h2) originSettings(f h2Frame, payload []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f.has(h2Ack) {
		e.clientTable.acknowledged()
		return
	}
	settings(payload, func(id uint16, v uint32) {
		switch id {
		case h2HeaderTableSize:
			e.originTable, e.mostTable = min(e.originTable, v), max(e.mostTable, v)
		case h2MaxFrameSize:
			e.originFrame = max(e.originFrame, int(min(v, 1<<24)))
		case h2InitialWindowSize:
			more := int64(v) - e.originStream
			e.originStream = int64(v)
			for _, s := range e.diverted {
				if s != nil {
					s.credit += more
				}
			}
		}
	})
}

// spend takes a DATA frame that is passed on in any case off the client's credit.
func (e *h2) spend(f h2Frame) {
	if f.kind != h2Data {
		return
	}
	e.mu.Lock()
	e.window -= int64(f.length)
	e.mu.Unlock()
}

// admit appends to dst the frame b for the client, whose head is f, or keeps of it what must wait.
// Header blocks of the origin keep their order, since each may refer to those before; s is nil
// for them, else the stream at a laptop whose frame this is.
func (e *h2) admit(dst []byte, f h2Frame, b []byte, s *diverted) []byte {
	down := &e.down
	head := s == nil && (f.kind == h2Headers || f.kind == h2Continuation || f.kind == h2PushPromise)
	if !down.stuck.Load() || down.ids[f.stream] == 0 && !(head && down.heads > 0) {
		if f.kind != h2Data {
			return append(dst, b...)
		}
		if !down.stuck.Load() {
			if dst, b = e.admitData(dst, b, s); b == nil {
				return dst
			}
		}
	}
	down.blocked = append(down.blocked, blockedFrame{append([]byte(nil), b...), s})
	down.ids[f.stream]++
	if head {
		down.heads++
	}
	if s == nil {
		down.held += len(b)
	}
	down.stuck.Store(true)
	return dst
}

// admitData appends to dst what the client's credit allows of the DATA frame b, and returns the rest.
func (e *h2) admitData(dst, b []byte, s *diverted) (out, rest []byte) {
	n := h2FrameOf(b).length
	e.mu.Lock()
	defer e.mu.Unlock()
	took := n
	if int64(n) <= e.window || n == 0 {
		dst = append(dst, b...)
		b = nil
	} else if e.window > 0 {
		dst, b, took = splitData(dst, b, int(e.window))
	} else {
		took = 0
	}
	e.window -= int64(took)
	if s != nil {
		e.owed += int64(took)
		s.d.taken(took)
	}
	return dst, b
}

// unblock appends to buf what waits, as far as the client's credit goes now.
func (e *h2) unblock() {
	down := &e.down
	for i := range down.blocked {
		bf := &down.blocked[i]
		f := h2FrameOf(bf.b)
		was := len(bf.b)
		switch {
		case e.isDropped(bf.s):
			e.mu.Lock()
			if f.kind == h2Data {
				bf.s.d.taken(f.length)
			}
			e.mu.Unlock()
			bf.b = nil
		case f.kind != h2Data:
			down.buf = append(down.buf, bf.b...)
			bf.b = nil
		default:
			down.buf, bf.b = e.admitData(down.buf, bf.b, bf.s)
		}
		if bf.s == nil {
			down.held -= was - len(bf.b)
		}
		if bf.b != nil {
			down.blocked = append(down.blocked[:0], down.blocked[i:]...)
			e.tellSpace()
			return
		}
		if down.ids[f.stream]--; down.ids[f.stream] <= 0 {
			delete(down.ids, f.stream)
		}
		if bf.s == nil && f.kind != h2Data && (f.kind == h2Headers || f.kind == h2Continuation || f.kind == h2PushPromise) {
			down.heads--
		}
	}
	clear(down.blocked)
	down.blocked = down.blocked[:0]
	down.stuck.Store(false)
	e.tellSpace()
}

func (e *h2) tellSpace() {
	select {
	case e.down.space <- struct{}{}:
	default:
	}
}

// awaitHeld waits until less than limit bytes of the origin wait for the client's credit, unless there
// can be no more credit.
func (e *h2) awaitHeld(limit int) {
	for e.down.stuck.Load() && !e.clientHasEnded() {
		e.down.Lock()
		held := e.down.held
		e.down.Unlock()
		if held < limit {
			return
		}
		select {
		case <-e.down.space:
		case <-e.ctx.Done():
			return
		}
	}
}

// flush writes what nobody else would write: small frames, and what has waited for credit.
func (e *h2) flush() {
	if !e.awaitGreeting() {
		return
	}
	for {
		select {
		case <-e.kick:
		case <-e.ctx.Done():
			return
		}
		e.lockDown()
		err := e.writeDown(nil)
		e.down.Unlock()
		if err != nil {
			e.fail()
			return
		}
		e.leaveIfDone()
	}
}
