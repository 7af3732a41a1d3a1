package intercept

// h2Up is what the goroutine that reads the client keeps. It alone writes to the origin.
type h2Up struct {
	dec     *h2Decoder
	enc     *h2Encoder // once mixed: of the blocks to the origin, whose table lacks what laptops got
	req     h2Request
	scratch []byte // for blockOf
	need    int    // no use in looking at the block that conn.in starts with before it is this long
	out     []byte // what goes to the origin instead of the last frame
	buf     []byte // what goes to the origin before what is at hand in conn.in

	left   int       // bytes to come of the payload of a frame
	pad    int       // of them, the padding at the end; only with to
	to     *diverted // whose they are; nil: the origin's
	ends   bool      // the frame ends the stream to
	ignore bool      // they are nobody's
}

// relayUp reads the client until it ends.
func (e *h2) relayUp() ending {
	in := &e.c.in
	if _, err := e.origin.Write(in.bytes()[:len(h2Preface)]); err != nil {
		return endEarly
	}
	in.consume(len(h2Preface))
	for {
		if how := e.takeIn(); how != nextRequest {
			return how
		}
		if in.filled() {
			in.grow()
		}
		switch err := in.fill(e.c.client); {
		case err == nil:
		case isEnd(err), isTimeout(err) && e.leaving():
			return endClose
		default:
			return endReset
		}
	}
}

// takeIn passes on what conn.in holds, as far as it can be understood.
func (e *h2) takeIn() ending {
	in, up := &e.c.in, &e.up
	b := in.bytes()
	run, i := 0, 0 // b[run:i] is for the origin as it is
	var err error
	for i < len(b) {
		n, pass := 0, false
		if n, pass, err = e.takeFrame(b[i:]); n == 0 || err != nil {
			break
		}
		if !pass {
			up.buf = append(append(up.buf, b[run:i]...), up.out...)
			up.out = up.out[:0]
			run = i + n
		}
		i += n
	}
	if werr := e.writeUp(b[run:i]); werr != nil && !e.lingers() {
		return endEarly // it may have said why
	}
	in.consume(i)
	if err == nil && in.full() {
		err = errH2Bound
	}
	if err != nil {
		return e.giveUp(err)
	}
	return nextRequest
}

// writeUp writes to the origin what was put together for it, and then b.
func (e *h2) writeUp(b []byte) error {
	if buf := e.up.buf; len(buf) > 0 {
		b = append(buf, b...)
		e.up.buf = b[:0]
		if cap(b) > largeBuffer*2 {
			e.up.buf = nil
		}
	}
	if len(b) == 0 {
		return nil
	}
	_, err := e.origin.Write(b)
	return err
}

// takeFrame looks at the frame, or the part of one, that b starts with, and says how many bytes
// of b it has dealt with (0: there must be more) and whether they are for the origin as they are.
func (e *h2) takeFrame(b []byte) (n int, pass bool, err error) {
	if e.up.left > 0 {
		n, pass = e.takePayload(b)
		return n, pass, nil
	}
	if len(b) < h2HeadSize {
		return 0, false, nil
	}
	f := h2FrameOf(b)
	switch {
	case f.kind == h2Headers:
		return e.takeBlock(f, b)
	case f.kind == h2Continuation:
		return 0, false, errH2Client
	case f.stream == 0:
		return e.takeControl(f, b)
	}
	if s, ok := e.isDiverted(f.stream); ok {
		return e.takeDiverted(s, f, b)
	}
	e.note(f, byClient)
	return e.startPayload(f)
}

func (e *h2) startPayload(f h2Frame) (int, bool, error) {
	e.up.left, e.up.to, e.up.ignore = f.length, nil, false
	return h2HeadSize, true, nil
}

func (e *h2) takePayload(b []byte) (n int, pass bool) {
	up := &e.up
	n = min(len(b), up.left)
	data := min(n, max(up.left-up.pad, 0))
	up.left -= n
	if up.to != nil {
		e.feed(up.to, b[:data], up.ends && up.left == 0)
	}
	return n, up.to == nil && !up.ignore
}

// takeControl looks at a frame of the connection. All are for the origin; what of the client's
// credit was used by laptops is taken off.
func (e *h2) takeControl(f h2Frame, b []byte) (int, bool, error) {
	switch {
	case f.kind != h2Settings && f.kind != h2WindowUpdate && f.kind != h2Ping, f.length > h2FrameSize:
		return e.startPayload(f)
	}
	if len(b) < f.size() {
		return 0, false, nil
	}
	payload := b[h2HeadSize:f.size()]
	switch {
	case f.kind == h2Settings && !f.has(h2Ack):
		if !e.clientSettings(payload) {
			return 0, false, errH2Bound
		}
	case f.kind == h2Ping && f.length == 8 && !f.has(h2Ack):
		return f.size(), !e.answerPing(payload), nil
	case f.kind == h2WindowUpdate && f.length == 4:
		n := increment(payload)
		if paid := e.clientCredit(n); paid > 0 {
			if n > paid {
				e.up.out = appendWord(e.up.out, h2WindowUpdate, 0, uint32(n-paid))
			}
			return f.size(), false, nil
		}
	}
	return f.size(), true, nil
}

