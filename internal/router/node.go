package router

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/intercept"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CAConfigMap is where the controller publishes the certificate of dayfly's authority.
const CAConfigMap, CAKey = "dayfly-ca", "ca.crt"

func (r *Router) enrol(ctx context.Context) error {
	token, err := os.ReadFile(r.opts.TokenFile)
	if err != nil {
		return fmt.Errorf("reading the token: %w", err)
	}
	cm, err := r.opts.Kubernetes.CoreV1().ConfigMaps(r.opts.Namespace).Get(ctx, CAConfigMap, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the authority's certificate: %w", err)
	}
	c, err := control.Enrol(ctx, r.opts.Controller, string(token), []byte(cm.Data[CAKey]))
	if err != nil {
		return err
	}
	r.certs.Set(c)
	r.log.Info("enrolled", "renew", c.RenewAt())
	return nil
}

// Apply puts a table in force, unless a newer one already is.
func (r *Router) Apply(ctx context.Context, t control.Table) error {
	t = t.Here(time.Now())
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.Term < r.table.Term || t.Term == r.table.Term && t.Version < r.table.Version {
		return &control.StaleError{Term: r.table.Term, Version: r.table.Version}
	}
	lingering := linger(r.table.Listeners, r.lingering, t.Listeners, time.Now())
	counted := r.data.Status()
	r.opts.At("apply")
	if err := r.put(ctx, t, lingering); err != nil {
		return err
	}
	r.opts.At("applied")
	r.flows.leave(counted, t.Listeners)
	r.heard = time.Now()
	if len(lingering) > 0 {
		time.AfterFunc(lingerTime+time.Second, r.endLinger)
	}
	r.table, r.lingering = t, lingering
	before := r.byID
	r.keys, r.byID = map[string]bool{}, map[string]control.Laptop{}
	for _, l := range t.Laptops {
		r.keys[l.PublicKey], r.byID[l.Session] = true, l
	}
	byID := r.byID
	r.marker.watch(t.Marker)
	r.peers.set(t.Peers)
	r.bump()
	kept := func(session string) bool { _, ok := byID[session]; return ok }
	drain := func(session string) time.Duration { return before[session].Drain }
	go r.tunnels.Keep(kept, drain, "the session is closed")
	return nil
}

// put hands a table to the data plane.
func (r *Router) put(ctx context.Context, t control.Table, lingering []intercept.Listener) error {
	version := fmt.Sprintf("%d.%d", t.Term, t.Version)
	return r.data.Apply(ctx, intercept.Table{Version: version, Listeners: append(slices.Clone(t.Listeners), lingering...)})
}

// lingerTime is how long a port is served on, to the pods that were last behind it, after it has left the table.
const lingerTime = 15 * time.Second

// linger returns the listeners that are not in next and must not be cut off: those of had, and those that linger already
// until their time is over. Nodes that no router is on, which nobody can ask, may still send connections here; so may all of
// them if the controller could not reach this router and has let go of its ports all the same.
func linger(had, lingering, next []intercept.Listener, now time.Time) []intercept.Listener {
	var out []intercept.Listener
	add := func(l intercept.Listener) {
		if !slices.ContainsFunc(slices.Concat(next, out), func(n intercept.Listener) bool { return n.Port == l.Port }) {
			out = append(out, l)
		}
	}
	for _, l := range had {
		l.DrainUntil, l.Routes = new(now.Add(lingerTime)), nil
		add(l)
	}
	for _, l := range lingering {
		if l.DrainUntil.After(now) {
			add(l)
		}
	}
	return out
}

// serves says whether a port is in the table.
func (r *Router) serves(port int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.table.Listeners, func(l intercept.Listener) bool { return l.Port == port })
}

// endLinger takes the listeners out whose time is over.
func (r *Router) endLinger() {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := linger(nil, r.lingering, r.table.Listeners, time.Now())
	if len(left) == len(r.lingering) {
		return
	}
	if err := r.put(context.Background(), r.table, left); err != nil {
		r.log.Warn("closing ports that had left the table", "reason", err)
		return
	}
	r.lingering = left
}

// controllerHeard says whether a controller that leads has asked this router for something lately.
func (r *Router) controllerHeard() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.heard) < controllerSilent
}

// bump wakes whoever waits for a change; r.mu is held.
func (r *Router) bump() {
	r.seq++
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Router) touch() {
	// Called with the tunnels' lock held, which Status takes under r.mu: never wait here.
	go func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bump()
	}()
}

// Status is what this router sees.
func (r *Router) Status() control.Status {
	connected := r.tunnels.Connected()
	open, met := map[int]int{}, map[int][]netip.Addr{}
	data := r.data.Status()
	for _, l := range data.Listeners {
		open[l.Port] = int(l.Open)
		if len(l.Met) > 0 {
			met[l.Port] = l.Met
		}
	}
	told := r.flows.told(data)
	r.mu.Lock()
	defer r.mu.Unlock()
	finds := []int{}
	for _, l := range r.table.Listeners {
		if len(r.origins.endpoints(l.Origin)) > 0 {
			finds = append(finds, l.Port)
		}
	}
	return control.Status{
		AsksCallers: true,
		Seq:         r.seq, Name: r.opts.Name, Version: r.opts.Version, Leaving: r.leaving, Term: r.table.Term, Table: r.table.Version,
		Connected: connected, Open: open, Flows: told,
		Met: met, Finds: finds,
	}
}

// Changed returns a channel that is closed as soon as the status is not the one with that Seq.
func (r *Router) Changed(after int64) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = time.Now() // only the controller asks
	if r.seq != after {
		c := make(chan struct{})
		close(c)
		return c
	}
	return r.changed
}

// Settle returns when this router's node sends connections to the marker Service where that generation wants them.
func (r *Router) Settle(ctx context.Context, generation int) error {
	return r.marker.await(ctx, generation)
}

// watchDrains wakes the controller when the last connection of a draining port ends: nothing else would tell it soon.
func (r *Router) watchDrains(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r.mu.Lock()
		draining := map[int]bool{}
		for _, l := range r.table.Listeners {
			if l.DrainUntil != nil {
				draining[l.Port] = true
			}
		}
		r.mu.Unlock()
		open := 0
		if len(draining) > 0 {
			for _, l := range r.data.Status().Listeners {
				if draining[l.Port] {
					open += int(l.Open)
				}
			}
		}
		if open == 0 && last > 0 {
			r.touch()
		}
		last = open
	}
}
