package intercept

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go4.org/netipx"
)

// Bounds of a table. They are far above use, and there so that a wrong table
// is refused rather than served slowly.
const (
	maxListeners   = 4096
	maxRoutes      = 1024 // of one listener
	maxConditions  = 32   // of one Match, in each list
	maxMatchDepth  = 4
	maxText        = 512 // versions, names, ids
	maxMatchValue  = 4096
	maxAffinitySec = 86400 // as Kubernetes
)

// Table is the whole configuration of a router. It is immutable: a change is
// another table.
type Table struct {
	// Version is opaque; [Router.Status] reports the version in force.
	Version   string     `json:"version"`
	Listeners []Listener `json:"listeners"`
}

// Listener is one captured port of one Service.
type Listener struct {
	// Port is the port on the router.
	Port int `json:"port"`
	// Service is "namespace/name" and ServicePort its captured port. With Origin
	// they identify the capture: if they change, connections of the former
	// capture are reset, since they belong to another service.
	Service     string `json:"service"`
	ServicePort int    `json:"servicePort"`
	// UDP says that the port carries datagrams. They know no requests: only a route with All takes them.
	UDP bool `json:"udp,omitempty"`
	// Origin is what Options.Endpoints resolves.
	Origin string `json:"origin"`
	// AffinitySeconds is the Service's ClientIP affinity timeout, 0 for none.
	// Affinity is by hash of the client's address, so it outlives any timeout.
	AffinitySeconds int `json:"affinitySeconds,omitempty"`
	// Routes are tried in order, those with a Match before the one with All.
	Routes []Route `json:"routes,omitempty"`
	// Callers are who may call; nil is everybody. A connection from anybody else is reset with nothing read of it.
	Callers *Callers `json:"callers,omitempty"`
	// DrainUntil is set when the capture has ended: open connections are served,
	// HTTP responses carry Connection: close, and what was opened before the
	// deadline and is still open at it is reset. Connections that come later
	// are served until the listener leaves the table.
	DrainUntil *time.Time `json:"drainUntil,omitempty"`
}

// Route sends what matches to a laptop.
type Route struct {
	// ID is unique in its listener, such as "session-uid/service:port".
	ID string `json:"id"`
	// Session is the name of the session, for people.
	Session string `json:"session"`
	// All takes everything of the port that no other route takes, whether it is
	// HTTP or not. At most one route of a listener has it.
	All bool `json:"all,omitempty"`
	// Datagrams says that the laptop answers datagrams: the listener is UDP.
	Datagrams bool `json:"datagrams,omitempty"`
	// Match is for routes without All.
	Match Match `json:"match,omitzero"`
}

// Match holds if all of Headers, all of Baggage and, when AnyOf is not empty,
// at least one of AnyOf hold. SNI stands alone, for what a TLS connection carries cannot be seen. A routing key that may come as baggage or as a
// header is two matches in AnyOf.
type Match struct {
	Headers []HeaderMatch  `json:"headers,omitempty"`
	Baggage []BaggageMatch `json:"baggage,omitempty"`
	AnyOf   []Match        `json:"anyOf,omitempty"`
	// SNI is the server name in lower case with which a TLS connection starts; a leading "*."
	// stands for one label. The connection is passed through whole.
	SNI string `json:"sni,omitempty"`
}

// IsZero says whether nothing is asked for: encoding/json leaves such a one out.
func (m Match) IsZero() bool {
	return len(m.Headers) == 0 && len(m.Baggage) == 0 && len(m.AnyOf) == 0 && m.SNI == ""
}

// HeaderMatch holds if any header of that name, in any case, has exactly that value.
type HeaderMatch struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// BaggageMatch holds if any member of the W3C baggage has exactly that key and,
// once decoded, that value.
type BaggageMatch struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// table is a Table made ready to route by. Listeners point to what outlives it:
// the open port and the counters of its routes.
type table struct {
	version string
	ports   map[int]*listener // by Listener.key
}

type listener struct {
	Listener
	rules []*route // for requests
	sni   []*route // for TLS connections
	all   *route   // nil: there is none

	callers *netipx.IPSet // nil: everybody may call
}

type route struct {
	Route
	stats *routeStats
}

// capture identifies whose connections a listener serves.
type capture struct {
	service string
	port    int
	origin  string
}

func (l *Listener) capture() capture { return capture{l.Service, l.ServicePort, l.Origin} }

// key is the number of a TCP port, and less than 0 for UDP: one number of both is two ports.
func (l *Listener) key() int {
	if l.UDP {
		return -l.Port
	}
	return l.Port
}

func (l *listener) draining() bool { return l.DrainUntil != nil }

func compile(t Table) *table {
	c := &table{version: t.Version, ports: make(map[int]*listener, len(t.Listeners))}
	for _, l := range t.Listeners {
		cl := &listener{Listener: l}
		if l.Callers != nil {
			cl.callers = l.Callers.compile()
		}
		if l.DrainUntil != nil {
			cl.DrainUntil = new(*l.DrainUntil) // not the caller's, who may change it
		}
		for _, r := range l.Routes {
			switch {
			case r.All:
				cl.all = &route{Route: r}
				continue
			case r.Match.SNI != "":
				cl.sni = append(cl.sni, &route{Route: r})
				continue
			}
			r.Match = r.Match.lowered()
			cl.rules = append(cl.rules, &route{Route: r})
		}
		c.ports[l.key()] = cl
	}
	return c
}

