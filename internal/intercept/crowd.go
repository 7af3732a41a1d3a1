package intercept

import "net/netip"

// mostConns is how many connections a router serves at once, if it may open so many files. An idle one takes 16 to 20 KiB, so that
// all of them fit into a router's 512 MiB.
const mostConns = 16 << 10

// filesEach is how many files one connection may need: itself, its origin, and a pipe in the kernel for each direction.
const filesEach = 6

// roomFor is how many connections fit into so many files.
func roomFor(files uint64) int {
	const others = 1024 // tunnels, peers, the API server
	if files <= others {
		return 1
	}
	return int(min(mostConns, (files-others)/filesEach))
}

// hasRoom says whether one more connection from ip may come in; p.mu is held. A port may hold as many as are still free, and one
// caller as many as the port may still take. So one busy port ends at half of all places and one busy caller at a third,
// n busy ports together leave a part of n+1, and whoever comes last finds a place. There is no reserve
// that lies idle, and nothing to configure.
func (p *port) hasRoom(ip netip.Addr) bool {
	left := p.router.opts.MaxConns - int(p.router.serving.Load()) - len(p.conns)
	return left > 0 && p.callers[ip] < left
}

// enter and leave count a connection; p.mu is held.
func (p *port) enter(c *conn) {
	p.conns[c] = struct{}{}
	p.callers[c.ip]++
	p.router.serving.Add(1)
}

func (p *port) leave(c *conn) {
	if _, ok := p.conns[c]; !ok {
		return
	}
	delete(p.conns, c)
	p.router.serving.Add(-1)
	if p.callers[c.ip]--; p.callers[c.ip] == 0 {
		delete(p.callers, c.ip)
	}
}

// turnAway resets a connection for which there is no room: its caller sees at once what it would see of an overloaded server,
// and nothing of it has reached anybody.
func (p *port) turnAway(c *conn) {
	p.crowded.Add(1)
	if !p.full.Swap(true) {
		p.router.opts.Logger.Warn("too many connections, resetting newcomers", "port", p.number, "caller", c.ip, "open", p.router.serving.Load())
	}
	hardClose(c.client)
}
