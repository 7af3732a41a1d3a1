package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/internal/share"
)

// handler answers visitors.
func (g *Gateway) handler() http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", r.In.Host, r.In.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery // as it came, whatever it means to whom
			forwarded(r)
			for _, name := range []string{"X-Forwarded-Port", "X-Real-Ip"} { // others set them, and who runs the application believes them
				r.Out.Header.Del(name)
			}
			withoutToken(r.Out)
		},
		Transport:      newTransport(g),
		FlushInterval:  -1,
		ModifyResponse: ownCookies,
		ErrorLog:       slog.NewLogLogger(g.opts.Logger.Handler(), slog.LevelDebug),
		ErrorHandler:   func(w http.ResponseWriter, r *http.Request, err error) { g.fail(w, r, err) },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, ok := g.find(r)
		if !ok {
			refuse(w, r)
			return
		}
		v, ok := admit(w, r, to)
		if !ok {
			return
		}
		ctx, done := g.table.begin(r.Context(), to, v)
		defer done()
		if wantsPage(r) && (!to.env.runs() || len(g.table.ready(to)) == 0) {
			g.waker.wake(ctx, to.env)
			waiting(w, r, to)
			return
		}
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") { // what else speaks after an upgrade says what it wants of who asked
			r.Header.Del("Upgrade")
			r.Header.Del("Http2-Settings")
		}
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(context.WithValue(ctx, routeKey{}, to), cookieKey{}, v.cookie)))
	})
}

// forwarded says whom a request is from, and by what. Of those who ask themselves nothing is believed; the proxy of the cluster's, which
// comes without TLS, has said it of those whom it leads here.
func forwarded(r *httputil.ProxyRequest) {
	if r.In.TLS == nil {
		r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"] // to which is added who it is itself
	}
	r.SetXForwarded()
	if said := r.In.Header.Get("X-Forwarded-Proto"); r.In.TLS == nil && said == "https" {
		r.Out.Header.Set("X-Forwarded-Proto", said)
	}
}

type (
	routeKey  struct{}
	cookieKey struct{}
)

// ownCookies keeps an environment's answer from what concerns other hosts of the domain, and hands out the cookie of a link.
func ownCookies(r *http.Response) error {
	r.Header.Del("Clear-Site-Data") // it clears the cookies of all of them
	for i, c := range r.Header["Set-Cookie"] {
		var kept []string
		for part := range strings.SplitSeq(c, ";") {
			if name, _, _ := strings.Cut(part, "="); !strings.EqualFold(strings.TrimSpace(name), "domain") || len(kept) == 0 {
				kept = append(kept, part)
			}
		}
		r.Header["Set-Cookie"][i] = strings.Join(kept, ";")
	}
	if c, ok := r.Request.Context().Value(cookieKey{}).(*http.Cookie); ok && c != nil {
		r.Header.Add("Set-Cookie", c.String())
	}
	return nil
}

// find is the route of a request's host. A link that was made this instant works already, though this gateway may hear of it,
// or of its environment, a little later: a token that opens nothing is given the time. It is given it wherever it is shown, so
// that a refusal takes as long where there is nothing.
func (g *Gateway) find(r *http.Request) (route, bool) {
	link, others := tokens(r)
	shown := slices.DeleteFunc(append(others, link), func(token string) bool { return token == "" || len(token) > share.Longest })
	var timeout <-chan time.Time
	for {
		changed := g.table.next()
		to, ok := g.table.find(r.Host)
		opens := func(token string) bool { return shareOf(to.env.Environment, token, time.Now()) != nil }
		if len(shown) == 0 || ok && (to.env.Public() || slices.ContainsFunc(shown, opens)) {
			return to, ok
		}
		if timeout == nil {
			select {
			case g.unheard <- struct{}{}:
			default:
				return to, ok
			}
			defer func() { <-g.unheard }()
			timer := time.NewTimer(hearTime)
			defer timer.Stop()
			timeout = timer.C
		}
		select {
		case <-r.Context().Done():
			return to, ok
		case <-timeout:
			return to, ok
		case <-changed:
		}
	}
}

// visit is why a request may come in.
type visit struct {
	hash   string       // of the share's token; "" is an environment that is open to all
	until  time.Time    // zero: without end
	cookie *http.Cookie // for which a program's link is exchanged; nil: none
}

