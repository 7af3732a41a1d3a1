package router

import (
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/intercept"
)

const (
	pastFor = 15 * time.Minute // that an ended route's counts are told: longer than any drain
	maxPast = 4096
)

// flows counts what goes to and comes from laptops: of each route, for the audit, and of all together.
type flows struct {
	opened, sent, received atomic.Uint64 // streams; bytes to and from laptops

	mu     sync.Mutex
	routes map[string]*flow    // by route ID, those of the table in force
	past   map[string]pastFlow // routes that have left the table
}

type flow struct{ sent, received atomic.Uint64 }

type pastFlow struct {
	*flow
	requests, fallbacks uint64
	left                time.Time
}

func newFlows() *flows { return &flows{routes: map[string]*flow{}, past: map[string]pastFlow{}} }

// count returns the stream such that its bytes are counted for the route.
func (f *flows) count(route string, stream net.Conn) *countedStream {
	f.mu.Lock()
	one := f.routes[route]
	if one == nil {
		one = &flow{}
		f.routes[route] = one
	}
	f.mu.Unlock()
	f.opened.Add(1)
	return &countedStream{stream, one, f}
}

// leave notes which routes are in the table after it was replaced; before is what was counted until then.
func (f *flows) leave(before intercept.Status, now []intercept.Listener) {
	stays := map[string]bool{}
	for _, l := range now {
		for _, r := range l.Routes {
			stays[r.ID] = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, p := range f.past {
		if stays[id] || time.Since(p.left) > pastFor {
			delete(f.past, id)
		}
	}
	for _, l := range before.Listeners {
		for _, r := range l.Routes {
			if stays[r.ID] {
				continue
			}
			one := f.routes[r.ID]
			delete(f.routes, r.ID)
			if one == nil {
				one = &flow{}
			}
			if len(f.past) < maxPast && r.Requests > 0 {
				f.past[r.ID] = pastFlow{one, r.Requests, r.Fallbacks, time.Now()}
			}
		}
	}
	maps.DeleteFunc(f.routes, func(id string, _ *flow) bool { return !stays[id] })
}

// told is what the controller hears of each route that had a request.
func (f *flows) told(now intercept.Status) map[string]control.Flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[string]control.Flow{}
	add := func(id string, one *flow, requests, fallbacks uint64) {
		c := control.Flow{Requests: requests, Fallbacks: fallbacks}
		if one != nil {
			c.Sent, c.Received = one.sent.Load(), one.received.Load()
		}
		out[id] = c
	}
	for id, p := range f.past {
		add(id, p.flow, p.requests, p.fallbacks)
	}
	for _, l := range now.Listeners {
		for _, r := range l.Routes {
			if r.Requests > 0 {
				add(r.ID, f.routes[r.ID], r.Requests, r.Fallbacks)
			}
		}
	}
	return out
}

// countedStream is a stream to a laptop whose bytes are counted.
type countedStream struct {
	net.Conn
	route *flow
	all   *flows
}

func (s *countedStream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.route.received.Add(uint64(n))
	s.all.received.Add(uint64(n))
	return n, err
}

func (s *countedStream) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	s.route.sent.Add(uint64(n))
	s.all.sent.Add(uint64(n))
	return n, err
}

// CloseWrite and Reset are what the engine asks of a stream besides (see intercept.Options.DialTunnel).
func (s *countedStream) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return s.Close()
}

func (s *countedStream) Reset() error {
	if c, ok := s.Conn.(interface{ Reset() error }); ok {
		return c.Reset()
	}
	return s.Close()
}
