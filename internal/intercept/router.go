package intercept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what a Router needs of the world. Endpoints is required.
type Options struct {
	// Listen opens the listener of a port. Default: TCP on every address.
	Listen func(port int) (net.Listener, error)
	// ListenUDP opens the socket of a UDP port. Default: on every address.
	ListenUDP func(port int) (*net.UDPConn, error)
	// Endpoints returns the ready endpoints of an origin now. It is called for every
	// dial, and the result is only read.
	Endpoints func(origin string) []netip.AddrPort
	// Dial connects to an endpoint. Default: a net.Dialer.
	Dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// DialTunnel opens a stream to the laptop's port for a route. An error makes the
	// request go to the origin. The stream must honour read deadlines, with
	// os.ErrDeadlineExceeded, and should have
	// CloseWrite() error, and Reset() error where it can tell a reset from an end. If it is not TCP it should have
	// Quiet() bool, which says at once whether it is open and has nothing to read: without it, it carries one request.
	// If it is returned before the laptop's process has accepted the connection it must have Accepted() error, which waits
	// for that: it is called before the first read, and its error ends the stream. For a UDP
	// port each Read and Write of it is one datagram, and it should have Await() error, which
	// waits until there is one to read.
	// Default: there is no tunnel, so every request falls back.
	DialTunnel func(ctx context.Context, route Route, client net.Addr) (net.Conn, error)
	// MaxConns is how many connections are served at once, at all ports (see hasRoom). Default: as many as there are
	// files for, at most 16384.
	MaxConns int
	// Observe is told of every request that matched a rule, and of every raw connection that a
	// laptop got, when it has ended. It must not block. Default: nobody is.
	Observe func(Exchange)
	// Logger is told of what an operator might act on. Default: discarded.
	Logger *slog.Logger

	flowBounds flowBounds
}

func (o *Options) complete() error {
	if o.Endpoints == nil {
		return errors.New("intercept: Options.Endpoints is missing")
	}
	if o.Listen == nil {
		o.Listen = listenTCP
	}
	if o.ListenUDP == nil {
		o.ListenUDP = listenUDP
	}
	if o.flowBounds == (flowBounds{}) {
		o.flowBounds = defaultFlowBounds
	}
	if o.Dial == nil {
		o.Dial = Dial
	}
	if o.DialTunnel == nil {
		o.DialTunnel = func(context.Context, Route, net.Addr) (net.Conn, error) {
			return nil, errors.New("no tunnel")
		}
	}
	if o.MaxConns == 0 {
		o.MaxConns = roomFor(maxFiles())
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func listenTCP(port int) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // splice(2) and TCP_INFO want plain TCP
	return lc.Listen(context.Background(), "tcp", ":"+strconv.Itoa(port))
}

// Dial connects to an endpoint; it is the default of Options.Dial.
func Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, addr)
	if err != nil {
		return nil, err // not a nil *TCPConn in an interface
	}
	return c, nil
}

// Router serves the connections of captured ports by the table in force.
type Router struct {
	opts  Options
	table atomic.Pointer[table]

	serving atomic.Int64 // connections
	heldUp  atomic.Int64 // bytes of requests in HTTP/2 that laptops do not take yet
	closing atomic.Bool  // Close was called: drain
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup // everything the router has started

	applying sync.Mutex // held by Apply and Close
	sweeping sync.Once

	silent silentEndpoints

	mu      sync.Mutex
	ports   map[int]*port
	swapped chan struct{} // closed when another table is in force
}

// New makes a router with an empty table, which listens nowhere.
func New(opts Options) (*Router, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	r := &Router{opts: opts, ports: make(map[int]*port), swapped: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.table.Store(compile(Table{}))
	return r, nil
}

// Apply puts t in force. When it returns nil, every connection that is accepted
// and every request that comes from then on is routed by t, also on connections
// that were open before. On error the former table stays in force.
//
// A listener that is no longer in the table is closed and its open connections are reset;
// to end a capture gently, set DrainUntil first and remove it when
// Status shows no open connection.
func (r *Router) Apply(ctx context.Context, t Table) error {
	if err := t.validate(); err != nil {
		return fmt.Errorf("checking table %q: %w", t.Version, err)
	}
	r.applying.Lock()
	defer r.applying.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("applying table %q: %w", t.Version, err)
	}
	if r.closing.Load() {
		return fmt.Errorf("applying table %q: %w", t.Version, net.ErrClosed)
	}
	opened, err := r.open(t.Listeners)
	if err != nil {
		return fmt.Errorf("applying table %q: %w", t.Version, err)
	}
	r.install(compile(t), opened)
	return nil
}

