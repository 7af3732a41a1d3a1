package router

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"dayfly.dev/dayfly/internal/control"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

const (
	peerEvery   = 200 * time.Millisecond
	peerTimeout = 400 * time.Millisecond
	peerMisses  = 2 // in a row, and the peer is dead
	pruneAgain  = time.Second
	// A controller that was heard within this time leads, and takes a dead router out itself. It asks twice as often
	// (control.StatusWait). Routers that cannot reach only each other must not undo what it does.
	controllerSilent = time.Second
)

// peers watches the other routers: nobody else takes a dead router's address out of the slices while the controller is
// away, and new connections would go on to it.
type peers struct {
	router *Router

	mu   sync.Mutex
	list map[string]*watched
	wake chan struct{}
}

type watched struct {
	control.Peer
	cancel context.CancelFunc
}

func newPeers(r *Router) *peers {
	return &peers{router: r, list: map[string]*watched{}, wake: make(chan struct{}, 1)}
}

// set says which peers there are.
func (p *peers) set(list []control.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, w := range p.list {
		if !slices.Contains(list, w.Peer) {
			if w.cancel != nil {
				w.cancel()
			}
			delete(p.list, name)
		}
	}
	for _, peer := range list {
		if _, ok := p.list[peer.Name]; !ok && peer.Name != p.router.opts.Name {
			p.list[peer.Name] = &watched{Peer: peer}
		}
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *peers) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		p.mu.Lock()
		for _, w := range p.list {
			if w.cancel == nil {
				wctx, cancel := context.WithCancel(ctx)
				w.cancel = cancel
				wg.Go(func() { p.watch(wctx, w.Peer) })
			}
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
	}
}

// watch asks one peer for signs of life and takes it out of the slices when there are none.
func (p *peers) watch(ctx context.Context, peer control.Peer) {
	client := control.NewClient(peer.Address, &p.router.certs)
	defer client.Close()
	misses := 0
	var pruned time.Time
	tick := time.NewTicker(peerEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		actx, cancel := context.WithTimeout(ctx, peerTimeout)
		err := client.Alive(actx)
		cancel()
		if err == nil || ctx.Err() != nil {
			misses = 0
			continue
		}
		if misses++; misses < peerMisses || time.Since(pruned) < pruneAgain || p.router.controllerHeard() {
			continue
		}
		pruned = time.Now()
		p.router.log.Warn("peer is dead", "peer", peer.Name, "reason", err)
		if _, err := p.prune(ctx, peer.Name, []netip.Addr{peer.Address}); err != nil {
			p.router.log.Warn("could not take a dead peer out of the slices", "peer", peer.Name, "reason", err)
		}
	}
}

// prune takes a router's addresses out of every slice of ours in which another router remains, and returns in how many it
// stays. Two routers that each hold the other for dead cannot empty a slice: whoever comes second finds itself alone in it,
// or not at all.
func (p *peers) prune(ctx context.Context, name string, addrs []netip.Addr) (stays int, err error) {
	api := p.router.opts.Kubernetes.DiscoveryV1()
	list, err := api.EndpointSlices("").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelManagedBy + "=dayfly.dev"})
	if err != nil {
		return 0, fmt.Errorf("listing our slices: %w", err)
	}
	for _, s := range list.Items {
		if len(without(s.Endpoints, addrs)) == len(s.Endpoints) {
			continue
		}
		err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
			live, err := api.EndpointSlices(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			rest := without(live.Endpoints, addrs)
			if len(rest) == 0 && len(live.Endpoints) > 0 {
				stays++
			}
			if len(rest) == 0 || len(rest) == len(live.Endpoints) {
				return nil
			}
			live.Endpoints = rest
			p.router.log.Info("taking a router out of a slice", "router", name, "slice", s.Namespace+"/"+s.Name)
			p.router.opts.At("prune")
			defer p.router.opts.At("pruned")
			_, err = api.EndpointSlices(s.Namespace).Update(ctx, live, metav1.UpdateOptions{FieldManager: "dayfly-router"})
			return err
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return stays, fmt.Errorf("updating slice %s/%s: %w", s.Namespace, s.Name, err)
		}
	}
	return stays, nil
}

func without(endpoints []discoveryv1.Endpoint, addrs []netip.Addr) []discoveryv1.Endpoint {
	return slices.DeleteFunc(slices.Clone(endpoints), func(e discoveryv1.Endpoint) bool {
		return slices.ContainsFunc(e.Addresses, func(a string) bool {
			addr, err := netip.ParseAddr(a)
			return err == nil && slices.Contains(addrs, addr)
		})
	})
}
