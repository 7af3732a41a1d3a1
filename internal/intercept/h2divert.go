package intercept

import (
	"slices"

	"golang.org/x/net/http2/hpack"
)

// diverted is a stream of the client that a laptop serves. h2.mu guards it.
type diverted struct {
	id       uint32 // at the client
	at       uint32 // its id in the connection of d, once opened
	route    *route
	d        *detour
	fallback string // why the origin has it after all
	dead     bool   // both sides have ended it, or one has reset it
	dropped  bool   // it was reset: what waits for the client must not be sent

	fields      []hpack.HeaderField // of the request, until it is opened
	held        []byte              // of the request's body, that d does not take yet
	trailers    []hpack.HeaderField
	waits       bool // in d.stalled
	clientEnded bool // no more will be held
	ended       bool // d has been told so
	answered    bool // the final response has begun
	finished    bool // the response is complete

	exchange *Exchange // nil: nobody wants to know

	early  int64 // credit of the client that came before it was opened
	credit int64 // of the stream, that the client has
	window int64 // of the stream, that d gives
}

// isDiverted returns what is known of a stream that laptops have, or have had (nil).
func (e *h2) isDiverted(id uint32) (*diverted, bool) {
	if !e.mixed.Load() {
		return nil, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.diverted[id]
	return s, ok
}

func (e *h2) isDropped(s *diverted) bool {
	if s == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return s.dropped
}

// mix is called before the first frame of another than the origin.
func (e *h2) mix() {
	if e.up.enc == nil {
		e.up.enc = newH2Encoder(e.originTable)
		e.mixed.Store(true)
	}
}

// divert gives the stream whose request is in up.dec to a laptop.
func (e *h2) divert(l *listener, rt *route, f h2Frame) {
	rt.stats.requests.Add(1)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mix()
	s := &diverted{id: f.stream, route: rt, fields: cloneFields(e.up.dec.fields), clientEnded: f.has(h2EndStream), credit: e.originStream}
	d := e.detourFor(l, rt)
	if d == nil || e.live >= maxDiverted {
		e.forget(s.id)
		e.post(h2Reset, s.id, h2RefusedStream)
		return
	}
	s.observed(e)
	e.diverted[s.id] = s
	e.live++
	d.take(s)
}

// refuse resets a stream that came too late.
func (e *h2) refuse(id uint32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mix()
	e.forget(id)
	e.post(h2Reset, id, h2RefusedStream)
}

// forget keeps in mind, for a while, that frames for id are nobody's. e.mu is held.
func (e *h2) forget(id uint32) {
	e.diverted[id] = nil
	old := &e.gone[e.goneNext]
	if *old != 0 {
		delete(e.diverted, *old)
	}
	*old = id
	e.goneNext = (e.goneNext + 1) % len(e.gone)
}

// takeDiverted deals with a frame of a stream that a laptop has, or had (nil).
func (e *h2) takeDiverted(s *diverted, f h2Frame, b []byte) (int, bool, error) {
	up := &e.up
	if e.isBroken(f) {
		return 0, false, errH2Client
	}
	if f.kind == h2Data {
		return e.startBody(s, f, b)
	}
	if f.length > h2FrameSize {
		up.left, up.pad, up.to, up.ignore = f.length, 0, nil, true
		return h2HeadSize, false, nil
	}
	if len(b) < f.size() {
		return 0, false, nil
	}
	if s == nil {
		return f.size(), false, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch word := b[h2HeadSize:f.size()]; f.kind {
	case h2Reset:
		s.reset(word)
	case h2WindowUpdate:
		s.d.clientTakes(s, word)
	}
	return f.size(), false, nil
}

// isBroken reports whether the origin would break the connection for a frame of this size.
func (e *h2) isBroken(f h2Frame) bool {
	switch f.kind {
	case h2Reset, h2WindowUpdate:
		return f.length != 4
	case h2Priority:
		return f.length != 5
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return f.length > e.originFrame
}

// startBody begins a DATA frame. Its padding is not passed on.
func (e *h2) startBody(s *diverted, f h2Frame, b []byte) (int, bool, error) {
	up := &e.up
	up.left, up.pad, up.to, up.ends, up.ignore = f.length, 0, s, f.has(h2EndStream), s == nil
	used := h2HeadSize
	if s != nil && f.has(h2Padded) {
		if f.length == 0 {
			return 0, false, errH2Client
		}
		if len(b) == h2HeadSize {
			up.left = 0
			return 0, false, nil
		}
		used++
		up.left--
		if up.pad = int(b[h2HeadSize]); up.pad > up.left {
			up.left = 0
			return 0, false, errH2Client
		}
	}
	e.mu.Lock()
	if s == nil {
		e.repay(f.length)
	} else if s.clientEnded && !s.dead {
		s.d.abandon(s, h2StreamClosed)
		e.repay(f.length - up.left + up.pad)
	} else {
		s.credit -= int64(f.length)
		e.repay(f.length - up.left + up.pad)
	}
	e.mu.Unlock()
	if s != nil && up.left == up.pad {
		e.feed(s, nil, up.ends)
	}
	return used, false, nil
}

// feed passes a piece of a request's body on to the laptop, now or when it takes it.
func (e *h2) feed(s *diverted, b []byte, end bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s.dead {
		e.repay(len(b))
		return
	}
	s.held = append(s.held, b...)
	s.clientEnded = s.clientEnded || end
	if !e.hold(len(b)) {
		s.d.abandon(s, h2EnhanceYourCalm)
		return
	}
	s.d.pump(s)
}

// feedTrailers passes on what up.dec holds.
func (e *h2) feedTrailers(s *diverted, f h2Frame) {
	if s == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case s.dead:
		return
	case s.clientEnded:
		s.d.abandon(s, h2StreamClosed)
		return
	case !f.has(h2EndStream):
		s.d.abandon(s, h2ProtocolError)
		return
	}
	s.trailers, s.clientEnded = cloneFields(e.up.dec.fields), true
	s.d.pump(s)
}

// hold counts bytes of requests that laptops do not take yet, and reports whether there may be so many. e.mu is held.
func (e *h2) hold(n int) bool {
	e.heldUp += n
	return e.c.router.heldUp.Add(int64(n)) <= maxHeldUpAll && e.heldUp <= maxHeldUp
}

// repay gives the client back n bytes of the connection's credit that a request to a laptop has
// used. Small sums are gathered. e.mu is held.
func (e *h2) repay(n int) {
	const worthAFrame = 8 << 10
	e.unpaid += n
	if e.unpaid >= worthAFrame || e.live == 0 && e.unpaid > 0 {
		e.post(h2WindowUpdate, 0, uint32(e.unpaid))
		e.unpaid = 0
	}
}

// grant sees to it that the client may send on s what the laptop takes. It may have been allowed
// more, by the origin's settings. e.mu is held.
func (e *h2) grant(s *diverted) {
	more := s.window - int64(len(s.held)) - s.credit
	if more > 0 && !s.clientEnded && !s.dead {
		s.credit += more
		e.post(h2WindowUpdate, s.id, uint32(min(more, h2MaxWindow)))
	}
}

// remove ends what is known of s, whose two sides are told. e.mu is held.
func (e *h2) remove(s *diverted) {
	if s.dead {
		return
	}
	s.dead = true
	s.told(e)
	e.live--
	e.forget(s.id)
	e.hold(-len(s.held))
	e.repay(len(s.held))
	s.held, s.fields, s.trailers = nil, nil, nil
	d := s.d
	if s.at != 0 {
		delete(d.streams, s.at)
	} else if i := slices.Index(d.waiting, s); i >= 0 {
		d.waiting = slices.Delete(d.waiting, i, i+1)
	}
	d.closeIfDone()
	if e.live == 0 {
		e.repay(0)
		e.wake()
		select {
		case e.quiet <- struct{}{}:
		default:
		}
	}
}

// reset passes the client's RST_STREAM on. e.mu is held.
func (s *diverted) reset(code []byte) {
	if s.dead {
		return
	}
	if s.at != 0 {
		d := s.d
		d.queue = append(h2Frame{length: 4, kind: h2Reset, stream: s.at}.appendTo(d.queue), code...)
		d.wake()
	}
	s.drop()
}

// drop removes a stream that one side has reset. e.mu is held.
func (s *diverted) drop() {
	s.dropped = true
	s.d.e.remove(s)
}

// resetDiverted ends every stream at a laptop, as far as the client is concerned, and the laptops.
func (e *h2) resetDiverted() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, s := range e.diverted {
		if s != nil {
			e.post(h2Reset, id, h2InternalError)
			s.drop()
		}
	}
	for d := range e.all {
		d.close(softClose)
	}
}
