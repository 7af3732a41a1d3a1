package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/identity"
	"dayfly.dev/dayfly/internal/session"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	callTime    = 2 * time.Second
	silentAfter = time.Second     // beyond the wait that was asked for: new connections go to others
	deadAfter   = 3 * time.Second // without an answer a router counts no more
	retryAfter  = 150 * time.Millisecond
	openAgain   = 2 * time.Second // how often open connections are news by themselves
	settleTime  = 5 * time.Second
	blindTime   = 3 * time.Second // in which nodes surely follow; they look once a second
)

// fleet is the routers as the leading controller knows them: it keeps their tables up to date and hears what they see.
type fleet struct {
	opts   Options
	cached client.Reader
	live   client.Client
	certs  *identity.Holder
	me     *candidate
	log    *slog.Logger
	near   *neighbours
	wake   chan struct{} // the table may have changed
	notify func()        // the routers, or what they see, changed

	rounds sync.Mutex // held by the settling round in progress
	marker int        // generation

	mu      sync.Mutex
	term    int64
	table   control.Table
	members map[types.UID]*member
	nextFor *round
	started time.Time

	reasons map[int]string // why ports cannot be served as policies want, as refresh saw it last; refresh's alone
}

// member is one router's pod.
type member struct {
	pod    corev1.Pod
	zone   string
	client *control.Client
	cancel context.CancelFunc
	since  time.Time
	push   chan struct{} // the table changed

	mu     sync.Mutex
	acked  control.Table // the last table that it acknowledged; Term 0: none
	status control.Status
	heard  time.Time
	silent bool // the last call went unanswered
}

func newFleet(o Options, cached client.Reader, live client.Client, certs *identity.Holder, me *candidate, near *neighbours) *fleet {
	return &fleet{
		opts: o, cached: cached, live: live, certs: certs, me: me, log: o.Logger, near: near, wake: make(chan struct{}, 1),
		members: map[types.UID]*member{}, notify: func() {},
	}
}

// poke says that the table or the routers may have changed; it never waits.
func (f *fleet) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run leads: it keeps members and table up to date until ctx ends.
func (f *fleet) run(ctx context.Context) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := f.refresh(ctx, &wg); err != nil && ctx.Err() == nil {
			f.log.Warn("refreshing the routers' table", "reason", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-tick.C:
		}
	}
}

