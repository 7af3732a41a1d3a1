package session

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/control"
)

// audit remembers the intercepts in force, so that each one's end is told once, with what it took. Sessions hold the same
// in their status: a controller that has just begun knows from there what was in force before it.
type audit struct {
	mu    sync.Mutex
	lives map[string]map[string]*life // by namespace, by key
}

// life is one intercept from its first arming until it is taken off, refused, or its rule changes.
type life struct {
	session, owner, route string
	intercept             v1alpha1.InterceptStatus
	base                  control.Flow // counted on the route before this life
	told                  bool         // its end
	until                 time.Time    // zero: it goes on as far as is known
}

func lifeKey(sessionID string, st v1alpha1.InterceptStatus) string {
	return fmt.Sprintf("%s/%s@%d", sessionID, StatusRoute(st), st.Since.UnixMicro())
}

// auditEnds writes a line for each intercept that has ended since the last pass: who, what, by which rule, since when, until
// when, how much. Rules are told as RuleShown makes them: values that may be secret are not in it.
func (e *Engine) auditEnds(o *Observed, plan Plan) {
	e.audit.mu.Lock()
	defer e.audit.mu.Unlock()
	known := e.audit.lives[o.Namespace]
	if known == nil {
		known = map[string]*life{}
		e.audit.lives[o.Namespace] = known
	}
	goesOn, written := map[string]bool{}, map[string]bool{}
	for i := range o.Sessions {
		s := &o.Sessions[i]
		for _, st := range s.Status.Intercepts {
			if st.Since != nil {
				key := e.meet(known, s, st)
				written[key] = true
				if !s.DeletionTimestamp.IsZero() {
					known[key].until = s.DeletionTimestamp.Time
				}
			}
		}
		v := plan.Sessions[ID(s)]
		for _, st := range v.Intercepts {
			if st.Since != nil && !v.Release {
				goesOn[e.meet(known, s, st)] = true
			}
		}
	}
	for key, l := range known {
		if !goesOn[key] && !l.told {
			l.told = true
			e.tellEnd(o, l)
		}
		if !goesOn[key] && !written[key] {
			delete(known, key)
		}
	}
	if len(known) == 0 {
		delete(e.audit.lives, o.Namespace)
	}
}

// meet returns the key of an intercept in force, which is known from then on.
func (e *Engine) meet(known map[string]*life, s *v1alpha1.Session, st v1alpha1.InterceptStatus) string {
	key := lifeKey(ID(s), st)
	if known[key] != nil {
		return key
	}
	l := &life{session: s.Name, owner: s.Spec.Owner.Username, intercept: st,
		route: ID(s) + "/" + StatusRoute(st)}
	for _, before := range known {
		if before.route == l.route {
			l.base = e.fleet.Flow(l.route) // the same route by another rule
		}
	}
	known[key] = l
	return key
}

func (e *Engine) tellEnd(o *Observed, l *life) {
	f := e.fleet.Flow(l.route)
	if f.Requests < l.base.Requests { // the routers counted anew
		l.base = control.Flow{}
	}
	st, until := l.intercept, l.until
	if until.IsZero() {
		until = o.Now
	}
	e.log.Info("audit: intercept ended", "owner", l.owner, "namespace", o.Namespace, "session", l.session,
		"service", StatusRoute(st), "rule", st.Rule,
		"since", st.Since.UTC().Format(time.RFC3339Nano), "until", until.UTC().Format(time.RFC3339Nano),
		"requests", f.Requests-l.base.Requests, "fallbacks", f.Fallbacks-l.base.Fallbacks,
		"bytesToLaptop", f.Sent-l.base.Sent, "bytesFromLaptop", f.Received-l.base.Received)
}

const shownValue = 64 // bytes of a rule's value that are told

// RuleShown is a rule as it may be told in statuses, events and logs: values of headers and baggage members that usually
// are secret are left out, and none is longer than shownValue.
func RuleShown(routingKey string, i v1alpha1.Intercept) string {
	if i.Rule == nil {
		return RuleText(routingKey, i)
	}
	shown := v1alpha1.Rule{SNI: i.Rule.SNI}
	for _, h := range i.Rule.Headers {
		h.Value = valueShown(h.Name, h.Value)
		shown.Headers = append(shown.Headers, h)
	}
	for _, b := range i.Rule.Baggage {
		b.Value = valueShown(b.Key, b.Value)
		shown.Baggage = append(shown.Baggage, b)
	}
	i.Rule = &shown
	return RuleText(routingKey, i)
}

// secretive are parts of names whose values usually are secret.
var secretive = []string{"auth", "cookie", "token", "secret", "password", "passwd", "credential", "session-id", "sessionid", "apikey", "api-key",
	"api_key", "access-key", "access_key", "signature", "jwt", "csrf", "xsrf", "private", "bearer", "otp"}

func valueShown(name, value string) string {
	lower := strings.ToLower(name)
	if slices.ContainsFunc(secretive, func(part string) bool { return strings.Contains(lower, part) }) {
		return "(not shown)"
	}
	if len(value) > shownValue {
		return strings.ToValidUTF8(value[:shownValue-len("…")], "") + "…"
	}
	return value
}
