package intercept

import (
	"encoding/binary"
	"time"
)

// goAwayPause is how long a client has, after it was asked to open no more streams, until those
// that come are refused. It is what servers give: time for what is on its way.
const goAwayPause = time.Second

// h2Leave is how far the good-bye to the client has got. h2.mu guards it.
type h2Leave struct {
	asked       time.Time // GOAWAY that refuses nothing was sent
	final       bool      // GOAWAY with last was sent
	last        uint32
	closing     bool // all is answered: the client may close first
	originSaid  bool // the origin has sent a GOAWAY that refuses streams
	originEnded bool // and has ended its side, while laptops go on
	clientEnded bool // the client has ended its side
}

func (l *h2Leave) refuses() bool { return l.final }

// tick is called a few times a second, with conn.mu held.
func (e *h2) tick(now time.Time) {
	table := e.c.router.table.Load().ports[e.c.port.number]
	draining := table == nil || table.draining() || e.c.router.closing.Load()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leaveLaptops(table)
	l := &e.leave
	switch {
	case l.clientEnded:
		if !e.ended && e.c.sock.gone() {
			e.wg.Go(e.fail)
		}
	case e.ended || e.wired.Load() || l.closing:
	case l.final:
		if len(e.open)+e.live == 0 {
			e.wake()
		}
	case !l.asked.IsZero():
		if now.Sub(l.asked) >= goAwayPause {
			l.final, l.last = true, max(e.maxID, l.last)
			e.control = appendGoAway(e.control, l.last, h2NoError)
			e.wake()
		}
	case draining:
		l.asked = now
		e.control = appendGoAway(e.control, h2MaxStreamID, h2NoError)
		e.wake()
	}
}

// leaveLaptops closes the connections to laptops whose routes are gone, once they have answered:
// a laptop that takes its leave waits for them. e.mu is held.
func (e *h2) leaveLaptops(l *listener) {
	for d := range e.all {
		if d.route == nil || l != nil && l.has(d.route.ID) {
			continue
		}
		d.leaving = true
		d.closeIfDone()
	}
}

func (l *listener) has(id string) bool {
	for _, r := range l.rules {
		if r.ID == id {
			return true
		}
	}
	return l.all != nil && l.all.ID == id
}

// leaveIfDone ends a connection whose client knows that there is nothing more to come.
func (e *h2) leaveIfDone() {
	e.mu.Lock()
	done := e.leave.final && !e.leave.closing && len(e.open)+e.live == 0 && len(e.control) == 0 && !e.down.stuck.Load()
	e.leave.closing = e.leave.closing || done
	e.mu.Unlock()
	if !done {
		return
	}
	e.c.setPhase(leaving, nil)
	_ = e.c.client.SetReadDeadline(time.Now().Add(time.Second))
	e.down.Lock()
	closeWrite(e.c.client)
	e.down.Unlock()
}

func (e *h2) leaving() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leave.closing
}

func (e *h2) clientHasEnded() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leave.clientEnded
}

// lingers reports whether only laptops are left on the other side.
func (e *h2) lingers() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leave.originEnded
}

// sayGoodbye ends a connection whose client has exceeded a bound.
func (e *h2) sayGoodbye(code uint32) {
	e.mu.Lock()
	e.leave.closing = true
	e.control = appendGoAway(e.control, e.maxID, code)
	e.mu.Unlock()
	e.c.router.opts.Logger.Warn("ending an HTTP/2 connection that exceeds a bound", "client", e.c.ip)
	patience := time.AfterFunc(time.Second, e.fail) // the origin may be amid a frame, or the client not reading
	defer patience.Stop()
	e.lockDown()
	_ = e.writeDown(nil)
	closeWrite(e.c.client)
	e.down.Unlock()
}

// originGoAway appends to dst the origin's GOAWAY as it is good for the client: it does not refuse
// streams that laptops have, nor take back what the router has refused.
func (e *h2) originGoAway(dst, b []byte) []byte {
	if len(b) < h2HeadSize+8 {
		return append(dst, b...)
	}
	last := binary.BigEndian.Uint32(b[h2HeadSize:]) & h2MaxStreamID
	e.mu.Lock()
	defer e.mu.Unlock()
	l := &e.leave
	most := last
	if last < h2MaxStreamID {
		l.originSaid = true
		for id, s := range e.diverted {
			if s != nil {
				most = max(most, id)
			}
		}
	}
	for id := range e.open {
		if id > last && id <= most { // the client would wait for it
			dst = appendWord(dst, h2Reset, id, h2RefusedStream)
			delete(e.open, id)
		}
	}
	if l.final {
		most = min(most, l.last)
	}
	dst = append(dst, b...)
	binary.BigEndian.PutUint32(dst[len(dst)-len(b)+h2HeadSize:], most)
	return dst
}

// awaitLaptops lets laptops answer what they have after an origin has taken its leave.
func (e *h2) awaitLaptops() {
	for {
		e.mu.Lock()
		wait := e.live > 0 && e.leave.originSaid && !e.ended
		e.leave.originEnded = wait
		e.mu.Unlock()
		if !wait {
			return
		}
		select {
		case <-e.quiet:
		case <-e.ctx.Done():
			return
		}
	}
}