// begin finds this leader's term: it grows each time the lead changes hands.
func (f *fleet) begin(ctx context.Context) error {
	var lease coordinationv1.Lease
	if err := f.live.Get(ctx, client.ObjectKey{Namespace: f.opts.Namespace, Name: leaseName}, &lease); err != nil {
		return fmt.Errorf("reading the leader's lease: %w", err)
	}
	var slice discoveryv1.EndpointSlice
	err := f.live.Get(ctx, client.ObjectKey{Namespace: f.opts.Namespace, Name: markerName}, &slice)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("reading the marker: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.term, f.started = 1, time.Now()
	if lease.Spec.LeaseTransitions != nil {
		f.term += int64(*lease.Spec.LeaseTransitions)
	}
	f.table.Version = f.me.resume(f.term)
	if len(slice.Ports) == 1 && slice.Ports[0].Port != nil {
		f.marker = int(*slice.Ports[0].Port) - control.MarkerPort
	}
	return nil
}

// refresh brings members and table in line with the objects.
func (f *fleet) refresh(ctx context.Context, wg *sync.WaitGroup) error {
	var pods corev1.PodList
	if err := f.cached.List(ctx, &pods, client.InNamespace(f.opts.Namespace), client.MatchingLabels(RouterLabel)); err != nil {
		return fmt.Errorf("listing the routers: %w", err)
	}
	var alterations v1alpha1.AlterationList
	if err := f.cached.List(ctx, &alterations); err != nil {
		return fmt.Errorf("listing alterations: %w", err)
	}
	var sessions v1alpha1.SessionList
	if err := f.cached.List(ctx, &sessions); err != nil {
		return fmt.Errorf("listing sessions: %w", err)
	}
	marker, err := f.markerAddress(ctx)
	if err != nil {
		return err
	}
	next := control.Table{Marker: marker}
	next.Listeners, next.Laptops = session.Compile(alterations.Items, sessions.Items)
	if err := f.police(ctx, &next, alterations.Items); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.enlist(ctx, wg, pods.Items)
	next.Term, next.Version = f.term, f.table.Version
	for _, m := range f.members {
		if addr, err := netip.ParseAddr(m.pod.Status.PodIP); err == nil {
			next.Peers = append(next.Peers, control.Peer{Name: m.pod.Name, Address: addr})
		}
	}
	slices.SortFunc(next.Peers, func(a, b control.Peer) int { return cmp.Compare(a.Name, b.Name) })
	if !reflect.DeepEqual(next, f.table) {
		next.Version++
		f.table = next
		f.me.made(next.Version)
		for _, m := range f.members {
			m.tell()
		}
	}
	return nil
}

func (m *member) tell() {
	select {
	case m.push <- struct{}{}:
	default:
	}
}

// enlist starts and stops members; f.mu is held.
func (f *fleet) enlist(ctx context.Context, wg *sync.WaitGroup, pods []corev1.Pod) {
	present := map[types.UID]bool{}
	for _, p := range pods {
		addr, err := netip.ParseAddr(p.Status.PodIP)
		if err != nil || !p.DeletionTimestamp.IsZero() || p.Status.Phase != corev1.PodRunning {
			continue
		}
		present[p.UID] = true
		if _, ok := f.members[p.UID]; ok {
			continue
		}
		mctx, cancel := context.WithCancel(ctx)
		m := &member{
			pod: p, zone: f.zoneOf(ctx, p.Spec.NodeName), client: control.NewClient(addr, f.certs), cancel: cancel,
			since: time.Now(), push: make(chan struct{}, 1),
		}
		f.members[p.UID] = m
		wg.Go(func() { f.keepTold(mctx, m) })
		wg.Go(func() { f.listen(mctx, m) })
	}
	for uid, m := range f.members {
		if !present[uid] {
			m.cancel()
			m.client.Close()
			m.mu.Lock()
			m.acked = control.Table{}
			m.mu.Unlock()
			delete(f.members, uid)
			f.log.Info("router is gone", "router", m.pod.Name)
			f.notify()
		}
	}
}

func (f *fleet) zoneOf(ctx context.Context, node string) string {
	var n corev1.Node
	if err := f.live.Get(ctx, client.ObjectKey{Name: node}, &n); err != nil {
		f.log.Warn("reading the zone of a node", "node", node, "reason", err)
	}
	return n.Labels[corev1.LabelTopologyZone]
}

// keepTold pushes the table to one router whenever it changed, until the router has it.
func (f *fleet) keepTold(ctx context.Context, m *member) {
	for {
		f.mu.Lock()
		want := f.table
		f.mu.Unlock()
		m.mu.Lock()
		have := m.acked
		m.mu.Unlock()
		if want.Version > 0 && (have.Term != want.Term || have.Version != want.Version) {
			if err := f.pushTo(ctx, m, want); err != nil {
				if _, stale := errors.AsType[*control.StaleError](err); !stale && ctx.Err() == nil {
					f.log.Debug("pushing the table", "router", m.pod.Name, "reason", err)
				}
				select {
				case <-ctx.Done():
					return
				case <-time.After(retryAfter):
					continue
				}
			}
			f.notify()
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-m.push:
		}
	}
}

func (f *fleet) pushTo(ctx context.Context, m *member, t control.Table) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	sent := t
	sent.Sent = f.now()
	status, err := m.client.Push(ctx, sent)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acked, m.status, m.heard, m.silent = t, status, time.Now(), false
	return nil
}

