package intercept

import "net/netip"

// MostMet is how many different callers a port remembers.
const MostMet = 64

// meet remembers a caller that may call.
func (p *port) meet(ip netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.met) < MostMet && ip.IsValid() {
		p.met[ip] = struct{}{}
	}
}
