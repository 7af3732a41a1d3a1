package intercept

import (
	"time"

	"golang.org/x/net/http2/hpack"
)

// Exchange is a request that matched a rule, or a raw connection that a laptop got, when it has ended.
type Exchange struct {
	Route       Route
	Service     string // "namespace/name"
	ServicePort int
	Begin, End  time.Time
	Laptop      bool // a laptop answered, not the origin
	Status      int  // of the response; 0: there was none that we read
	// TraceParent and TraceState are the request's headers of these names, "" if there are none.
	TraceParent, TraceState string
}

const maxTraceHeader = 512 // what W3C trace context asks to be carried

// observed begins an exchange of rt; what it returns ends it. head says that in starts with the head of req.
func (c *conn) observed(rt *route, head bool) (end func()) {
	tell := c.router.opts.Observe
	if tell == nil {
		return func() {}
	}
	x := Exchange{Route: rt.Route, Service: c.capture.service, ServicePort: c.capture.port, Begin: time.Now()}
	if head {
		x.TraceParent, x.TraceState = c.header("traceparent"), c.header("tracestate")
	}
	c.res.status = 0
	return func() {
		x.End, x.Status, x.Laptop = time.Now(), c.res.status, c.byTunnel || !head
		tell(x)
	}
}

// observed begins the exchange of a stream, if anybody wants to know; told ends it.
func (s *diverted) observed(e *h2) {
	if e.c.router.opts.Observe == nil {
		return
	}
	s.exchange = &Exchange{Route: s.route.Route, Service: e.c.capture.service, ServicePort: e.c.capture.port, Begin: time.Now(),
		TraceParent: onlyField(s.fields, "traceparent"), TraceState: onlyField(s.fields, "tracestate")}
}

func (s *diverted) told(e *h2) {
	if x := s.exchange; x != nil {
		x.End, x.Laptop = time.Now(), s.fallback == ""
		e.c.router.opts.Observe(*x)
	}
}

// onlyField returns the only field of a name; "" if there is none, or several.
func onlyField(fields []hpack.HeaderField, name string) string {
	value, seen := "", false
	for _, f := range fields {
		if f.Name != name {
			continue
		}
		if seen || len(f.Value) > maxTraceHeader {
			return ""
		}
		value, seen = f.Value, true
	}
	return value
}

// header returns the only header of a name of the request in hand; "" if there is none, or several.
func (c *conn) header(name string) string {
	b := c.in.bytes()
	value := ""
	for _, f := range c.req.fields {
		if !equalFold(f.name.of(b), name) {
			continue
		}
		if value != "" || f.value.end-f.value.off > maxTraceHeader {
			return ""
		}
		value = string(f.value.of(b))
	}
	return value
}