// listen hears what one router sees. A router that has lost its table, because it was restarted, is told again.
func (f *fleet) listen(ctx context.Context, m *member) {
	after := int64(-1)
	var openTold time.Time
	for ctx.Err() == nil {
		sctx, cancel := context.WithTimeout(ctx, control.StatusWait+silentAfter)
		s, err := m.client.Status(sctx, after)
		cancel()
		if err != nil {
			after = -1
			f.lost(m)
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
			continue
		}
		m.mu.Lock()
		forgot := m.acked.Term != 0 && (s.Term != m.acked.Term || s.Table < m.acked.Version)
		if forgot {
			m.acked = control.Table{}
		}
		news := s.Seq != after || forgot || m.silent || time.Since(openTold) > openAgain && len(s.Open) > 0
		m.status, m.heard, m.silent = s, time.Now(), false
		m.mu.Unlock()
		after = s.Seq
		if forgot {
			m.tell()
		}
		if news {
			openTold = time.Now()
			f.notify()
		}
	}
}

// lost notes that a router did not answer: no new connections go to it from now on, and after a while it counts no more.
func (f *fleet) lost(m *member) {
	m.mu.Lock()
	news := !m.silent && m.acked.Term != 0
	gone := m.acked.Term != 0 && time.Since(m.heard) > deadAfter
	m.silent = true
	if gone {
		m.acked = control.Table{}
	}
	m.mu.Unlock()
	if gone {
		f.log.Warn("router does not answer", "router", m.pod.Name)
		m.tell() // again and again until it has the table: it may come back as the process that it was
	}
	if gone || news {
		f.notify()
	}
}

// now is the clock by which drains end.
func (f *fleet) now() time.Time {
	if f.opts.Now == nil {
		return time.Now()
	}
	return f.opts.Now()
}

// known says whether every router has been heard, or given the time to answer: a leader that has just begun must not
// take silence for death.
func (f *fleet) known() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.started.IsZero() || f.table.Version == 0 {
		return false
	}
	for _, m := range f.members {
		m.mu.Lock()
		pending := m.acked.Term == 0 && time.Since(m.since) < deadAfter
		m.mu.Unlock()
		if pending && time.Since(f.started) < 2*deadAfter {
			return false
		}
	}
	return len(f.members) > 0 || time.Since(f.started) > 2*deadAfter
}

// Routers returns every router that answers and has a table of this term.
func (f *fleet) Routers() []session.Router {
	f.mu.Lock()
	members := slices.Collect(maps.Values(f.members))
	f.mu.Unlock()
	var out []session.Router
	for _, m := range members {
		m.mu.Lock()
		if m.acked.Term != 0 {
			out = append(out, m.router())
		}
		m.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b session.Router) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Flow returns what the routers have counted of a route.
func (f *fleet) Flow(route string) control.Flow {
	f.mu.Lock()
	members := slices.Collect(maps.Values(f.members))
	f.mu.Unlock()
	var sum control.Flow
	for _, m := range members {
		m.mu.Lock()
		sum = sum.Add(m.status.Flows[route])
		m.mu.Unlock()
	}
	return sum
}

func (m *member) router() session.Router {
	r := session.Router{
		Name: m.pod.Name, Namespace: m.pod.Namespace, Node: m.pod.Spec.NodeName, Zone: m.zone, Labels: m.pod.Labels,
		Silent: m.silent || m.status.Leaving, Listeners: understood(m.acked.Listeners, m.status), Open: m.status.Open, Connected: m.status.Connected,
		Met: m.status.Met, Finds: m.status.Finds,
	}
	for _, ip := range m.pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			r.Addresses = append(r.Addresses, addr)
		}
	}
	return r
}

