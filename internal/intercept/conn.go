package intercept

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// sniffWait is how long a client may be silent before the server gets its chance to
	// speak first.
	sniffWait = 10 * time.Millisecond
	// linePatience and headPatience are how long the first line and the whole head of a
	// request may take once begun, before the origin is left to deal with that client.
	linePatience = 200 * time.Millisecond
	headPatience = 5 * time.Second
)

// Why there is no request to serve, apart from what reading the client says.
var (
	errWire    = errors.New("not plain HTTP/1")
	errUnasked = errors.New("the origin spoke between requests") // such as a 408: the client shall see it
	errReset   = errors.New("the origin reset the idle connection")
)

// ending is what becomes of a connection after a step.
type ending uint8

const (
	nextRequest ending = iota
	endClose           // close it
	endReset           // reset it, so that both peers see what one of them did
	endEarly           // the upstream ended before it answered; see conn.early
)

// conn serves one connection of a client. Its methods are called by its own goroutine,
// but for those of upload, which has its own, and for abort and check, which anybody calls.
type conn struct {
	router  *Router
	port    *port
	capture capture
	client  net.Conn
	sock    *sock // nil if client is not TCP
	ip      netip.Addr
	since   time.Time

	table *table    // that config was taken from
	cfg   *listener // of this port in it

	in       buffer // from the client; belongs to the upload while one runs
	out      buffer // from the upstream
	req      request
	res      response
	sent     int     // bytes of in that were written upstream, and are kept for a second try
	early    error   // why the upstream ended early
	upload   *upload // of the current request, or for the rest of the connection
	byTunnel bool    // the last request went to a laptop
	refused  *route  // whose tunnel could not be had for bytes that are not HTTP

	mu     sync.Mutex
	phase  phase
	active *upstream // in phases answering and halfOpen
	hungUp bool      // the client's end has been passed on while it waited
	poked  bool      // check has moved the client's read deadline
	ended  bool      // client and upstreams are closed
	origin *upstream
	tunnel *upstream // the last used; a client seldom uses two
	h2     *h2       // once it speaks HTTP/2
}

// phase is what conn's goroutine is blocked in, for check.
type phase uint8

const (
	busy          phase = iota // it sees for itself what happens
	idle                       // reads the client for another request: watch the origin
	answering                  // reads the upstream, nobody reads the client: watch the client
	answeringMore              // as answering, with more requests at hand: an end is not yet the end
	leaving                    // gives the client a moment to close first
	halfOpen                   // the upstream has ended, and waits for the client to: watch for a reset
)

func newConn(r *Router, p *port, client net.Conn) *conn {
	c := &conn{router: r, port: p, client: client, sock: sockOf(client), since: time.Now()}
	if a, ok := client.RemoteAddr().(*net.TCPAddr); ok {
		c.ip = a.AddrPort().Addr().Unmap()
	}
	return c
}

func (c *conn) serve() {
	if !c.awaitAdmission() {
		c.end(endReset)
		return
	}
	c.port.meet(c.ip)
	how := c.sniff()
	if how == nextRequest && c.startsTLS() {
		how = c.passTLS()
	}
	for how == nextRequest {
		how = c.exchange()
	}
	c.end(how)
}

// config returns what the table in force says of this port, or nil if the port now
// serves something else, in which case c is being aborted.
func (c *conn) config() *listener {
	if t := c.router.table.Load(); t != c.table {
		c.table = t
		c.cfg = t.ports[c.port.number]
		if c.cfg != nil && c.cfg.capture() != c.capture {
			c.cfg = nil
		}
	}
	return c.cfg
}

// draining reports whether the client is to be asked to reconnect.
func (c *conn) draining() bool {
	l := c.config()
	return l == nil || l.draining() || c.router.closing.Load()
}

// sniff waits for the first bytes of the client, or of the server if the client waits for it.
func (c *conn) sniff() ending {
	_ = c.client.SetReadDeadline(time.Now().Add(sniffWait))
	err := c.in.fill(c.client)
	_ = c.client.SetReadDeadline(time.Time{})
	switch {
	case err == nil:
		return nextRequest
	case isTimeout(err):
		return c.listenToBoth()
	case isEnd(err):
		return c.wire() // a client that only listens, or only connects
	}
	return endReset
}

// listenToBoth dials where unread bytes go, and waits for whoever speaks first. If it is
// the server, this is not HTTP.
func (c *conn) listenToBoth() ending {
	u := c.byDefault()
	if u == nil {
		return endReset
	}
	spoken := make(chan error, 1)
	go func() {
		err := c.out.fill(u)
		_ = c.client.SetReadDeadline(past)
		spoken <- err
	}()
	clientErr := c.in.fill(c.client)
	_ = u.SetReadDeadline(past)
	serverErr := <-spoken
	_ = u.SetReadDeadline(time.Time{})
	_ = c.client.SetReadDeadline(time.Time{})
	switch {
	case !isTimeout(clientErr) && clientErr != nil && !isEnd(clientErr):
		return endReset
	case serverErr == nil && u.route == nil && isH2Settings(c.out.bytes()) && (clientErr == nil || isTimeout(clientErr)):
		return c.http2()
	case serverErr == nil, isEnd(serverErr), isEnd(clientErr):
		return c.wireUnread(u)
	case isTimeout(serverErr):
		return nextRequest
	}
	return endReset
}

