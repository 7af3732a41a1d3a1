package main

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/baggage"
)

// Hop is one service that took part in an answer, with those it asked in turn. The Hop of the edge is the whole trail.
type Hop struct {
	Service    string `json:"service"`
	Version    string `json:"version,omitempty"`
	Host       string `json:"host,omitempty"`        // the pod's or the laptop's name
	RoutingKey string `json:"routing_key,omitempty"` // what this hop saw in "baggage: dayfly=…"
	Session    string `json:"session,omitempty"`     // what this hop saw in "x-dayfly-session"
	Error      string `json:"error,omitempty"`       // why there is no answer, if there is none
	Calls      []Hop  `json:"calls,omitempty"`
}

// reply is the part that all JSON answers have; they embed it.
type reply struct {
	AnsweredBy Hop    `json:"answered_by"`
	Error      string `json:"error,omitempty"`
}

// String is the hop alone, as in the header X-Served-By: "catalog/v1@catalog-5d9c-x2k4".
func (h Hop) String() string {
	if h.Version == "" && h.Host == "" {
		return h.Service + "/?"
	}
	return h.Service + "/" + h.Version + "@" + h.Host
}

// Trail is the hop and all below it, as in the header X-Trail: "storefront/v1@a(catalog/v1@b(stock/v1@c),orders/?!)".
// The "!" marks a service that gave no proper answer.
func (h Hop) Trail() string {
	s := h.String()
	if h.Error != "" {
		s += "!"
	}
	if len(h.Calls) == 0 {
		return s
	}
	calls := make([]string, len(h.Calls))
	for i, c := range h.Calls {
		calls[i] = c.Trail()
	}
	return s + "(" + strings.Join(calls, ",") + ")"
}

// routingKey is the value that dayfly routes by. Only this member of the baggage is ever shown: the others may be private.
func routingKey(ctx context.Context) string {
	return baggage.FromContext(ctx).Member("dayfly").Value()
}

// sessionHeader is the convention for applications that do not pass baggage on: copy this one header from the request
// you serve to the requests you make for it.
const sessionHeader = "X-Dayfly-Session"

// maxSession bounds what is passed on; a longer value cannot be a session's name.
const maxSession = 128

type sessionKey struct{}

// keepSession remembers the caller's session header for passSession.
func keepSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v := r.Header.Get(sessionHeader); v != "" && len(v) <= maxSession {
			r = r.WithContext(context.WithValue(r.Context(), sessionKey{}, v))
		}
		next.ServeHTTP(w, r)
	})
}

func session(ctx context.Context) string {
	v, _ := ctx.Value(sessionKey{}).(string)
	return v
}

// passSession is the other half: it puts the header on every request made with the context of a served one.
type passSession struct{ next http.RoundTripper }

func (p passSession) RoundTrip(r *http.Request) (*http.Response, error) {
	if v := session(r.Context()); v != "" {
		r = r.Clone(r.Context()) // a RoundTripper must not alter the request it is given
		r.Header.Set(sessionHeader, v)
	}
	return p.next.RoundTrip(r)
}
