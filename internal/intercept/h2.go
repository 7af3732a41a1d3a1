package intercept

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Bounds of one client connection that speaks HTTP/2. What the client or the origin exceeds makes
// the connection a wire if none of its requests has gone to a laptop yet, and ends it otherwise;
// what a laptop exceeds ends the laptop's part.
const (
	maxDetours   = 32       // connections to laptops
	maxDiverted  = 16 << 10 // streams open at laptops
	maxOpen      = 64 << 10 // streams open at the origin
	maxHeldUp    = 4 << 20  // bytes of requests that laptops do not take yet
	maxHeldUpAll = 64 << 20 // likewise, of all connections of a router
	maxHeldDown  = 1 << 20  // bytes of responses of the origin that the client does not take yet
	maxControl   = 1 << 20  // bytes of small frames that wait for their reader
	laptopWindow = 1 << 20  // bytes of responses that one laptop may have under way
	maxSettings  = 32       // of the client that laptops are told
	goneStreams  = 4096     // that ended at a laptop, and that late frames may be for
)

var (
	errH2Client = errors.New("the client does not speak HTTP/2 that we can follow")
	errH2Bound  = errors.New("the client exceeds a bound")
)

// h2 relays a connection that speaks HTTP/2: one goroutine reads the client, another the origin,
// and each laptop that is in play has its own, see detour.
type h2 struct {
	c      *conn
	origin *upstream
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	up   h2Up
	down h2Down

	mixed atomic.Bool // a stream has been diverted: frames to either side come from several
	wired atomic.Bool // frames are no longer looked at

	kick    chan struct{} // wakes flush, with room for one
	flusher sync.Once

	mu       sync.Mutex
	open     map[uint32]uint8 // at the origin: who has ended what
	diverted map[uint32]*diverted
	gone     [goneStreams]uint32 // ids in diverted whose stream is nil, as a ring
	goneNext int
	live     int                // streams in diverted that are not nil
	quiet    chan struct{}      // told when there are none left, with room for one
	detours  map[string]*detour // by route
	back     *detour            // to the origin, for what laptops should have had
	all      map[*detour]struct{}
	heldUp   int // bytes in all diverted.held
	unpaid   int // credit of the connection that the client is to get back

	maxID        uint32 // of the client's streams
	window       int64  // bytes of DATA the client takes now, of all streams together
	owed         int64  // how much of it the origin believes to have besides
	clientTable  h2TableSize
	offer        map[uint16]uint32 // the client's settings that laptops are told
	originStream int64             // the origin's
	originTable  uint32            // the origin's SETTINGS_HEADER_TABLE_SIZE, the least there has been
	mostTable    uint32            // and the most
	originFrame  int               // the origin's SETTINGS_MAX_FRAME_SIZE, the most there has been
	control      []byte            // frames for the client that flush writes
	laptopSpoke  bool              // since the client's last PING
	leave        h2Leave
	ended        bool
}

// Who has ended a stream at the origin.
const (
	byClient = 1 << iota
	byOrigin
)

// startsHTTP2 reports whether the connection has said nothing but the start of the preface. Where
// one route takes everything, what is not HTTP/1 goes there as it is.
func (c *conn) startsHTTP2() bool {
	l := c.config()
	return l != nil && l.all == nil && c.tunnel == nil && isH2Preface(c.in.bytes())
}

// http2 serves a connection whose client has begun to speak HTTP/2.
func (c *conn) http2() ending {
	u := c.origin
	switch ok := c.readPreface(); {
	case !ok && u != nil:
		return c.wireUnread(u)
	case !ok:
		return c.wire()
	}
	if u == nil {
		if u = c.originConn(); u == nil {
			return endReset
		}
	}
	e := newH2(c, u)
	c.mu.Lock()
	c.h2 = e
	c.mu.Unlock()
	how := make(chan ending, 1)
	e.wg.Go(func() { how <- e.relayDown() })
	return e.end(e.relayUp(), how)
}

// readPreface waits a little for the rest of the preface.
func (c *conn) readPreface() bool {
	if c.in.len() >= len(h2Preface) {
		return isH2Preface(c.in.bytes())
	}
	_ = c.client.SetReadDeadline(time.Now().Add(headPatience))
	defer c.client.SetReadDeadline(time.Time{})
	for c.in.len() < len(h2Preface) {
		if c.in.len() > 0 && !isH2Preface(c.in.bytes()) || c.in.fill(c.client) != nil {
			return false
		}
	}
	return isH2Preface(c.in.bytes())
}

