package router

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/dial"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// origins knows the ready pods of every captured Service, from the slices of the origin Services. It goes on with what it
// knew last while the API server is away.
type origins struct {
	client  kubernetes.Interface
	current atomic.Pointer[map[string][]netip.AddrPort] // by session.OriginKey
	past    atomic.Pointer[map[string]former]           // those whose slices are gone, for as long as ports linger
	isReady atomic.Bool
	found   func() // called when there are pods where there were none, or none where there were
}

func newOrigins(client kubernetes.Interface, found func()) *origins {
	o := &origins{client: client, found: found}
	o.current.Store(&map[string][]netip.AddrPort{})
	o.past.Store(&map[string]former{})
	return o
}

// former is an origin that is no more.
type former struct {
	endpoints []netip.AddrPort
	until     time.Time
}

func (o *origins) endpoints(origin string) []netip.AddrPort { return (*o.current.Load())[origin] }

// lately returns the pods behind an origin, or those that were behind it when it went a moment ago.
func (o *origins) lately(origin string) []netip.AddrPort {
	if now, ok := (*o.current.Load())[origin]; ok {
		return now
	}
	return (*o.past.Load())[origin].endpoints
}

func (o *origins) synced() bool { return o.isReady.Load() }

// watchAgain is the pause before the slices are listed anew.
const watchAgain = 500 * time.Millisecond

func (o *origins) run(ctx context.Context) error {
	for {
		if err := o.follow(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain + rand.N(watchAgain)):
		}
	}
}

// follow keeps up with the slices until ctx ends or their watch breaks. An informer left alone would try less and less
// often, and see what is new up to half a minute after the API server is back.
func (o *origins) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	factory := informers.NewSharedInformerFactoryWithOptions(o.client, 0,
		informers.WithTweakListOptions(func(l *metav1.ListOptions) { l.LabelSelector = v1alpha1.LabelOriginOf }))
	informer := factory.Discovery().V1().EndpointSlices().Informer()
	if err := informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) { cancel() }); err != nil {
		return fmt.Errorf("watching endpoint slices: %w", err)
	}
	dirty := make(chan struct{}, 1)
	mark := func(any) {
		select {
		case dirty <- struct{}{}:
		default:
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: mark, UpdateFunc: func(_, n any) { mark(n) }, DeleteFunc: mark,
	}); err != nil {
		return fmt.Errorf("watching endpoint slices: %w", err)
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel() // before Shutdown, which waits
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	for {
		o.rebuild(informer.GetStore().List())
		o.isReady.Store(true)
		select {
		case <-ctx.Done():
			return nil
		case <-dirty:
			time.Sleep(time.Millisecond) // a burst of changes is one rebuild
		}
	}
}

func (o *origins) rebuild(objects []any) {
	next := map[string][]netip.AddrPort{}
	for _, obj := range objects {
		s, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for _, p := range s.Ports {
			if p.Name == nil || p.Port == nil {
				continue
			}
			key := s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName] + ":" + *p.Name
			next[key] = append(next[key], readyAddresses(s, uint16(*p.Port))...)
		}
	}
	o.remember(next, time.Now())
	if last := *o.current.Swap(&next); !maps.EqualFunc(last, next, func(a, b []netip.AddrPort) bool { return len(a) > 0 == (len(b) > 0) }) {
		o.found()
	}
}

// remember keeps the origins that next does not have any more.
func (o *origins) remember(next map[string][]netip.AddrPort, now time.Time) {
	past := maps.Clone(*o.past.Load())
	maps.DeleteFunc(past, func(_ string, f former) bool { return now.After(f.until) })
	for key, endpoints := range *o.current.Load() {
		if _, ok := next[key]; !ok {
			past[key] = former{endpoints, now.Add(2 * lingerTime)} // the port may leave the table later than the origin goes
		}
	}
	o.past.Store(&past)
}

// readyAddresses are the endpoints that a node would send to: the ready ones.
func readyAddresses(s *discoveryv1.EndpointSlice, port uint16) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range s.Endpoints {
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		for _, a := range e.Addresses {
			if addr, err := netip.ParseAddr(a); err == nil && dial.Ordinary(addr) {
				out = append(out, netip.AddrPortFrom(addr, port))
			}
		}
	}
	return out
}
