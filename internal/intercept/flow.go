package intercept

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxDatagram = 65535
	// settledAfter, idleNew and idleSettled are how Linux remembers UDP: a flow that has gone both
	// ways for a while is kept longer.
	settledAfter = 2 * time.Second
	idleNew      = 30 * time.Second
	idleSettled  = 120 * time.Second
	// idleLeaving is how long a flow may be silent that should be elsewhere, or whose port is ending.
	idleLeaving = time.Second
	// lateAnswers is how long a flow that has moved still passes on what its former upstream says.
	lateAnswers = 2 * time.Second
	// retryLaptop is how long a flow stays with the origin before its laptop is asked again.
	retryLaptop = 5 * time.Second
	// checkEndpoint is how often a flow looks whether the pod that it goes to is still there.
	checkEndpoint = 250 * time.Millisecond
	// slowLaptop is how long a tunnel may refuse to take a datagram before it counts as lost.
	slowLaptop = 5 * time.Second
)

var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// flow is what one client and one upstream say to one another: the connection of a protocol that
// has none. Datagrams that come while it dials wait in a short queue; what does not fit is lost, as
// on any network. Its own goroutine writes, one for each upstream reads.
type flow struct {
	flows   *flows
	client  netip.AddrPort // as the socket says it
	capture capture
	since   time.Time
	queue   chan []byte
	ended   chan struct{}

	used     atomic.Int64 // nanoseconds since the epoch, of the last datagram in either direction
	sentAt   time.Time    // of the client's last; guarded by flows.mu
	answered atomic.Bool

	mu      sync.Mutex
	up      *target // where datagrams go
	readers sync.WaitGroup
}

// target is an upstream of a flow. Each Read and Write is one datagram.
type target struct {
	net.Conn
	route *route         // nil: the origin
	at    netip.AddrPort // of the origin
	gone  atomic.Bool    // it has ended by itself

	again   time.Time // when to ask the laptop again that should have had this flow
	checked time.Time // that at is still an endpoint
}

// run writes what the client sends until the flow ends.
func (f *flow) run() {
	defer f.readers.Wait()
	for {
		select {
		case <-f.ended:
			f.move(nil)
			return
		case b := <-f.queue:
			f.flows.queued.Add(-int64(len(b)))
			if !f.send(b) {
				f.flows.dropped.Add(1)
			}
		}
	}
}

// send writes one datagram to where the table in force wants it. An upstream that turns out to
// have ended is replaced once.
func (f *flow) send(b []byte) bool {
	for range 2 {
		up := f.aim(time.Now())
		if up == nil {
			return false
		}
		if up.route != nil {
			_ = up.SetWriteDeadline(time.Now().Add(slowLaptop))
		}
		if _, err := up.Write(b); err == nil {
			return true
		}
		up.gone.Store(true)
	}
	return false
}

// aim returns the upstream for the next datagram, moving the flow if it has to; nil: there is none.
func (f *flow) aim(now time.Time) *target {
	l := f.flows.listener()
	if l == nil || l.capture() != f.capture {
		return nil
	}
	up := f.up // only this goroutine writes it
	var again time.Time
	if l.all != nil {
		if up.serves(l.all) {
			return up
		}
		if up == nil || up.gone.Load() || now.After(up.again) {
			c, err := f.flows.dialTunnel(l.all, f.client)
			if err == nil {
				return f.move(&target{Conn: c, route: l.all})
			}
			again = time.Now().Add(retryLaptop)
		}
	}
	if f.staysAt(up, l, now) {
		if !again.IsZero() {
			up.again = again
		}
		return up
	}
	c, at, err := f.flows.dialOrigin(l, f.client.Addr().Unmap())
	if err != nil {
		f.flows.port.router.opts.Logger.Debug("dropping a datagram", "service", l.Service, "port", l.ServicePort, "error", err)
		return f.move(nil)
	}
	return f.move(&target{Conn: c, at: at, again: again, checked: now})
}

// serves says whether t is the laptop of a route.
func (t *target) serves(rt *route) bool {
	return t != nil && t.route != nil && t.route.ID == rt.ID && !t.gone.Load()
}

