package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"

	"dayfly.dev/dayfly/internal/share"
)

// handler answers visitors.
func (g *Gateway) handler() http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", r.In.Host, r.In.Host
			r.SetXForwarded()
			withoutToken(r.Out)
		},
		Transport:     newTransport(g),
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(g.opts.Logger.Handler(), slog.LevelDebug),
		ErrorHandler:  func(w http.ResponseWriter, r *http.Request, err error) { g.fail(w, r, err) },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, ok := g.table.find(r.Host)
		if !ok || !g.admit(w, r, to) {
			if !ok {
				refuse(w, r)
			}
			return
		}
		done := g.begin(to.env)
		defer done()
		if wantsPage(r) && (!to.env.runs() || len(g.table.ready(to)) == 0) {
			g.waker.wake(r.Context(), to.env)
			waiting(w, r, to)
			return
		}
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), routeKey{}, to)))
	})
}

type routeKey struct{}

// admit says whether a request may come in; if not, or if the token in its link is to be exchanged for a cookie first, it has
// been answered.
func (g *Gateway) admit(w http.ResponseWriter, r *http.Request, to route) bool {
	link, others := tokens(r)
	now := time.Now()
	if s := shareOf(to.env.Environment, link, now); s != nil {
		http.SetCookie(w, &http.Cookie{Name: tokenCookie, Value: link, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, Expires: s.Until.Time})
		if !wantsPage(r) {
			return true
		}
		there := *r.URL
		there.RawQuery = share.Without(there.RawQuery)
		// Relative to this host, whatever the path begins with: //elsewhere would be another one.
		w.Header().Set("Location", "/"+strings.TrimLeft(there.RequestURI(), "/"))
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.WriteHeader(http.StatusSeeOther)
		return false
	}
	if to.env.Spec.Public {
		return true
	}
	for _, t := range others {
		if shareOf(to.env.Environment, t, now) != nil {
			return true
		}
	}
	refuse(w, r)
	return false
}

// wantsPage says whether a person's browser asks for a page, rather than a program for something.
func wantsPage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || r.Header.Get("Upgrade") != "" {
		return false
	}
	if dest := r.Header.Get("Sec-Fetch-Dest"); dest != "" {
		return dest == "document" || dest == "iframe"
	}
	return strings.HasPrefix(r.Header.Get("Accept"), "text/html")
}

// begin counts a request; done ends it.
func (g *Gateway) begin(e *environment) (done func()) {
	add := func(n int) {
		e.use.mu.Lock()
		defer e.use.mu.Unlock()
		e.use.open += n
		e.use.last = time.Now()
	}
	add(1)
	return func() { add(-1) }
}

// Errors of a request that finds no pod.
var (
	errGone    = errors.New("the environment is gone")
	errTooMany = errors.New("too many requests wait for it")
	errTooLong = errors.New("it was not ready in time")
)

// hold waits until a route has ready pods, and wakes the environment if it is asleep. Pods in not have been tried in vain.
func (g *Gateway) hold(ctx context.Context, r route, not map[string]bool) (addr string, err error) {
	var timeout <-chan time.Time
	for {
		now, there, changed := g.table.again(r)
		if !there {
			return "", errGone
		}
		if now.env.runs() {
			if addr := pick(g.table.ready(now), not); addr != "" {
				return addr, nil
			}
		}
		if timeout == nil {
			if !now.env.use.hold(1) {
				return "", errTooMany
			}
			defer now.env.use.hold(-1)
			g.metrics.held.Inc()
			began := time.Now()
			defer func() { g.metrics.wait.Observe(time.Since(began).Seconds()) }()
			timer := time.NewTimer(holdTime)
			defer timer.Stop()
			timeout = timer.C
		}
		if now.env.Spec.Asleep() {
			g.waker.wake(ctx, now.env)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-timeout:
			return "", errTooLong
		case <-changed:
		case <-time.After(retryTime): // a pod that refused may take connections now
			clear(not)
		}
	}
}

// retryTime is when a pod that refused a connection is tried again.
const retryTime = 250 * time.Millisecond

// hold counts a request that waits, unless too many do.
func (u *use) hold(n int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n > 0 && u.held >= mostHeld {
		return false
	}
	u.held += n
	return true
}

func pick(ready []string, not map[string]bool) string {
	start := rand.IntN(max(len(ready), 1))
	for i := range ready {
		if addr := ready[(start+i)%len(ready)]; !not[addr] {
			return addr
		}
	}
	return ""
}

// transport sends requests to ready pods: over HTTP/1.1, or HTTP/2 where that is spoken.
type transport struct {
	g         *Gateway
	http1, h2 http.RoundTripper
}

func newTransport(g *Gateway) *transport {
	dialer := &net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}
	one := &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 64, MaxIdleConns: 2048, IdleConnTimeout: 30 * time.Second,
		DisableCompression: true, MaxResponseHeaderBytes: 256 << 10}
	two := one.Clone()
	two.Protocols = &http.Protocols{}
	two.Protocols.SetUnencryptedHTTP2(true)
	return &transport{g, one, two}
}

// mostTries bounds how often a request is sent that no pod has seen, or that harms nobody if two do.
const mostTries = 5

// RoundTrip sends a request to a ready pod. One that could not be delivered goes to another pod, or waits for one.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	to := r.Context().Value(routeKey{}).(route)
	with := t.http1
	if to.to.Protocol == "h2c" || strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		with = t.h2
	}
	body := &unread{ReadCloser: r.Body}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = body
	} else {
		r.Body = nil
	}
	not := map[string]bool{}
	for try := 1; ; try++ {
		addr, err := t.g.hold(r.Context(), to, not)
		if err != nil {
			return nil, err
		}
		r.URL.Host = addr
		resp, err := with.RoundTrip(r)
		if err == nil || r.Context().Err() != nil || try == mostTries || !again(r, body, err) {
			return resp, err
		}
		not[addr] = true
	}
}

// again says whether a request that failed may be sent again: no pod has seen it, or it says itself that it changes nothing.
func again(r *http.Request, body *unread, err error) bool {
	if body.touched() {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	return r.Body == nil && (r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions)
}
