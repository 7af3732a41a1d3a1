package intercept

import (
	"container/list"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// flowBounds keep what strangers can make a port hold within limits.
type flowBounds struct {
	flows     int   // of the port; beyond it, or beyond what hasRoom gives a port, the one that was silent longest makes room
	perClient int   // of one address; beyond it the one of its own that was silent longest makes room
	queue     int   // datagrams of one flow that wait for its upstream
	queued    int64 // bytes that wait at the port
}

var defaultFlowBounds = flowBounds{flows: 4096, perClient: 1024, queue: 64, queued: 8 << 20}

// flows are those of one UDP port.
type flows struct {
	port   *port
	conn   *net.UDPConn
	bounds flowBounds

	queued  atomic.Int64
	dropped atomic.Uint64 // datagrams

	mu       sync.Mutex
	closed   bool
	byClient map[netip.AddrPort]*list.Element // of *flow
	perAddr  map[netip.Addr]int
	order    list.List // of *flow, those whose client was silent longest first
}

func listenUDP(port int) (*net.UDPConn, error) {
	return net.ListenUDP("udp", &net.UDPAddr{Port: port})
}

func newFlows(p *port, conn *net.UDPConn) *flows {
	_ = conn.SetReadBuffer(1 << 20) // as much of it as the host allows
	return &flows{port: p, conn: conn, bounds: p.router.opts.flowBounds,
		byClient: make(map[netip.AddrPort]*list.Element), perAddr: make(map[netip.Addr]int)}
}

// listener is what the table in force says of the port; nil: nothing.
func (s *flows) listener() *listener { return s.port.router.table.Load().ports[s.port.number] }

// serve reads what clients send until the port is closed.
func (s *flows) serve() {
	buf := make([]byte, maxDatagram)
	for {
		n, client, err := s.conn.ReadFromUDPAddrPort(buf)
		switch {
		case err == nil:
			s.deliver(buf[:n], client)
		case errors.Is(err, net.ErrClosed):
			return
		default: // such as no memory for the moment
			select {
			case <-s.port.router.ctx.Done():
				return
			case <-time.After(time.Millisecond):
			}
		}
	}
}

// deliver queues one datagram with its flow, and never waits.
func (s *flows) deliver(b []byte, client netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flow(client, time.Now())
	if f == nil || s.queued.Load()+int64(len(b)) > s.bounds.queued {
		s.dropped.Add(1)
		return
	}
	select {
	case f.queue <- append([]byte(nil), b...):
		s.queued.Add(int64(len(b)))
	default:
		s.dropped.Add(1)
	}
}

// flow returns the flow of a client, a new one if need be; nil if the port serves nothing. s.mu is held.
func (s *flows) flow(client netip.AddrPort, now time.Time) *flow {
	if e := s.byClient[client]; e != nil {
		f := e.Value.(*flow)
		f.sentAt = now
		f.touch(now)
		s.order.MoveToBack(e)
		return f
	}
	l := s.listener()
	if l == nil || s.closed {
		return nil
	}
	if !l.admits(client.Addr().Unmap()) {
		s.port.forbidden.Add(1)
		return nil
	}
	s.makeRoom(client.Addr().Unmap())
	if int(s.port.router.serving.Load()) >= s.port.router.opts.MaxConns {
		return nil // all places are taken, none of them by this port
	}
	s.port.router.serving.Add(1)
	f := &flow{flows: s, client: client, capture: l.capture(), since: now, sentAt: now,
		queue: make(chan []byte, s.bounds.queue), ended: make(chan struct{})}
	f.touch(now)
	s.byClient[client] = s.order.PushBack(f)
	s.perAddr[client.Addr().Unmap()]++
	s.port.accepted.Add(1)
	s.port.router.wg.Go(f.run)
	return f
}

// makeRoom ends a flow if one more of an address would be too many. s.mu is held.
func (s *flows) makeRoom(addr netip.Addr) {
	all := len(s.byClient) >= s.bounds.flows || s.port.router.opts.MaxConns-int(s.port.router.serving.Load()) <= len(s.byClient)
	own := s.perAddr[addr] >= s.bounds.perClient
	for e := s.order.Front(); e != nil && (all || own); e = e.Next() {
		if f := e.Value.(*flow); !own || f.client.Addr().Unmap() == addr {
			s.end(e)
			return
		}
	}
}

// end ends a flow. What its queue holds is lost. s.mu is held.
func (s *flows) end(e *list.Element) {
	f := s.order.Remove(e).(*flow)
	delete(s.byClient, f.client)
	s.port.router.serving.Add(-1)
	addr := f.client.Addr().Unmap()
	if s.perAddr[addr]--; s.perAddr[addr] == 0 {
		delete(s.perAddr, addr)
	}
	close(f.ended)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.up != nil {
		s.shut(f.up.Conn) // wakes its writer and its reader
	}
	for {
		select {
		case b := <-f.queue:
			s.queued.Add(-int64(len(b)))
		default:
			return
		}
	}
}

// shut closes an upstream; a stalled tunnel must not block whoever asks.
func (s *flows) shut(c net.Conn) {
	if _, ok := c.(*net.UDPConn); ok {
		_ = c.Close()
		return
	}
	s.port.router.wg.Go(func() { _ = c.Close() })
}

// expire ends the flows that were silent for too long.
func (s *flows) expire(now time.Time) {
	l, closing := s.listener(), s.port.router.closing.Load()
	hurry := l == nil || l.draining() || closing
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.order.Front(); e != nil; {
		next := e.Next()
		f := e.Value.(*flow)
		if !hurry && now.Sub(f.sentAt) < idleLeaving {
			return // all that follow were used later
		}
		if f.over(l, closing, now) {
			s.end(e)
		}
		e = next
	}
}

// endAll ends the flows that which selects.
func (s *flows) endAll(which func(*flow) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.order.Front(); e != nil; {
		next := e.Next()
		if which(e.Value.(*flow)) {
			s.end(e)
		}
		e = next
	}
}

// close ends the port and every flow.
func (s *flows) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.conn.Close()
	s.endAll(func(*flow) bool { return true })
}

// open is how many flows there are.
func (s *flows) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byClient)
}

// awaitEmpty waits until all flows have fallen silent.
func (s *flows) awaitEmpty(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for s.open() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *flows) reply(b []byte, client netip.AddrPort) {
	if _, err := s.conn.WriteToUDPAddrPort(b, client); err != nil {
		s.dropped.Add(1)
	}
}