// answerPing answers a PING that the origin should not see, and reports whether it is one. Clients
// measure the way with them when data comes, and keep streams alive with them; servers that have
// sent no data, or have no streams, take that for abuse.
func (e *h2) answerPing(payload []byte) bool {
	if !e.mixed.Load() {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ours := e.laptopSpoke || len(e.open) == 0 && e.live > 0
	if e.laptopSpoke = false; !ours {
		return false
	}
	if len(e.control) > maxControl {
		e.cut()
		return true
	}
	e.control = append(h2Frame{length: 8, kind: h2Ping, flags: h2Ack}.appendTo(e.control), payload...)
	e.wake()
	return true
}

// clientCredit notes that the client takes n bytes more, and returns how many of them the origin
// must not know of, since it believes to have them already.
func (e *h2) clientCredit(n int64) (paid int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.window += n
	paid = min(n, e.owed)
	e.owed -= paid
	if e.down.stuck.Load() {
		e.wake()
	}
	return paid
}

// clientSettings notes the client's settings, and tells them to the laptops.
func (e *h2) clientSettings(payload []byte) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	settings(payload, func(id uint16, v uint32) {
		if id != h2HeaderTableSize && id != h2EnablePush && id != h2MaxFrameSize && len(e.offer) < maxSettings {
			e.offer[id] = v
		}
	})
	for d := range e.all {
		d.offerSettings()
	}
	return e.clientTable.offered(payload)
}

// takeBlock looks at a header block: a request, or trailers.
func (e *h2) takeBlock(f h2Frame, b []byte) (int, bool, error) {
	up := &e.up
	if len(b) < up.need {
		return 0, false, nil
	}
	blk, p := blockOf(b, &up.scratch)
	up.need = 0
	switch {
	case p == partial && blk.size > largeBuffer:
		return 0, false, errH2Bound
	case p == partial:
		up.need = blk.size
		return 0, false, nil
	case p == doubtful || f.stream%2 == 0:
		return 0, false, errH2Client
	}
	e.mu.Lock()
	up.dec.dec.SetAllowedMaxDynamicTableSize(min(e.mostTable, maxH2Table))
	e.mu.Unlock()
	switch err := up.dec.decode(blk.fields); {
	case err == errH2List:
		return 0, false, errH2Bound
	case err != nil:
		return 0, false, errH2Client
	}
	if f.stream > e.maxID {
		return e.takeRequest(f, blk)
	}
	if s, ok := e.isDiverted(f.stream); ok {
		e.feedTrailers(s, f)
		return blk.size, false, nil
	}
	return e.toOrigin(f, blk)
}

// takeRequest decides where a new stream goes.
func (e *h2) takeRequest(f h2Frame, blk h2Block) (int, bool, error) {
	l := e.c.config()
	if l == nil {
		return 0, false, errReset
	}
	e.mu.Lock()
	e.maxID = f.stream
	late := e.leave.refuses()
	ended := e.leave.originEnded
	e.mu.Unlock()
	up := &e.up
	up.req.take(up.dec.fields)
	rt := l.choose(&up.req.request, up.req.text)
	switch {
	case late, rt == nil && ended:
		e.refuse(f.stream)
		return blk.size, false, nil
	case rt != nil:
		e.divert(l, rt, f)
		return blk.size, false, nil
	}
	e.c.port.origin.Add(1)
	e.mu.Lock()
	e.open[f.stream] = 0
	n := len(e.open)
	e.mu.Unlock()
	if n > maxOpen {
		return 0, false, errH2Bound
	}
	return e.toOrigin(f, blk)
}

// toOrigin passes on a header block, as it came until laptops have had others.
func (e *h2) toOrigin(f h2Frame, blk h2Block) (int, bool, error) {
	e.note(f, byClient)
	up := &e.up
	if up.enc == nil {
		return blk.size, true, nil
	}
	e.mu.Lock()
	up.enc.limit(e.originTable)
	e.mu.Unlock()
	up.out = appendBlock(up.out, f.stream, f.has(h2EndStream), blk.priority, up.enc.encode(up.dec.fields))
	return blk.size, false, nil
}

// giveUp deals with a client that cannot be followed. conn.in starts with what is wrong. The
// origin shall decide what becomes of it, unless it lacks what laptops have had.
func (e *h2) giveUp(err error) ending {
	if err == errReset {
		return endReset
	}
	if e.mixed.Load() && err == errH2Bound {
		e.sayGoodbye(h2EnhanceYourCalm)
		return endClose
	}
	e.resetDiverted()
	e.c.countWired()
	e.wired.Store(true)
	if pump(e.origin.Conn, e.c.client, &e.c.in) == srcEnded {
		return endClose
	}
	return endReset
}