func newH2(c *conn, origin *upstream) *h2 {
	e := &h2{
		c: c, origin: origin, kick: make(chan struct{}, 1), quiet: make(chan struct{}, 1),
		open: make(map[uint32]uint8), diverted: make(map[uint32]*diverted),
		detours: make(map[string]*detour), all: make(map[*detour]struct{}),
		offer: make(map[uint16]uint32), window: h2DefaultWindow, originStream: h2DefaultWindow,
		originTable: h2DefaultTable, mostTable: h2DefaultTable, originFrame: h2FrameSize,
	}
	e.clientTable.now = h2DefaultTable
	e.up.dec = newH2Decoder()
	e.down.ids = make(map[uint32]int)
	e.down.enc = newH2Stateless()
	e.down.greeted = make(chan struct{})
	e.down.space = make(chan struct{}, 1)
	e.ctx, e.cancel = context.WithCancel(c.router.ctx)
	return e
}

// end ends what is left once nothing more comes from the client, and waits for the rest.
func (e *h2) end(how ending, down <-chan ending) ending {
	if how == endEarly {
		how = <-down
	} else if how == endClose && !e.leaving() {
		e.clientEnd()
		closeWrite(e.origin.Conn)
		how = <-down
	}
	e.c.mu.Lock()
	if how == endClose {
		e.c.closeAll(softClose)
	} else {
		e.c.closeAll(hardClose)
	}
	e.c.mu.Unlock()
	e.wg.Wait()
	return how
}

// abort ends all that e has started; conn.mu is held.
func (e *h2) abort(by closer) {
	e.cancel()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	for d := range e.all {
		d.close(by)
	}
}

// clientEnd ends the streams at laptops of a client that has gone.
func (e *h2) clientEnd() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leave.clientEnded = true
	e.tellSpace()
	for d := range e.all {
		d.close(softClose)
	}
}

// fail breaks the connection for all.
func (e *h2) fail() {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	e.c.closeAll(hardClose)
}

// post has a RST_STREAM or a WINDOW_UPDATE written to the client. e.mu is held.
func (e *h2) post(kind byte, stream, word uint32) {
	if len(e.control) > maxControl {
		e.cut() // it asks for answers that it does not read
		return
	}
	e.control = appendWord(e.control, kind, stream, word)
	e.wake()
}

// cut breaks the connection for all, where e.mu is held.
func (e *h2) cut() {
	if !e.ended {
		e.ended = true
		e.wg.Go(e.fail)
	}
}

// wake has flush look for something to write, and starts it if need be. e.mu is held.
func (e *h2) wake() {
	if e.ended {
		return
	}
	e.flusher.Do(func() { e.wg.Go(e.flush) })
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

// note remembers who has ended a stream at the origin.
func (e *h2) note(f h2Frame, who uint8) {
	if !f.ends() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s, ok := e.open[f.stream]
	if !ok {
		return
	}
	if s |= who; s == byClient|byOrigin || f.kind == h2Reset {
		delete(e.open, f.stream)
		return
	}
	e.open[f.stream] = s
}

// h2TableSize follows SETTINGS_HEADER_TABLE_SIZE of the client. Once the origin has acknowledged
// a smaller one, the next header block must begin with that change, whoever writes it.
type h2TableSize struct {
	now     uint32
	pending []uint32 // for each SETTINGS that is not acknowledged
	change  bool
}

const maxPendingSettings = 1024

func (t *h2TableSize) offered(payload []byte) bool {
	v := t.now
	if n := len(t.pending); n > 0 {
		v = t.pending[n-1]
	}
	settings(payload, func(id uint16, value uint32) {
		if id == h2HeaderTableSize {
			v = value
		}
	})
	t.pending = append(t.pending, v)
	return len(t.pending) <= maxPendingSettings
}

func (t *h2TableSize) acknowledged() {
	if len(t.pending) == 0 {
		return
	}
	v := t.pending[0]
	t.pending = t.pending[1:]
	t.change = t.change || v < t.now
	t.now = v
}

// appendChange begins a block with the change, if one is due: an integer with a prefix of five bits.
func (t *h2TableSize) appendChange(dst []byte) []byte {
	if !t.change {
		return dst
	}
	t.change = false
	v, most := t.now, uint32(1<<5-1)
	if v < most {
		return append(dst, 0x20|byte(v))
	}
	dst = append(dst, 0x20|byte(most))
	for v -= most; v >= 0x80; v >>= 7 {
		dst = append(dst, byte(v)|0x80)
	}
	return append(dst, byte(v))
}

// cloneFields copies what a decoder will use again.
func cloneFields(fields []hpack.HeaderField) []hpack.HeaderField {
	return append([]hpack.HeaderField(nil), fields...)
}