// each calls every router that counts, all at once.
func (f *fleet) each(call func(*control.Client) error) error {
	f.mu.Lock()
	members := slices.Collect(maps.Values(f.members))
	f.mu.Unlock()
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		m.mu.Lock()
		counts := m.acked.Term != 0 && !m.silent
		m.mu.Unlock()
		if counts {
			wg.Go(func() { errs[i] = call(m.client) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// round is one settling that several callers wait for.
type round struct {
	done chan struct{}
	err  error
}

// Settle returns once the nodes of all routers follow every change of endpoints that was made before the call. Callers
// that come while a round is in progress share the next.
func (f *fleet) Settle(ctx context.Context) error {
	f.mu.Lock()
	r := f.nextFor
	if r == nil {
		r = &round{done: make(chan struct{})}
		f.nextFor = r
		go f.settleRound(context.WithoutCancel(ctx), r)
	}
	f.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-r.done:
		return r.err
	}
}

func (f *fleet) settleRound(ctx context.Context, r *round) {
	f.rounds.Lock()
	defer f.rounds.Unlock()
	f.mu.Lock()
	f.nextFor = nil
	members := slices.Collect(maps.Values(f.members))
	f.mu.Unlock()
	defer close(r.done)
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	members = slices.DeleteFunc(members, func(m *member) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.acked.Term == 0 // one that is silent may only be slow, and its node sends connections all the same
	})
	if len(members) == 0 { // there may be some that nodes reach and we do not
		select {
		case <-ctx.Done():
			r.err = ctx.Err()
		case <-time.After(blindTime):
		}
		return
	}
	began := time.Now()
	f.marker = (f.marker + 1) % control.MarkerPorts
	if r.err = f.writeMarker(ctx, f.marker, members); r.err != nil {
		return
	}
	errs := make([]error, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() { errs[i] = m.settle(ctx, f.marker) })
	}
	wg.Wait()
	if r.err = errors.Join(errs...); r.err == nil {
		f.me.followed(began)
	}
}

// settle returns once the router's node follows, or the router counts no more.
func (m *member) settle(ctx context.Context, generation int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for !m.gone() {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		cancel()
	}()
	err := m.client.Settle(ctx, generation)
	if m.gone() {
		return nil
	}
	return err
}

func (m *member) gone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.acked.Term == 0
}

// markerName names the marker Service and its slice (see package router).
const markerName = "marker"

func (f *fleet) markerAddress(ctx context.Context) (string, error) {
	var svc corev1.Service
	err := f.live.Get(ctx, client.ObjectKey{Namespace: f.opts.Namespace, Name: markerName}, &svc)
	if err != nil || len(svc.Spec.Ports) == 0 {
		return "", client.IgnoreNotFound(err)
	}
	return net.JoinHostPort(svc.Spec.ClusterIP, strconv.Itoa(int(svc.Spec.Ports[0].Port))), nil
}

func (f *fleet) writeMarker(ctx context.Context, generation int, members []*member) error {
	want := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	want.Name, want.Namespace = markerName, f.opts.Namespace
	want.Labels = map[string]string{
		discoveryv1.LabelServiceName: markerName, discoveryv1.LabelManagedBy: "marker.dayfly.dev", v1alpha1.LabelManaged: "dayfly",
	}
	want.Ports = []discoveryv1.EndpointPort{{
		Name: new("marker"), Port: new(int32(control.MarkerPort + generation)), Protocol: new(corev1.ProtocolTCP),
	}}
	for _, m := range members {
		addr, err := netip.ParseAddr(m.pod.Status.PodIP)
		if err != nil {
			continue
		}
		if addr.Is6() {
			want.AddressType = discoveryv1.AddressTypeIPv6
		}
		want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{m.pod.Status.PodIP}, NodeName: new(m.pod.Spec.NodeName),
			Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		})
	}
	var have discoveryv1.EndpointSlice
	err := f.live.Get(ctx, client.ObjectKeyFromObject(want), &have)
	switch {
	case apierrors.IsNotFound(err):
		err = f.live.Create(ctx, want)
	case err == nil:
		have.Ports, have.Endpoints = want.Ports, want.Endpoints
		err = f.live.Update(ctx, &have)
	}
	if err != nil {
		return fmt.Errorf("writing the marker: %w", err)
	}
	return nil
}
