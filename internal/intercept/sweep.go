package intercept

import "time"

// sweepEvery is how late the end of an idle origin connection, or of a waiting client,
// may be passed on.
const sweepEvery = 250 * time.Millisecond

// sweep checks all connections, and ends drains, until the router is closed.
func (r *Router) sweep() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var conns []*conn
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-tick.C:
			r.endDrains(now)
			conns = conns[:0]
			for _, p := range r.allPorts() {
				if p.flows != nil {
					p.flows.expire(now)
					continue
				}
				conns = p.snapshot(conns)
			}
			for _, c := range conns {
				c.check()
			}
			clear(conns)
		}
	}
}

// endDrains resets what a drain whose time is up has left open.
func (r *Router) endDrains(now time.Time) {
	for n, l := range r.table.Load().ports {
		if l.DrainUntil == nil || now.Before(*l.DrainUntil) {
			continue
		}
		if p := r.port(n); p != nil {
			p.abort(func(c *conn) bool { return c.since.Before(*l.DrainUntil) })
		}
	}
}
