package intercept

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	originTries    = 3
	connectTimeout = 2 * time.Second // of each try
)

var errNoEndpoints = errors.New("no ready endpoints")

// dialOrigin connects to one of l's endpoints. client selects it if the Service
// has ClientIP affinity.
func (p *port) dialOrigin(l *listener, client netip.Addr) (net.Conn, error) {
	var order [originTries]netip.AddrPort
	eps := p.router.opts.Endpoints(l.Origin)
	n := 0
	if l.AffinitySeconds > 0 {
		n = rendezvous(order[:], eps, client)
	} else {
		n = p.roundRobin(order[:], eps)
	}
	p.router.silent.last(order[:n], time.Now())
	err := errNoEndpoints
	for _, ep := range order[:n] {
		var c net.Conn
		if c, err = p.router.connect(ep); err == nil {
			p.router.silent.answered(ep)
			return c, nil
		}
		if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) || errors.Is(err, syscall.EHOSTUNREACH) {
			p.router.silent.add(ep, time.Now())
		}
		if !tryAnother(err) {
			break
		}
	}
	return nil, fmt.Errorf("connecting to %s: %w", l.Origin, err)
}

// silentTime is how long an endpoint that did not answer is the last to be tried.
const silentTime = 10 * time.Second

// silentEndpoints remembers endpoints that did not answer, such as those of a node that was cut off, which Kubernetes
// takes a while to notice: one client waits for each of them now and then, not every client.
type silentEndpoints struct {
	some atomic.Bool // until is not empty

	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

func (s *silentEndpoints) add(ep netip.AddrPort, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil {
		s.until = make(map[netip.AddrPort]time.Time)
	}
	s.until[ep] = now.Add(silentTime)
	s.some.Store(true)
}

func (s *silentEndpoints) answered(ep netip.AddrPort) {
	if !s.some.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.until, ep)
}

// last moves the silent ones of order to its end. Whoever finds that the time of one is over tries it, and nobody else
// meanwhile.
func (s *silentEndpoints) last(order []netip.AddrPort, now time.Time) {
	if !s.some.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for ep, until := range s.until {
		if now.Sub(until) > silentTime { // nobody has missed it
			delete(s.until, ep)
		}
	}
	s.some.Store(len(s.until) > 0)
	slices.SortStableFunc(order, func(a, b netip.AddrPort) int {
		return cmp.Compare(s.rank(a, now), s.rank(b, now))
	})
	if len(order) > 0 {
		if until, ok := s.until[order[0]]; ok && !now.Before(until) {
			s.until[order[0]] = now.Add(silentTime)
		}
	}
}

// rank is 1 for an endpoint that is to be tried last; s.mu is held.
func (s *silentEndpoints) rank(ep netip.AddrPort, now time.Time) int {
	if until, ok := s.until[ep]; ok && now.Before(until) {
		return 1
	}
	return 0
}

func (r *Router) connect(ep netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(r.ctx, connectTimeout)
	defer cancel()
	return r.opts.Dial(ctx, ep)
}

// tryAnother reports whether err says something about the endpoint rather than about us.
func tryAnother(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false
	}
	return errors.Is(err, context.DeadlineExceeded) || isTimeout(err) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

func (p *port) roundRobin(order, eps []netip.AddrPort) int {
	n := min(len(order), len(eps))
	if n == 0 {
		return 0
	}
	first := int(p.turn.Add(1) % uint32(len(eps)))
	for i := range n {
		order[i] = eps[(first+i)%len(eps)]
	}
	return n
}

// rendezvous puts the endpoints of highest weight for client into order, best first. Every
// router computes the same, and an endpoint that goes moves only its own clients.
func rendezvous(order, eps []netip.AddrPort, client netip.Addr) int {
	type ranked struct {
		ep     netip.AddrPort
		weight uint64
	}
	all := make([]ranked, len(eps))
	for i, ep := range eps {
		all[i] = ranked{ep, weigh(client, ep)}
	}
	slices.SortFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), a.ep.Compare(b.ep))
	})
	n := min(len(order), len(all))
	for i := range n {
		order[i] = all[i].ep
	}
	return n
}

// weigh hashes a pair of addresses with FNV-1a and a final mix, since all routers must agree.
func weigh(client netip.Addr, ep netip.AddrPort) uint64 {
	h := uint64(14695981039346656037)
	add := func(b byte) { h = (h ^ uint64(b)) * 1099511628211 }
	a, e := client.As16(), ep.Addr().As16()
	for _, b := range a {
		add(b)
	}
	for _, b := range e {
		add(b)
	}
	add(byte(ep.Port() >> 8))
	add(byte(ep.Port()))
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// randomTurn makes routers that start together begin at different endpoints.
func randomTurn() uint32 {
	return uint32(maphash.String(maphash.MakeSeed(), ""))
}

// upstream is the connection of one client connection to its origin or to a laptop.
type upstream struct {
	net.Conn
	sock  *sock  // nil if it is not TCP
	route *route // nil: the origin
	used  bool   // it has carried a request

	pending func() error // waits until the laptop's process has accepted; nil once it has
}

func newUpstream(c net.Conn, rt *route) *upstream {
	u := &upstream{Conn: c, sock: sockOf(c), route: rt}
	if s, ok := c.(interface{ Accepted() error }); ok {
		u.pending = s.Accepted
	}
	return u
}

// accepted waits until whoever u leads to has accepted it.
func (u *upstream) accepted() error {
	if u.pending == nil {
		return nil
	}
	err := u.pending()
	if err == nil {
		u.pending = nil
	}
	return err
}

// alive reports whether u can carry a request now. Bytes that nobody asked for, such as
// a 408 before the end, mean that it cannot.
func (u *upstream) alive() bool {
	if u.sock == nil {
		s, ok := u.Conn.(interface{ Quiet() bool })
		return ok && s.Quiet()
	}
	s := u.sock.peek()
	return s == quiet || s == unknown
}
