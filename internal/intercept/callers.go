package intercept

import (
	"fmt"
	"net/netip"
	"time"

	"go4.org/netipx"
)

const (
	maxCallers = 16 << 10 // prefixes of one listener
	// callerPatience is how long a caller waits whom the table does not name: it may be a pod that is newer than the table.
	callerPatience = 2 * time.Second
)

// Callers are the addresses from which a port may be called, as network policies say of the pods behind it.
type Callers struct {
	Prefixes []netip.Prefix `json:"prefixes"`
}

func (c *Callers) validate() error {
	if c == nil {
		return nil
	}
	if len(c.Prefixes) > maxCallers {
		return fmt.Errorf("%d prefixes of callers, at most %d", len(c.Prefixes), maxCallers)
	}
	for _, p := range c.Prefixes {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("%s is no prefix of callers", p)
		}
	}
	return nil
}

// compile makes c ready to be asked; nil if it cannot be, which nobody passes.
func (c *Callers) compile() *netipx.IPSet {
	var b netipx.IPSetBuilder
	for _, p := range c.Prefixes {
		b.AddPrefix(p)
	}
	set, err := b.IPSet()
	if err != nil {
		return &netipx.IPSet{}
	}
	return set
}

// Admits says whether ip may call the port of l.
func (l *listener) admits(ip netip.Addr) bool {
	return l.callers == nil || l.callers.Contains(ip)
}

// awaitAdmission reports whether the table comes to name c's caller. Nothing is read from it and nothing dialled meanwhile.
func (c *conn) awaitAdmission() bool {
	l := c.config()
	if l == nil || l.admits(c.ip) {
		return l != nil
	}
	c.setPhase(leaving, nil)
	defer c.setPhase(busy, nil)
	patience := time.NewTimer(callerPatience)
	defer patience.Stop()
	for {
		changed := c.router.changed()
		if l := c.config(); l == nil || c.isEnded() {
			return false
		} else if l.admits(c.ip) {
			return true
		}
		select {
		case <-changed:
		case <-c.router.ctx.Done():
			return false
		case <-patience.C:
			c.port.forbidden.Add(1)
			return false
		}
	}
}

// changed returns a channel that is closed when another table is put in force.
func (r *Router) changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.swapped
}

// announce wakes who waits for another table; the new one is in force.
func (r *Router) announce() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.swapped)
	r.swapped = make(chan struct{})
}
