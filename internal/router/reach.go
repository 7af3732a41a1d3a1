package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"dayfly.dev/dayfly/internal/intercept"
)

const (
	reachMost  = 32 // endpoints of a port that are tried, spread over all: an engine of policies works by node
	reachTry   = 500 * time.Millisecond
	reachAgain = 50 * time.Millisecond
)

// Reach returns once this router can connect to the pods behind a port: a policy that has just been made to admit it may take a
// while to be in force at their nodes. Pods that refuse the connection are reached.
func (r *Router) Reach(ctx context.Context, port int) error {
	r.mu.Lock()
	origin := ""
	for i := range r.table.Listeners {
		if r.table.Listeners[i].Port == port {
			origin = r.table.Listeners[i].Origin
		}
	}
	r.mu.Unlock()
	if origin == "" {
		return fmt.Errorf("port %d is not in the table", port)
	}
	for {
		out := outOfReach(ctx, spread(r.origins.endpoints(origin), reachMost))
		if len(out) == 0 {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("reaching %v behind port %d: %w", out, port, ctx.Err())
		case <-time.After(reachAgain):
		}
	}
}

// outOfReach returns those that do not answer in time.
func outOfReach(ctx context.Context, endpoints []netip.AddrPort) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(ctx, reachTry)
	defer cancel()
	var mu sync.Mutex
	var out []netip.AddrPort
	var wg sync.WaitGroup
	for _, ep := range endpoints {
		wg.Go(func() {
			c, err := intercept.Dial(ctx, ep)
			if err == nil {
				c.Close()
			}
			if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
				mu.Lock()
				defer mu.Unlock()
				out = append(out, ep)
			}
		})
	}
	wg.Wait()
	return out
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && e.Timeout()
}

// spread picks n of all, evenly.
func spread(all []netip.AddrPort, n int) []netip.AddrPort {
	if len(all) <= n {
		return all
	}
	out := make([]netip.AddrPort, n)
	for i := range out {
		out[i] = all[i*len(all)/n]
	}
	return out
}