// open listens on the ports of ls that are not open yet: on all, or on none.
func (r *Router) open(ls []Listener) ([]*port, error) {
	var opened []*port
	var errs []error
	for _, l := range ls {
		if r.port(l.key()) != nil {
			continue
		}
		p, err := r.openPort(&l)
		if err != nil {
			errs = append(errs, fmt.Errorf("listening on port %d for %s: %w", l.Port, l.Service, err))
			continue
		}
		opened = append(opened, p)
	}
	if len(errs) == 0 {
		return opened, nil
	}
	for _, p := range opened {
		p.remove()
	}
	return nil, errors.Join(errs...)
}

func (r *Router) openPort(l *Listener) (*port, error) {
	if l.UDP {
		conn, err := r.opts.ListenUDP(l.Port)
		if err != nil {
			return nil, err
		}
		p := newPort(r, l.key(), nil)
		p.flows = newFlows(p, conn)
		return p, nil
	}
	ln, err := r.opts.Listen(l.Port)
	if err != nil {
		return nil, err
	}
	return newPort(r, l.key(), ln), nil
}

// install puts t in force: counters first, then the table, then the doors.
func (r *Router) install(t *table, opened []*port) {
	r.mu.Lock()
	for _, p := range opened {
		r.ports[p.number] = p
	}
	var removed []*port
	for n, p := range r.ports {
		if l := t.ports[n]; l != nil {
			p.adopt(l)
			continue
		}
		removed = append(removed, p)
		delete(r.ports, n)
	}
	r.mu.Unlock()

	r.table.Store(t)
	r.announce()
	for _, p := range removed {
		p.remove()
	}
	for _, l := range t.ports {
		r.port(l.key()).resetOthers(l.capture())
	}
	for _, p := range opened {
		r.wg.Go(p.accept)
	}
	r.sweeping.Do(func() { r.wg.Go(r.sweep) })
}

func (r *Router) port(n int) *port {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ports[n]
}

func (r *Router) allPorts() []*port {
	r.mu.Lock()
	defer r.mu.Unlock()
	ps := make([]*port, 0, len(r.ports))
	for _, p := range r.ports {
		ps = append(ps, p)
	}
	return ps
}

// Close stops accepting, drains open connections until ctx is done, and resets what is
// left. When it returns, everything the router had started is gone.
func (r *Router) Close(ctx context.Context) {
	r.closing.Store(true)
	r.applying.Lock()
	defer r.applying.Unlock()
	ports := r.allPorts()
	for _, p := range ports {
		if p.ln != nil {
			_ = p.ln.Close()
		}
	}
	for _, p := range ports {
		p.awaitEmpty(ctx)
	}
	for _, p := range ports {
		p.remove()
	}
	r.cancel()
	r.wg.Wait()
}

// port is one open port of the router, and what is counted of it. It outlives tables.
type port struct {
	router *Router
	number int           // its key
	ln     net.Listener  // nil if it is UDP
	flows  *flows        // nil if it is TCP
	turn   atomic.Uint32 // of round robin

	accepted, origin, matched, wired, fallbacks, resets, crowded, forbidden atomic.Uint64

	full atomic.Bool // the last newcomer was turned away, and that was logged

	mu      sync.Mutex
	removed bool
	empty   chan struct{} // closed when conns gets empty, if somebody waits
	conns   map[*conn]struct{}
	callers map[netip.Addr]int      // connections of each
	met     map[netip.Addr]struct{} // the first MostMet callers of this capture
	capture capture
	routes  map[string]*routeStats
}

