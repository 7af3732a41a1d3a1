package intercept

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Status is what a router has seen since its listeners were opened.
type Status struct {
	Version   string           `json:"version"` // of the table in force
	Listeners []ListenerStatus `json:"listeners"`
}

// ListenerStatus counts one captured port. Counters start again when the capture changes.
type ListenerStatus struct {
	Port        int    `json:"port"`
	Service     string `json:"service"`
	ServicePort int    `json:"servicePort"`
	UDP         bool   `json:"udp,omitempty"` // what is said of connections is meant of flows, and of requests too
	Draining    bool   `json:"draining,omitempty"`

	Open      int           `json:"open"`              // connections now
	Accepted  uint64        `json:"accepted"`          // connections ever
	Origin    uint64        `json:"origin"`            // HTTP requests to the origin, fallbacks included
	Matched   uint64        `json:"matched"`           // requests that a route had, and raw connections that went to a laptop
	Wired     uint64        `json:"wired"`             // connections that were not, or ceased to be, HTTP that we read
	Fallbacks uint64        `json:"fallbacks"`         // requests that a route had and the origin got
	Resets    uint64        `json:"resets"`            // connections reset at the end of a drain or capture
	Crowded   uint64        `json:"crowded"`           // connections reset because there were too many
	Dropped   uint64        `json:"dropped,omitempty"` // datagrams
	Forbidden uint64        `json:"forbidden"`         // connections reset, and datagrams dropped, because their callers may not call
	Routes    []RouteStatus `json:"routes,omitempty"`

	Met []netip.Addr `json:"met,omitempty"` // the first that connected, in order of address
}

// RouteStatus counts one route.
type RouteStatus struct {
	ID        string `json:"id"`
	Requests  uint64 `json:"requests"`  // and raw connections that went to the laptop
	Fallbacks uint64 `json:"fallbacks"` // of those that should have
}

// Status reports the table in force and what was counted.
func (r *Router) Status() Status {
	t := r.table.Load()
	s := Status{Version: t.version, Listeners: make([]ListenerStatus, 0, len(t.ports))}
	for _, l := range t.ports {
		if p := r.port(l.key()); p != nil {
			s.Listeners = append(s.Listeners, p.status(l))
		}
	}
	slices.SortFunc(s.Listeners, func(a, b ListenerStatus) int { return cmp.Compare(a.Port, b.Port) })
	return s
}

func (p *port) status(l *listener) ListenerStatus {
	p.mu.Lock()
	open, met := len(p.conns), slices.SortedFunc(maps.Keys(p.met), netip.Addr.Compare)
	p.mu.Unlock()
	s := ListenerStatus{
		Port: l.Port, Service: l.Service, ServicePort: l.ServicePort, UDP: l.UDP, Draining: l.draining(),
		Open: open, Accepted: p.accepted.Load(), Origin: p.origin.Load(), Matched: p.matched.Load(), Wired: p.wired.Load(),
		Fallbacks: p.fallbacks.Load(), Resets: p.resets.Load(), Crowded: p.crowded.Load(), Forbidden: p.forbidden.Load(), Met: met,
	}
	if p.flows != nil {
		s.Open, s.Dropped = p.flows.open(), p.flows.dropped.Load()
	}
	for _, r := range slices.Concat(l.rules, l.sni) {
		s.Routes = append(s.Routes, r.status())
	}
	if l.all != nil {
		s.Routes = append(s.Routes, l.all.status())
	}
	return s
}

func (r *route) status() RouteStatus {
	return RouteStatus{ID: r.ID, Requests: r.stats.requests.Load(), Fallbacks: r.stats.fallbacks.Load()}
}
