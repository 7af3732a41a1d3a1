package intercept

import (
	"context"
	"fmt"
	"net"
	"time"
)

// tunnelTimeout bounds how long a request waits for its laptop before the origin gets it.
const tunnelTimeout = 5 * time.Second

// viaTunnel sends the request to a laptop. Without one, or if it ends without a word
// and the request can be sent again, the origin gets it.
func (c *conn) viaTunnel(rt *route) ending {
	c.countMatch(rt)
	defer c.observed(rt, true)()
	for {
		u, err := c.tunnelConn(rt, c.repeatable())
		if err != nil {
			return c.fallBack(rt, err)
		}
		stale := u.used // it may have ended just before the request came
		c.byTunnel = true
		how := c.relay(u, "")
		if how != endEarly {
			rt.stats.failing.Store(false)
			return how
		}
		c.drop(u)
		c.stopUpload()
		c.out.release()
		switch {
		case c.gaveUp():
			return endReset
		case u.pending != nil:
			return c.fallBack(rt, c.early)
		case c.sent == 0 || !c.req.method.repeats():
			return c.badGateway(rt)
		case !stale:
			return c.fallBack(rt, fmt.Errorf("the laptop ended the connection: %w", c.early))
		}
	}
}

// repeatable reports whether the request can be sent a second time: all of it is at hand, and a second one is as good as one.
// Such a request need not wait for the laptop's process to accept the connection.
func (c *conn) repeatable() bool {
	b := c.req.body()
	_, end := b.scan(c.in.bytes()[c.req.size:])
	return c.req.method.repeats() && end == complete
}

// fallBack sends the request of a route to the origin.
func (c *conn) fallBack(rt *route, why error) ending {
	if c.isEnded() {
		return endReset
	}
	c.noteFallback(rt, why)
	return c.viaOrigin(headerSafe(why.Error()))
}

// noteFallback counts, and tells of the first of a row.
func (c *conn) noteFallback(rt *route, why error) {
	c.countFallback(rt)
	if !rt.stats.failing.Swap(true) {
		c.router.opts.Logger.Warn("laptop out of reach, the origin answers",
			"route", rt.ID, "session", rt.Session, "error", why)
	}
}

func (c *conn) countMatch(rt *route) {
	rt.stats.requests.Add(1)
	c.port.matched.Add(1)
}

func (c *conn) countFallback(rt *route) {
	rt.stats.fallbacks.Add(1)
	c.port.fallbacks.Add(1)
}

// headerSafe makes a short header value of an error.
func headerSafe(s string) string {
	const limit = 100
	b := []byte(s[:min(len(s), limit)])
	for i, ch := range b {
		if ch < ' ' || ch > '~' {
			b[i] = ' '
		}
	}
	return string(trimOWS(b))
}

// badGateway answers a request that a laptop has taken and not answered, and that may not
// be sent twice.
func (c *conn) badGateway(rt *route) ending {
	c.settle()
	text := fmt.Sprintf("dayfly: the laptop of session %q ended the connection before it answered: %v.\n"+
		"The request was not sent to the original service, because the laptop may have acted on it.\n", rt.Session, c.early)
	if c.req.method == headMethod {
		text = ""
	}
	_, err := fmt.Fprintf(c.client, "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\n"+
		"X-Content-Type-Options: nosniff\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
	if err != nil {
		return endReset
	}
	return c.closeGently()
}

// tunnelConn returns the stream of this client to rt's laptop. If it is early, it may still be pending.
func (c *conn) tunnelConn(rt *route, early bool) (*upstream, error) {
	if u := c.tunnel; u != nil {
		if u.route.ID == rt.ID && u.alive() {
			return u, nil
		}
		c.drop(u)
	}
	ctx, cancel := context.WithTimeout(c.router.ctx, tunnelTimeout)
	defer cancel()
	nc, err := c.router.opts.DialTunnel(ctx, rt.Route, c.client.RemoteAddr())
	if err != nil {
		return nil, err
	}
	u := newUpstream(nc, rt)
	if !early {
		if err := u.accepted(); err != nil {
			return nil, err
		}
	}
	return c.adopt(&c.tunnel, u)
}

// dialTunnel opens a stream to a laptop whose process has accepted it.
func (r *Router) dialTunnel(ctx context.Context, rt *route, client net.Addr) (net.Conn, error) {
	nc, err := r.opts.DialTunnel(ctx, rt.Route, client)
	if err != nil {
		return nil, err
	}
	if err := newUpstream(nc, rt).accepted(); err != nil {
		return nil, err
	}
	return nc, nil
}

// originConn returns the connection of this client to the origin, or nil.
func (c *conn) originConn() *upstream {
	if u := c.origin; u != nil {
		if u.alive() {
			return u
		}
		c.drop(u)
	}
	l := c.config()
	if l == nil {
		return nil
	}
	nc, err := c.port.dialOrigin(l, c.ip)
	if err != nil {
		c.router.opts.Logger.Debug("resetting a client", "service", l.Service, "port", l.ServicePort, "error", err)
		return nil
	}
	u, _ := c.adopt(&c.origin, newUpstream(nc, nil))
	return u
}

// adopt makes u one of c's upstreams, unless c has been aborted meanwhile.
func (c *conn) adopt(as **upstream, u *upstream) (*upstream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		hardClose(u.Conn)
		return nil, errReset
	}
	*as = u
	return u, nil
}

// drop closes one of c's upstreams.
func (c *conn) drop(u *upstream) {
	c.mu.Lock()
	if u == c.origin {
		c.origin = nil
	} else {
		c.tunnel = nil
	}
	c.mu.Unlock()
	_ = u.Close()
}