type routeStats struct {
	requests, fallbacks atomic.Uint64
	failing             atomic.Bool // the last dial failed, and was logged
}

func newPort(r *Router, n int, ln net.Listener) *port {
	p := &port{router: r, number: n, ln: ln, conns: make(map[*conn]struct{}), callers: make(map[netip.Addr]int), met: make(map[netip.Addr]struct{}), routes: make(map[string]*routeStats)}
	p.turn.Store(randomTurn())
	return p
}

// adopt gives the routes of l their counters, those they had if the capture is the same.
func (p *port) adopt(l *listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.routes
	if p.capture != l.capture() {
		old = nil
		clear(p.met)
		for _, n := range []*atomic.Uint64{&p.accepted, &p.origin, &p.matched, &p.wired, &p.fallbacks, &p.resets, &p.crowded, &p.forbidden} {
			n.Store(0)
		}
	}
	p.capture = l.capture()
	p.routes = make(map[string]*routeStats, len(l.Routes))
	count := func(r *route) {
		if r.stats = old[r.ID]; r.stats == nil {
			r.stats = new(routeStats)
		}
		p.routes[r.ID] = r.stats
	}
	for _, r := range slices.Concat(l.rules, l.sni) {
		count(r)
	}
	if l.all != nil {
		count(l.all)
	}
}

func (p *port) accept() {
	if p.flows != nil {
		p.flows.serve()
		return
	}
	for {
		c, err := p.ln.Accept()
		switch {
		case err == nil:
			p.router.serve(p, c)
		case errors.Is(err, net.ErrClosed):
			return
		default: // such as too many open files: others may go
			p.router.opts.Logger.Warn("accepting connections", "port", p.number, "error", err)
			select {
			case <-p.router.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// serve starts serving client, unless its port has just left the table.
func (r *Router) serve(p *port, client net.Conn) {
	c := newConn(r, p, client)
	p.mu.Lock()
	// The table is read under the lock, so that a connection is either seen by
	// resetOthers or belongs to the table that resetOthers came with.
	l := r.table.Load().ports[p.number]
	ok := l != nil && !p.removed
	room := ok && p.hasRoom(c.ip)
	if room {
		c.capture = l.capture()
		p.enter(c)
	}
	p.mu.Unlock()
	switch {
	case !ok:
		hardClose(client)
		return
	case !room:
		p.turnAway(c)
		return
	}
	p.full.Store(false)
	p.accepted.Add(1)
	r.wg.Go(c.serve)
}

func (p *port) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leave(c)
	if len(p.conns) == 0 && p.empty != nil {
		close(p.empty)
		p.empty = nil
	}
}

// remove closes the port and resets what is open.
func (p *port) remove() {
	p.mu.Lock()
	p.removed = true
	p.mu.Unlock()
	if p.flows != nil {
		p.flows.close()
		return
	}
	_ = p.ln.Close()
	p.abort(func(*conn) bool { return true })
}

// resetOthers resets the connections that belong to another capture, which had this port before.
func (p *port) resetOthers(is capture) {
	if p.flows != nil {
		p.flows.endAll(func(f *flow) bool { return f.capture != is })
		return
	}
	p.abort(func(c *conn) bool { return c.capture != is })
}

// abort resets the connections that which selects, and counts them.
func (p *port) abort(which func(*conn) bool) {
	for _, c := range p.snapshot(nil) {
		if which(c) && c.abort() {
			p.resets.Add(1)
		}
	}
}

func (p *port) snapshot(into []*conn) []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		into = append(into, c)
	}
	return into
}

func (p *port) awaitEmpty(ctx context.Context) {
	if p.flows != nil {
		p.flows.awaitEmpty(ctx)
		return
	}
	p.mu.Lock()
	if len(p.conns) == 0 {
		p.mu.Unlock()
		return
	}
	if p.empty == nil {
		p.empty = make(chan struct{})
	}
	empty := p.empty
	p.mu.Unlock()
	select {
	case <-empty:
	case <-ctx.Done():
	}
}
