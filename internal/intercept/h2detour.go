package intercept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/net/http2/hpack"
)

const (
	maxQueued = 256 << 10 // bytes for a laptop, before bodies have to wait
	noLimit   = 1<<32 - 1
)

var (
	errNotH2     = errors.New("the laptop's process does not speak HTTP/2 in cleartext")
	errLaptopH2  = errors.New("the laptop's process broke the rules of HTTP/2")
	errAbandoned = errors.New("closed")
)

type closer = func(net.Conn)

// detour is a connection to the laptop of a route, or to the origin for what laptops should have
// had, for the streams of one client connection. Streams are opened once the other side has said
// that it speaks HTTP/2; until then the origin could still have them. h2.mu guards it, but for
// what belongs to its reader.
type detour struct {
	e     *h2
	l     *listener
	route *route // nil: to the origin

	up       *upstream // once connected
	closed   bool
	leaving  bool // takes no more streams
	isOpen   bool
	queue    []byte // to be written
	spare    []byte // the former queue
	kick     chan struct{}
	waiting  []*diverted // to be opened
	streams  map[uint32]*diverted
	stalled  []*diverted // whose bodies wait for room in queue, or for the connection's window
	lastID   uint32
	enc      *h2Encoder
	window   int64 // of the connection, that it gives us
	initial  int64 // of each stream
	most     uint32
	unpaid   int // bytes of DATA that it is to be given credit for
	announce bool

	in      buffer // the reader's
	dec     *h2Decoder
	scratch []byte
}

// detourFor returns a connection that takes another stream of rt, or nil. e.mu is held.
func (e *h2) detourFor(l *listener, rt *route) *detour {
	at, id := &e.back, ""
	if rt != nil {
		id = rt.ID
		d := e.detours[id]
		at = &d
	}
	d := *at
	if d != nil && !d.leaving && len(d.streams)+len(d.waiting) < int(d.most) {
		return d
	}
	if d != nil {
		d.leaving = true
		d.closeIfDone()
	}
	if e.ended || len(e.all) >= maxDetours && !e.closeIdle() {
		return nil
	}
	d = &detour{e: e, l: l, route: rt, kick: make(chan struct{}, 1), streams: make(map[uint32]*diverted),
		window: h2DefaultWindow, initial: h2DefaultWindow, most: noLimit, dec: newH2Decoder()}
	if rt != nil {
		e.detours[id] = d
	} else {
		e.back = d
	}
	e.all[d] = struct{}{}
	e.wg.Go(d.run)
	return d
}

// closeIdle makes room for another connection.
func (e *h2) closeIdle() bool {
	for d := range e.all {
		if len(d.streams)+len(d.waiting) == 0 {
			d.leaving = true
			d.close(softClose)
			delete(e.all, d)
			return true
		}
	}
	return false
}

func (d *detour) run() {
	err := d.start()
	if err == nil {
		done := make(chan struct{})
		written := make(chan struct{})
		go func() {
			defer close(written)
			d.writeOut(done)
		}()
		err = d.readIn()
		close(done)
		d.e.mu.Lock()
		d.close(softClose)
		d.e.mu.Unlock()
		<-written
	}
	d.finish(err)
	d.in.release()
}

// start connects, and waits until the other side has said that it speaks HTTP/2.
func (d *detour) start() error {
	e := d.e
	nc, err := d.dial()
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreached, err)
	}
	e.mu.Lock()
	d.up = newUpstream(nc, d.route)
	if d.closed || e.ended {
		hardClose(nc)
		e.mu.Unlock()
		return errAbandoned
	}
	hello := d.hello()
	e.mu.Unlock()
	if _, err := nc.Write(hello); err != nil {
		return fmt.Errorf("%w: %w", errNotH2, err)
	}
	for {
		if err := d.in.fill(nc); err != nil {
			return fmt.Errorf("%w: it ended the connection: %w", errNotH2, err)
		}
		if d.in.len() < h2HeadSize {
			continue
		}
		if !isH2Settings(d.in.bytes()) {
			return errNotH2
		}
		if d.in.len() >= h2FrameOf(d.in.bytes()).size() {
			return nil
		}
	}
}

var errUnreached = errors.New("out of reach")

func (d *detour) dial() (net.Conn, error) {
	if d.route == nil {
		return d.e.c.port.dialOrigin(d.l, d.e.c.ip)
	}
	ctx, cancel := context.WithTimeout(d.e.ctx, tunnelTimeout)
	defer cancel()
	return d.e.c.router.dialTunnel(ctx, d.route, d.e.c.client.RemoteAddr())
}