// staysAt says whether up is a pod of the origin that still is one.
func (f *flow) staysAt(up *target, l *listener, now time.Time) bool {
	if up == nil || up.route != nil || up.gone.Load() {
		return false
	}
	if now.Sub(up.checked) < checkEndpoint {
		return true
	}
	up.checked = now
	return slices.Contains(f.flows.port.router.opts.Endpoints(l.Origin), up.at)
}

// move makes t the flow's upstream. What the former one still has to say is passed on for a moment.
func (f *flow) move(t *target) *target {
	f.mu.Lock()
	old := f.up
	f.up = t
	f.mu.Unlock()
	if old != nil {
		select {
		case <-f.ended:
			_ = old.Close()
		default:
			_ = old.SetReadDeadline(time.Now().Add(lateAnswers))
		}
	}
	if t != nil {
		f.readers.Go(func() { f.read(t) })
	}
	return t
}

// read passes on what an upstream says until it ends.
func (f *flow) read(t *target) {
	defer t.Close()
	defer t.gone.Store(true)
	for awaitDatagram(t.Conn) == nil {
		buf := datagrams.Get().(*[maxDatagram]byte)
		n, err := t.Read(buf[:])
		if err == nil {
			f.answered.Store(true)
			f.touch(time.Now())
			f.flows.reply(buf[:n], f.client)
		}
		datagrams.Put(buf)
		if err != nil {
			return
		}
	}
}

// awaitDatagram waits for something to read, so that a silent flow holds no buffer. Where that
// cannot be done it returns at once.
func awaitDatagram(c net.Conn) error {
	switch c := c.(type) {
	case *net.UDPConn:
		return awaitReadable(c)
	case interface{ Await() error }:
		return c.Await()
	}
	return nil
}

func (f *flow) touch(now time.Time) { f.used.Store(now.UnixNano()) }

// over says whether the flow has been silent for too long.
func (f *flow) over(l *listener, closing bool, now time.Time) bool {
	idle := now.Sub(time.Unix(0, f.used.Load()))
	switch {
	case l == nil || l.draining() || closing || f.misplaced(l):
		return idle > idleLeaving
	case f.answered.Load() && now.Sub(f.since) > settledAfter:
		return idle > idleSettled
	}
	return idle > idleNew
}

// misplaced says whether the flow is with a laptop that it should not be with any more.
func (f *flow) misplaced(l *listener) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.up != nil && f.up.route != nil && (l.all == nil || l.all.ID != f.up.route.ID)
}

// dialTunnel connects a flow to a route's laptop.
func (s *flows) dialTunnel(rt *route, client netip.AddrPort) (net.Conn, error) {
	r := s.port.router
	rt.stats.requests.Add(1)
	s.port.matched.Add(1)
	ctx, cancel := context.WithTimeout(r.ctx, tunnelTimeout)
	defer cancel()
	c, err := r.dialTunnel(ctx, rt, net.UDPAddrFromAddrPort(client))
	if err == nil {
		rt.stats.failing.Store(false)
		return c, nil
	}
	rt.stats.fallbacks.Add(1)
	s.port.fallbacks.Add(1)
	if !rt.stats.failing.Swap(true) {
		r.opts.Logger.Warn("laptop out of reach, the origin answers", "route", rt.ID, "session", rt.Session, "error", err)
	}
	return nil, err
}

// dialOrigin makes a socket that hears one endpoint only, so that its answers are this flow's.
func (s *flows) dialOrigin(l *listener, client netip.Addr) (net.Conn, netip.AddrPort, error) {
	var order [1]netip.AddrPort
	eps := s.port.router.opts.Endpoints(l.Origin)
	n := 0
	if l.AffinitySeconds > 0 {
		n = rendezvous(order[:], eps, client)
	} else {
		n = s.port.roundRobin(order[:], eps)
	}
	if n == 0 {
		return nil, order[0], errNoEndpoints
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(order[0]))
	if err != nil {
		return nil, order[0], err
	}
	s.port.origin.Add(1)
	return c, order[0], nil
}