// lowered copies m with lower-case header names, which matching relies on.
func (m Match) lowered() Match {
	m.Headers = append([]HeaderMatch(nil), m.Headers...)
	for i := range m.Headers {
		m.Headers[i].Name = strings.ToLower(m.Headers[i].Name)
	}
	m.AnyOf = append([]Match(nil), m.AnyOf...)
	for i := range m.AnyOf {
		m.AnyOf[i] = m.AnyOf[i].lowered()
	}
	return m
}

func (t *Table) validate() error {
	if len(t.Version) > maxText {
		return fmt.Errorf("version is longer than %d bytes", maxText)
	}
	if len(t.Listeners) > maxListeners {
		return fmt.Errorf("%d listeners, at most %d", len(t.Listeners), maxListeners)
	}
	ports := make(map[int]string, len(t.Listeners))
	for i := range t.Listeners {
		l := &t.Listeners[i]
		if err := l.validate(); err != nil {
			return fmt.Errorf("listener %d (%s:%d): %w", l.Port, l.Service, l.ServicePort, err)
		}
		if other, dup := ports[l.Port]; dup {
			return fmt.Errorf("port %d is given to both %s and %s", l.Port, other, l.Service)
		}
		ports[l.Port] = l.Service
	}
	return nil
}

func (l *Listener) validate() error {
	switch {
	case l.Port < 1 || l.Port > 65535:
		return fmt.Errorf("port %d is outside 1-65535", l.Port)
	case l.ServicePort < 0 || l.ServicePort > 65535:
		return fmt.Errorf("service port %d is outside 0-65535", l.ServicePort)
	case len(l.Service) > maxText || len(l.Origin) > maxText:
		return fmt.Errorf("service or origin is longer than %d bytes", maxText)
	case l.AffinitySeconds < 0 || l.AffinitySeconds > maxAffinitySec:
		return fmt.Errorf("affinity of %d s is outside 0-%d", l.AffinitySeconds, maxAffinitySec)
	case len(l.Routes) > maxRoutes:
		return fmt.Errorf("%d routes, at most %d", len(l.Routes), maxRoutes)
	}
	if err := l.Callers.validate(); err != nil {
		return err
	}
	seen := make(map[string]bool, len(l.Routes))
	all := ""
	for i := range l.Routes {
		r := &l.Routes[i]
		if err := r.validate(); err != nil {
			return fmt.Errorf("route %q: %w", r.ID, err)
		}
		if seen[r.ID] {
			return fmt.Errorf("route %q is there twice", r.ID)
		}
		if l.UDP != r.Datagrams || l.UDP && !r.All {
			return fmt.Errorf("route %q: a UDP port, and no other, has routes for datagrams, which take all", r.ID)
		}
		seen[r.ID] = true
		if r.All && all != "" {
			return fmt.Errorf("routes %q and %q both take everything", all, r.ID)
		}
		if r.All {
			all = r.ID
		}
	}
	return nil
}

func (r *Route) validate() error {
	switch {
	case r.ID == "" || len(r.ID) > maxText || len(r.Session) > maxText:
		return fmt.Errorf("id is empty, or id or session is longer than %d bytes", maxText)
	case r.All && !r.Match.empty():
		return errors.New("has both all and a match")
	case r.All:
		return nil
	case r.Match.SNI != "":
		return r.Match.validateSNI()
	}
	return r.Match.validate(1)
}

func (m *Match) empty() bool { return len(m.Headers)+len(m.Baggage)+len(m.AnyOf) == 0 && m.SNI == "" }

func (m *Match) validateSNI() error {
	switch {
	case len(m.Headers)+len(m.Baggage)+len(m.AnyOf) > 0:
		return errors.New("has both sni and what only a request can match")
	case !isServerName(m.SNI):
		return fmt.Errorf("%q is not a server name in lower case", m.SNI)
	}
	return nil
}

func (m *Match) validate(depth int) error {
	switch {
	case m.SNI != "":
		return errors.New("sni stands alone, not in anyOf")
	case m.empty():
		return errors.New("an empty match would take everything; say all instead")
	case depth > maxMatchDepth:
		return fmt.Errorf("anyOf is nested deeper than %d", maxMatchDepth)
	case len(m.Headers) > maxConditions || len(m.Baggage) > maxConditions || len(m.AnyOf) > maxConditions:
		return fmt.Errorf("more than %d conditions", maxConditions)
	}
	for _, h := range m.Headers {
		if !isToken(h.Name) || len(h.Name) > maxText {
			return fmt.Errorf("%q is not a header name", h.Name)
		}
		if !isMatchableValue(h.Value) {
			return fmt.Errorf("header %s: no header can have the value %q", h.Name, h.Value)
		}
	}
	for _, b := range m.Baggage {
		if !isToken(b.Key) || len(b.Key) > maxText || len(b.Value) > maxMatchValue {
			return fmt.Errorf("baggage %q=%q: the key is not a token, or one of them is too long", b.Key, b.Value)
		}
	}
	for i := range m.AnyOf {
		if err := m.AnyOf[i].validate(depth + 1); err != nil {
			return err
		}
	}
	return nil
}

func isToken(s string) bool {
	for i := range len(s) {
		if !tokenChar[s[i]] {
			return false
		}
	}
	return s != ""
}

func isMatchableValue(s string) bool {
	for i := range len(s) {
		if !valueChar[s[i]] {
			return false
		}
	}
	return len(s) <= maxMatchValue && s == strings.Trim(s, " \t")
}