// exchange serves one request.
func (c *conn) exchange() ending {
	switch err := c.readRequest(); {
	case err == nil:
	case err == errWire && c.startsHTTP2():
		return c.http2()
	case err == errWire:
		return c.wire()
	case err == errUnasked:
		return c.wireTo(c.origin)
	case isEnd(err):
		return endClose
	default:
		return endReset
	}
	l := c.config()
	if l == nil {
		return endReset
	}
	if rt := l.choose(&c.req, c.in.bytes()); rt != nil {
		return c.viaTunnel(rt)
	}
	return c.viaOrigin("")
}

// readRequest reads until in starts with a whole request head. A head that cannot be
// had is errWire, with what there is of it in in.
func (c *conn) readRequest() error {
	c.req.reset()
	if c.in.len() == 0 {
		if err := c.awaitRequest(); err != nil {
			return err
		}
	}
	var begun time.Time
	for {
		switch c.req.parse(c.in.bytes()) {
		case complete:
			if !begun.IsZero() {
				_ = c.client.SetReadDeadline(time.Time{})
			}
			return nil
		case doubtful:
			return c.unread(begun)
		}
		if c.in.full() {
			return c.unread(begun)
		}
		if begun.IsZero() {
			begun = time.Now()
		}
		patience := headPatience
		if c.req.next == 0 {
			patience = linePatience
		}
		_ = c.client.SetReadDeadline(begun.Add(patience))
		if err := c.in.fill(c.client); isTimeout(err) || isEnd(err) {
			return c.unread(begun)
		} else if err != nil {
			return err
		}
	}
}

// unread gives up on a head.
func (c *conn) unread(begun time.Time) error {
	if !begun.IsZero() {
		_ = c.client.SetReadDeadline(time.Time{})
	}
	return errWire
}

// awaitRequest waits, for as long as it takes, for the first byte of another request.
func (c *conn) awaitRequest() error {
	c.out.release()
	c.in.release()
	for {
		c.setPhase(idle, nil)
		err := c.in.fill(c.client)
		poked := c.leaveIdle()
		if err == nil || !poked || !isTimeout(err) {
			return err
		}
		if err := c.originStirred(); err != nil {
			return err
		}
	}
}

// originStirred decides what becomes of an idle connection whose origin has ended its
// side or has spoken unasked; nil is to go on waiting.
func (c *conn) originStirred() error {
	if c.sock.peek() == hasData {
		return nil // a request came just then: it gets another connection
	}
	if c.byTunnel {
		c.drop(c.origin) // this client's requests go to a laptop; the next may need no origin
		return nil
	}
	switch c.origin.sock.peek() {
	case hasData:
		return errUnasked
	case ended, wasReset:
		if c.origin.sock.gone() { // check's look has taken the error
			return errReset
		}
		return io.EOF
	}
	return nil
}

func (c *conn) setPhase(p phase, active *upstream) {
	c.mu.Lock()
	c.phase, c.active = p, active
	c.mu.Unlock()
}

// leaveIdle reports whether check has ended the wait.
func (c *conn) leaveIdle() bool {
	c.mu.Lock()
	poked := c.poked
	c.phase, c.poked = busy, false
	c.mu.Unlock()
	if poked {
		_ = c.client.SetReadDeadline(time.Time{})
	}
	return poked
}

// check looks at what c's goroutine cannot see in its phase, and does what a direct
// connection would have done at once.
func (c *conn) check() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	if c.h2 != nil {
		c.h2.tick(time.Now())
		return
	}
	switch c.phase {
	case idle:
		if c.origin == nil || c.poked {
			return
		}
		if seen := c.origin.sock.peek(); seen != quiet && seen != unknown {
			c.poked = true
			_ = c.client.SetReadDeadline(past)
		}
	case answering:
		switch c.sock.peek() {
		case ended:
			c.phase, c.hungUp = busy, true
			c.router.detach(c.active, closeWrite)
		case wasReset:
			c.closeAll(hardClose)
		}
	case answeringMore:
		if c.sock.gone() {
			c.closeAll(hardClose)
		}
	case halfOpen:
		if !c.upload.finished && c.active.sock.gone() {
			c.closeAll(hardClose)
		}
	}
}

// abort resets the connection, and reports whether that took anything from its client.
func (c *conn) abort() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended:
		return false
	case c.phase == leaving:
		c.closeAll(softClose)
		return false
	}
	c.closeAll(hardClose)
	return true
}

// closeAll ends c, which wakes its goroutine wherever it is. c.mu is held.
func (c *conn) closeAll(by func(net.Conn)) {
	c.ended = true
	by(c.client)
	for _, u := range [...]*upstream{c.origin, c.tunnel} {
		if u != nil {
			c.router.detach(u, by)
		}
	}
	if c.h2 != nil {
		c.h2.abort(by)
	}
}

// detach does something to u that may block if u is a stream in a stalled tunnel, but
// must not block whoever asks.
func (r *Router) detach(u *upstream, do func(net.Conn)) {
	if u.sock != nil {
		do(u.Conn)
		return
	}
	r.wg.Go(func() { do(u.Conn) })
}

func (c *conn) isEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// gaveUp reports whether the client has ended its side while it waited for an answer.
func (c *conn) gaveUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hungUp || c.ended
}

// end closes what is open, and returns when nothing works for c any more.
func (c *conn) end(how ending) {
	c.mu.Lock()
	if how == endClose {
		c.closeAll(softClose)
	} else {
		c.closeAll(hardClose)
	}
	c.mu.Unlock()
	if c.upload != nil {
		<-c.upload.done
	}
	c.in.release()
	c.out.release()
	c.port.forget(c)
}
