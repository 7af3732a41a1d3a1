package gateway

import (
	"cmp"
	"context"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	engine "dayfly.dev/dayfly/internal/environment"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// table is what the gateway knows: which address leads where, and which pods are ready there.
type table struct {
	mu      sync.RWMutex
	envs    map[types.UID]*environment
	hosts   map[string][]claim
	slices  map[serviceKey]map[string]*discoveryv1.EndpointSlice // by name
	changed chan struct{}                                        // closed at the next change
}

type serviceKey struct{ namespace, name string }

// claim is an environment's on a host. No two environments have the same, unless somebody has made a status by hand: then the oldest has it.
type claim struct {
	env *environment
	to  v1alpha1.Address
}

// environment is one Environment, as it was last seen.
type environment struct {
	*v1alpha1.Environment
	use *use
}

// use is what the gateway knows of how an environment is used. It outlives what changes of the environment.
type use struct {
	mu       sync.Mutex
	open     map[*visitor]bool // requests under way
	held     int               // of them, those that wait
	last     time.Time         // when the last one began or ended
	reported time.Time
}

// visitor is a request under way.
type visitor struct {
	visit
	end context.CancelCauseFunc
}

// route is where a request goes.
type route struct {
	env *environment
	to  v1alpha1.Address
}

func newTable() *table {
	return &table{envs: map[types.UID]*environment{}, hosts: map[string][]claim{}, slices: map[serviceKey]map[string]*discoveryv1.EndpointSlice{}, changed: make(chan struct{})}
}

// news wakes those who wait for a change. The lock is held.
func (t *table) news() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *table) putEnvironment(e *v1alpha1.Environment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := &environment{e, &use{open: map[*visitor]bool{}}}
	if was := t.envs[e.UID]; was != nil {
		now.use = was.use
		t.unclaim(was)
	}
	now.use.endRevoked(e)
	t.envs[e.UID] = now
	for _, a := range e.Status.Addresses {
		host := hostOf(a)
		t.hosts[host] = append(t.hosts[host], claim{now, a})
		slices.SortFunc(t.hosts[host], func(a, b claim) int {
			return cmp.Or(a.env.CreationTimestamp.Compare(b.env.CreationTimestamp.Time), strings.Compare(string(a.env.UID), string(b.env.UID)))
		})
	}
	t.news()
}

func (t *table) dropEnvironment(e *v1alpha1.Environment) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if was := t.envs[e.UID]; was != nil {
		t.unclaim(was)
		delete(t.envs, e.UID)
		was.use.endAll(errGone)
	}
	t.news()
}

// begin counts a request, which ends with what let it in.
func (t *table) begin(ctx context.Context, to route, v visit) (_ context.Context, done func()) {
	ctx, end := context.WithCancelCause(ctx)
	stop := func() {}
	if !v.until.IsZero() {
		ctx, stop = context.WithDeadlineCause(ctx, v.until, errRevoked)
	}
	t.mu.RLock() // or it would be missed by what revokes it
	defer t.mu.RUnlock()
	now := t.envs[to.env.UID]
	if now == nil || !now.admits(v) {
		end(errRevoked)
		now = to.env
	}
	who, u := &visitor{v, end}, now.use
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open[who], u.last = true, time.Now()
	return ctx, func() {
		stop()
		end(nil)
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.open, who)
		u.last = time.Now()
	}
}

// admits says whether what let a request in still does.
func (e *environment) admits(v visit) bool {
	return e.Public() || slices.ContainsFunc(e.Spec.Shares, func(s v1alpha1.Share) bool { return s.Hash == v.hash })
}

// endRevoked ends the requests that an environment no longer lets in.
func (u *use) endRevoked(e *v1alpha1.Environment) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for who := range u.open {
		if !(&environment{Environment: e}).admits(who.visit) {
			who.end(errRevoked)
		}
	}
}

func (u *use) endAll(why error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for who := range u.open {
		who.end(why)
	}
}

