package intercept

import (
	"encoding/binary"
)

// readIn reads what a laptop, or the origin in its stead, has to say.
func (d *detour) readIn() error {
	e := d.e
	if !e.awaitGreeting() {
		return errAbandoned
	}
	for {
		e.lockDown()
		err := d.takeOut()
		if werr := e.writeDown(nil); werr != nil {
			e.down.Unlock()
			e.fail()
			return werr
		}
		e.down.Unlock()
		if err != nil {
			return err
		}
		if d.in.filled() {
			d.in.grow()
		}
		if err := d.in.fill(d.up); err != nil {
			return err
		}
	}
}

// takeOut deals with the whole frames that d.in holds. h2Down's lock is held.
func (d *detour) takeOut() error {
	for d.in.len() >= h2HeadSize {
		b := d.in.bytes()
		f := h2FrameOf(b)
		if f.length > h2FrameSize {
			return errLaptopH2
		}
		n := f.size()
		if f.kind == h2Headers {
			blk, p := blockOf(b, &d.scratch)
			switch {
			case p == doubtful, blk.size > largeBuffer:
				return errLaptopH2
			case p == partial:
				return nil
			}
			if err := d.takeBlock(f, blk); err != nil {
				return err
			}
			n = blk.size
		} else if len(b) < n {
			return nil
		} else if err := d.takeFrame(f, b[:n]); err != nil {
			return err
		}
		d.in.consume(n)
	}
	return nil
}

// takeBlock passes on a header block of a response, encoded so that the client's table does not change.
func (d *detour) takeBlock(f h2Frame, blk h2Block) error {
	if d.dec.decode(blk.fields) != nil {
		return errLaptopH2
	}
	e, down := d.e, &d.e.down
	e.mu.Lock()
	s := d.streams[f.stream]
	if s == nil || s.finished {
		e.mu.Unlock()
		return nil // the client has reset it
	}
	e.laptopSpoke = true
	down.scratch = e.clientTable.appendChange(down.scratch[:0])
	fields := s.responseFields(d.dec.fields)
	e.mu.Unlock()
	down.scratch = append(down.scratch, down.enc.encode(fields)...)
	frames := appendBlock(nil, s.id, f.has(h2EndStream), nil, down.scratch)
	for len(frames) > 0 {
		h := h2FrameOf(frames)
		down.buf = e.admit(down.buf, h, frames[:h.size()], s)
		frames = frames[h.size():]
	}
	d.responded(s, f)
	return nil
}

// responded notes the end of a response, after its last frame was given to admit.
func (d *detour) responded(s *diverted, f h2Frame) {
	if !f.has(h2EndStream) {
		return
	}
	d.e.mu.Lock()
	defer d.e.mu.Unlock()
	if d.route != nil {
		d.route.stats.failing.Store(false)
	}
	s.finished = true
	if s.ended {
		d.e.remove(s)
	}
}

// takeFrame deals with any other frame.
func (d *detour) takeFrame(f h2Frame, b []byte) error {
	e := d.e
	payload := b[h2HeadSize:]
	if f.kind == h2Data {
		return d.takeData(f, b)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch f.kind {
	case h2Settings:
		return d.takeSettings(f, payload)
	case h2Ping:
		if f.length != 8 {
			return errLaptopH2
		}
		if !f.has(h2Ack) {
			d.queue = append(h2Frame{length: 8, kind: h2Ping, flags: h2Ack}.appendTo(d.queue), payload...)
			d.wake()
		}
	case h2GoAway:
		if f.length < 8 {
			return errLaptopH2
		}
		d.goesAway(binary.BigEndian.Uint32(payload) & h2MaxStreamID)
	case h2WindowUpdate:
		if f.length != 4 {
			return errLaptopH2
		}
		return d.takeCredit(f.stream, increment(payload))
	case h2Reset:
		if f.length != 4 {
			return errLaptopH2
		}
		if s := d.streams[f.stream]; s != nil {
			s.drop()
			e.post(h2Reset, s.id, binary.BigEndian.Uint32(payload))
		}
	case h2PushPromise, h2Continuation:
		return errLaptopH2
	}
	return nil
}

func (d *detour) takeData(f h2Frame, b []byte) error {
	e := d.e
	e.mu.Lock()
	s := d.streams[f.stream]
	if s == nil || s.finished {
		d.taken(f.length)
		e.mu.Unlock()
		return nil
	}
	e.laptopSpoke = true
	e.mu.Unlock()
	binary.BigEndian.PutUint32(b[5:], s.id)
	f.stream = s.id
	e.down.buf = e.admit(e.down.buf, f, b, s)
	d.responded(s, f)
	return nil
}

func (d *detour) takeSettings(f h2Frame, payload []byte) error {
	if f.has(h2Ack) {
		return nil
	}
	table := uint32(h2DefaultTable)
	settings(payload, func(id uint16, v uint32) {
		switch id {
		case h2HeaderTableSize:
			table = v
		case h2MaxStreams:
			d.most = v
		case h2InitialWindowSize:
			more := int64(v) - d.initial
			d.initial = int64(v)
			for _, s := range d.streams {
				s.window += more
			}
		}
	})
	d.queue = h2Frame{kind: h2Settings, flags: h2Ack}.appendTo(d.queue)
	if d.enc == nil {
		d.enc = newH2Encoder(table)
	}
	d.enc.limit(table)
	d.wake()
	d.openWaiting()
	for _, s := range d.streams {
		d.pump(s)
		d.e.grant(s)
	}
	return nil
}

// openWaiting opens what has waited for the first SETTINGS.
func (d *detour) openWaiting() {
	if d.isOpen {
		return
	}
	d.isOpen = true
	waiting := d.waiting
	d.waiting = nil
	for i, s := range waiting {
		if uint32(i) >= d.most {
			s.at = 0
			d.abandon(s, h2RefusedStream)
			continue
		}
		d.open(s)
	}
}

func (d *detour) takeCredit(at uint32, n int64) error {
	if at == 0 {
		if d.window += n; d.window > h2MaxWindow {
			return errLaptopH2
		}
		d.pumpStalled()
		return nil
	}
	s := d.streams[at]
	if s == nil {
		return nil
	}
	if s.window += n; s.window > h2MaxWindow {
		d.abandon(s, h2InternalError)
		return nil
	}
	d.pump(s)
	d.e.grant(s)
	return nil
}

// goesAway deals with a GOAWAY: what came after last was not looked at, and can be sent again.
func (d *detour) goesAway(last uint32) {
	d.leaving = true
	for at, s := range d.streams {
		if at > last {
			d.abandon(s, h2RefusedStream)
		}
	}
	d.closeIfDone()
}