// hello is what a client says first: the preface, the client's settings, and credit.
func (d *detour) hello() []byte {
	b := d.appendSettings([]byte(h2Preface))
	d.announce = false
	return appendWord(b, h2WindowUpdate, 0, laptopWindow-h2DefaultWindow)
}

func (d *detour) appendSettings(b []byte) []byte {
	f := h2Frame{length: 6 * (1 + len(d.e.offer)), kind: h2Settings}
	b = append(f.appendTo(b), 0, h2EnablePush, 0, 0, 0, 0)
	for id, v := range d.e.offer {
		b = binary.BigEndian.AppendUint16(b, id)
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// offerSettings tells the other side that the client's settings have changed.
func (d *detour) offerSettings() {
	if d.up == nil {
		return // hello will
	}
	d.queue = d.appendSettings(d.queue)
	d.wake()
}

// wake has writeOut write. e.mu is held.
func (d *detour) wake() {
	if len(d.queue) > maxControl {
		d.close(hardClose) // it does not read, and there is ever more to tell it
	}
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

func (d *detour) writeOut(done <-chan struct{}) {
	e := d.e
	for {
		select {
		case <-d.kick:
		case <-done:
			return
		}
		for {
			e.mu.Lock()
			b := d.queue
			d.queue, d.spare = d.spare, nil
			e.mu.Unlock()
			if len(b) == 0 {
				e.mu.Lock()
				d.spare = b
				e.mu.Unlock()
				break
			}
			if _, err := d.up.Write(b); err != nil {
				return // its reader sees why
			}
			e.mu.Lock()
			if d.spare = b[:0]; cap(b) > largeBuffer {
				d.spare = nil
			}
			d.pumpStalled()
			e.mu.Unlock()
		}
	}
}

// close ends the connection, from wherever. e.mu is held.
func (d *detour) close(by closer) {
	d.leaving = true
	if d.closed {
		return
	}
	d.closed = true
	if d.up != nil {
		d.e.c.router.detach(d.up, by)
	}
}

func (d *detour) closeIfDone() {
	if d.leaving && len(d.streams)+len(d.waiting) == 0 {
		d.close(softClose)
	}
}

// finish deals with the streams of a connection that has ended, or was never had.
func (d *detour) finish(err error) {
	e := d.e
	e.mu.Lock()
	defer e.mu.Unlock()
	d.close(softClose)
	delete(e.all, d)
	if d == e.back {
		e.back = nil
	} else if d.route != nil && e.detours[d.route.ID] == d {
		delete(e.detours, d.route.ID)
	}
	d.warn(err)
	for _, s := range append([]*diverted(nil), d.waiting...) {
		if d.route != nil && errors.Is(err, errUnreached) && !e.ended {
			e.fallBack(s, err)
			continue
		}
		d.abandon(s, resetCode(err))
	}
	for _, s := range d.streams {
		d.abandon(s, resetCode(err))
	}
}

func resetCode(err error) uint32 {
	if errors.Is(err, errUnreached) {
		return h2RefusedStream
	}
	return h2InternalError
}

func (d *detour) warn(err error) {
	if d.route == nil || d.e.ended || err == nil || len(d.waiting)+len(d.streams) == 0 {
		return
	}
	if !d.route.stats.failing.Swap(true) {
		text := "a laptop's connection ended with requests on it"
		if errors.Is(err, errUnreached) {
			text = "laptop out of reach, the origin answers"
		} else if errors.Is(err, errNotH2) {
			text = "the laptop's process does not speak HTTP/2, its requests are reset"
		}
		d.e.c.router.opts.Logger.Warn(text, "route", d.route.ID, "session", d.route.Session, "error", err)
	}
}

// fallBack gives a stream that no laptop has seen to the origin. e.mu is held.
func (e *h2) fallBack(s *diverted, why error) {
	e.c.countFallback(s.route)
	e.c.port.origin.Add(1)
	s.fallback = headerSafe(why.Error())
	d := e.detourFor(s.d.l, nil)
	if d == nil {
		s.d.abandon(s, h2RefusedStream)
		return
	}
	d.take(s)
}

// take adds a stream. e.mu is held.
func (d *detour) take(s *diverted) {
	s.d = d
	if d.isOpen {
		d.open(s)
		return
	}
	d.waiting = append(d.waiting, s)
}

// open sends the request. e.mu is held.
func (d *detour) open(s *diverted) {
	s.at, s.window = d.nextID(), d.initial
	d.streams[s.at] = s
	s.ended = s.clientEnded && len(s.held) == 0 && s.trailers == nil
	d.queue = appendBlock(d.queue, s.at, s.ended, nil, d.enc.encode(s.fields))
	s.fields = nil
	if s.early > 0 {
		d.queue = appendWord(d.queue, h2WindowUpdate, s.at, uint32(s.early))
	}
	d.wake()
	d.pump(s)
	d.e.grant(s)
}

func (d *detour) nextID() uint32 {
	if d.lastID == 0 {
		d.lastID = 1
	} else {
		d.lastID += 2
	}
	if d.lastID > h2MaxStreamID/2 {
		d.leaving = true
	}
	return d.lastID
}

// pump sends what the other side takes of the body of s. e.mu is held.
func (d *detour) pump(s *diverted) {
	if s.at == 0 || s.ended && len(s.held) == 0 || s.dead {
		return
	}
	held := len(s.held)
	for len(s.held) > 0 && len(d.queue) < maxQueued {
		n := min(int64(len(s.held)), s.window, d.window, h2FrameSize)
		if n <= 0 {
			break
		}
		f := h2Frame{length: int(n), kind: h2Data, stream: s.at}
		if s.clientEnded && int(n) == len(s.held) && s.trailers == nil {
			f.flags, s.ended = h2EndStream, true
		}
		d.queue = append(f.appendTo(d.queue), s.held[:n]...)
		s.held = s.held[n:]
		s.window -= n
		d.window -= n
	}
	d.pumped(s, held-len(s.held))
}

// pumped does what follows when n bytes of the body of s have been sent.
func (d *detour) pumped(s *diverted, n int) {
	e := d.e
	e.hold(-n)
	e.repay(n)
	if len(s.held) > 0 && s.window > 0 && !s.waits {
		s.waits = true
		d.stalled = append(d.stalled, s)
	}
	if len(s.held) == 0 {
		s.held = nil
		if s.clientEnded && !s.ended {
			s.ended = true
			if s.trailers != nil {
				d.queue = appendBlock(d.queue, s.at, true, nil, d.enc.encode(s.trailers))
			} else {
				d.queue = h2Frame{kind: h2Data, flags: h2EndStream, stream: s.at}.appendTo(d.queue)
			}
		}
	}
	e.grant(s)
	d.wake()
	if s.ended && s.finished {
		e.remove(s)
	}
}

// pumpStalled gives every body that waits another chance. e.mu is held.
func (d *detour) pumpStalled() {
	again := d.stalled
	if len(again) == 0 || d.window <= 0 || len(d.queue) >= maxQueued {
		return
	}
	d.stalled = nil
	for _, s := range again {
		s.waits = false
		d.pump(s)
	}
}

// clientTakes passes the client's WINDOW_UPDATE for s on. e.mu is held.
func (d *detour) clientTakes(s *diverted, word []byte) {
	switch {
	case s.dead:
		return
	case increment(word) == 0:
		d.abandon(s, h2ProtocolError)
		return
	case s.at == 0:
		s.early = min(s.early+increment(word), h2MaxWindow)
		return
	}
	d.queue = append(h2Frame{length: 4, kind: h2WindowUpdate, stream: s.at}.appendTo(d.queue), word...)
	d.wake()
}

// taken gives credit for n bytes that the client was given. e.mu is held.
func (d *detour) taken(n int) {
	if d.unpaid += n; d.unpaid >= laptopWindow/8 {
		d.queue = appendWord(d.queue, h2WindowUpdate, 0, uint32(d.unpaid))
		d.unpaid = 0
		d.wake()
	}
}

// abandon resets a stream towards the client, and d if it has it. e.mu is held.
func (d *detour) abandon(s *diverted, code uint32) {
	if s.dead {
		return
	}
	d.e.post(h2Reset, s.id, code)
	if s.at != 0 && !d.closed {
		d.queue = appendWord(d.queue, h2Reset, s.at, h2Cancel)
		d.wake()
	}
	s.drop()
}

// responseFields are those of a header block for the client.
func (s *diverted) responseFields(fields []hpack.HeaderField) []hpack.HeaderField {
	if s.answered {
		return fields // trailers
	}
	for _, f := range fields {
		if f.Name == ":status" && len(f.Value) == 3 && f.Value[0] == '1' {
			return fields
		}
		if f.Name == ":status" && s.exchange != nil {
			s.exchange.Status, _ = strconv.Atoi(f.Value)
		}
	}
	s.answered = true
	if s.fallback == "" {
		return fields
	}
	return append(fields, hpack.HeaderField{Name: "x-dayfly-fallback", Value: s.fallback})
}