func (t *table) unclaim(e *environment) {
	for _, a := range e.Status.Addresses {
		host := hostOf(a)
		t.hosts[host] = slices.DeleteFunc(t.hosts[host], func(c claim) bool { return c.env.UID == e.UID })
		if len(t.hosts[host]) == 0 {
			delete(t.hosts, host)
		}
	}
}

// hostOf is the host of an address; "" if that is none.
func hostOf(a v1alpha1.Address) string {
	u, err := url.Parse(a.URL)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

func serviceOf(s *discoveryv1.EndpointSlice) serviceKey {
	return serviceKey{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
}

func (t *table) putSlice(s *discoveryv1.EndpointSlice) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := serviceOf(s)
	if t.slices[k] == nil {
		t.slices[k] = map[string]*discoveryv1.EndpointSlice{}
	}
	t.slices[k][s.Name] = s
	t.news()
}

func (t *table) dropSlice(s *discoveryv1.EndpointSlice) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := serviceOf(s)
	if delete(t.slices[k], s.Name); len(t.slices[k]) == 0 {
		delete(t.slices, k)
	}
	t.news()
}

// next is closed when anything of the table changes.
func (t *table) next() <-chan struct{} {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.changed
}

// find is the route of a host.
func (t *table) find(host string) (route, bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	claims := t.hosts[host]
	if host == "" || len(claims) == 0 || !claims[0].env.DeletionTimestamp.IsZero() {
		return route{}, false
	}
	return route{claims[0].env, claims[0].to}, true
}

// again is the same route as it is now, and what is closed when anything of the table changes.
func (t *table) again(r route) (now route, there bool, changed <-chan struct{}) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e := t.envs[r.env.UID]
	if e == nil || !e.DeletionTimestamp.IsZero() {
		return r, false, t.changed
	}
	i := slices.IndexFunc(e.Status.Addresses, func(a v1alpha1.Address) bool { return a.URL == r.to.URL })
	if i < 0 {
		return r, false, t.changed
	}
	return route{e, e.Status.Addresses[i]}, true, t.changed
}

// ready are the addresses of the pods that a route may lead to now, as host:port.
func (t *table) ready(r route) []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []string
	for _, s := range t.slices[serviceKey{r.env.Status.Namespace, r.to.Service}] {
		port := portOf(s, r.to.Port)
		if port == 0 || s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, e := range s.Endpoints {
			if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				out = append(out, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(port))))
			}
		}
	}
	slices.Sort(out)
	return out
}

// portOf is the number of a slice's TCP port of that name; 0 if there is none.
func portOf(s *discoveryv1.EndpointSlice, name string) int32 {
	for _, p := range s.Ports {
		if p.Port != nil && (p.Name == nil && name == "" || p.Name != nil && *p.Name == name) && (p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP) {
			return *p.Port
		}
	}
	return 0
}

// runs says whether requests may go to an environment: it is ready, or was and is being changed, or some of it never will be.
func (e *environment) runs() bool {
	if e.Spec.Asleep() || e.Status.Replicas > 0 {
		return !e.Spec.Asleep()
	}
	ready := meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionReady)
	return ready != nil && ready.ObservedGeneration == e.Generation && slices.Contains([]string{engine.ReasonFailing, engine.ReasonNotInTime, engine.ReasonNoImage}, ready.Reason)
}

// queued says whether an environment waits for its turn among those that may be awake, and where it stands in line. What it
// waits for names others: that is not for visitors.
func (e *environment) queued() (where string, ok bool) {
	ready := meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionReady)
	if ready == nil || ready.Reason != engine.ReasonQueued || e.Status.Replicas > 0 {
		return "", false
	}
	where = "As many environments are awake as may be."
	if a := e.Status.Admission; a != nil && a.Position > 0 {
		where = "As many environments are awake as may be, and this one is " + engine.Ordinal(int(a.Position)) + " in line."
	}
	return where, true
}

func (e *environment) key() client.ObjectKey { return client.ObjectKeyFromObject(e.Environment) }