// admit says whether a request may come in; if not, or if the token in a link is to be taken out of a browser's address first, it
// has been answered.
func admit(w http.ResponseWriter, r *http.Request, to route) (visit, bool) {
	link, others := tokens(r)
	now := time.Now()
	s := shareOf(to.env.Environment, link, now)
	var cookie *http.Cookie
	if s != nil {
		cookie = &http.Cookie{Name: tokenCookie, Value: link, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, Expires: s.Until.Time}
	}
	if r.URL.Query().Has(share.Parameter) && (wantsPage(r) || wantsFrame(r)) && (s != nil || to.env.Public()) {
		if s != nil {
			http.SetCookie(w, cookie)
		}
		there := *r.URL
		there.RawQuery = share.Without(there.RawQuery)
		// Relative to this host, whatever the path begins with: //elsewhere would be another one.
		w.Header().Set("Location", "/"+strings.TrimLeft(there.RequestURI(), "/"))
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.WriteHeader(http.StatusSeeOther)
		return visit{}, false
	}
	if to.env.Public() {
		return visit{cookie: cookie}, true
	}
	if s != nil {
		return visit{s.Hash, s.Until.Time, cookie}, true
	}
	for _, t := range others {
		if s := shareOf(to.env.Environment, t, now); s != nil {
			return visit{s.Hash, s.Until.Time, nil}, true
		}
	}
	refuse(w, r)
	return visit{}, false
}

// wantsPage says whether a person's browser asks for a page, rather than a program for something.
func wantsPage(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || r.Header.Get("Upgrade") != "" {
		return false
	}
	if dest := r.Header.Get("Sec-Fetch-Dest"); dest != "" {
		return dest == "document"
	}
	return strings.HasPrefix(r.Header.Get("Accept"), "text/html")
}

// wantsFrame says whether it is for a part of a page that has an address of its own.
func wantsFrame(r *http.Request) bool {
	return r.Method == http.MethodGet && slices.Contains([]string{"iframe", "frame", "embed", "object"}, r.Header.Get("Sec-Fetch-Dest"))
}

// Errors of a request that finds no pod.
var (
	errRevoked = errors.New("its share ended")
	errGone    = errors.New("the environment is gone")
	errTooMany = errors.New("too many requests wait for it")
	errTooLong = errors.New("it was not ready in time")
)

// errQueued is an environment that had no turn in time.
type errQueued struct{ where string }

func (e errQueued) Error() string { return "it waits for its turn: " + e.where }

// hold waits until a route has ready pods, until a deadline, and wakes the environment if it is asleep. Pods in not have been
// tried in vain.
func (g *Gateway) hold(ctx context.Context, r route, not map[string]bool, deadline time.Time) (addr string, err error) {
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
			timer := time.NewTimer(time.Until(deadline))
			defer timer.Stop()
			timeout = timer.C
		}
		if now.env.Spec.Asleep() {
			g.waker.wake(ctx, now.env)
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-timeout:
			if where, ok := now.env.queued(); ok {
				return "", errQueued{where}
			}
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

// mostTries bounds how often a request is sent that harms nobody if two pods see it.
const mostTries = 5

// RoundTrip sends a request to a ready pod. One that could not be delivered goes to another pod, or waits for one.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	to := r.Context().Value(routeKey{}).(route)
	with := t.http1
	if to.to.Protocol == "h2c" || isGRPC(r) {
		with = t.h2
	}
	body := &unread{ReadCloser: r.Body}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = body
	} else {
		r.Body = nil
	}
	not, deadline, tries := map[string]bool{}, time.Now().Add(holdTime), 0
	for {
		addr, err := t.g.hold(r.Context(), to, not, deadline)
		if err != nil {
			return nil, err
		}
		r.URL.Host = addr
		resp, err := with.RoundTrip(r)
		if err == nil || r.Context().Err() != nil || body.touched() {
			return resp, err
		}
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" { // a pod may have seen it
			if tries++; tries == mostTries || r.Body != nil || !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions}, r.Method) {
				return resp, err
			}
		}
		not[addr] = true
	}
}

// isGRPC leaves out gRPC-Web, which is HTTP/1.1 as well.
func isGRPC(r *http.Request) bool {
	kind, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && (kind == "" || kind[0] == '+' || kind[0] == ';')
}
