package environment

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// Options configure an Engine.
type Options struct {
	Client   client.Client // for writes
	Reader   client.Reader // live, never a cache: the engine acts on what is, not on what was
	Accounts *Accounts
	System   string // the namespace of dayfly
	Domain   string // under which the gateway answers for components; "": there is none
	// Render makes objects of a folder that nobody trusts: within bounds of time and memory.
	Render func(context.Context, source.Folder, source.Options) (*source.Rendered, error)
	// Fetcher brings the sources of environments.
	Fetcher Fetcher
	// Get asks an address in the cluster by HTTP and returns the status code of the answer.
	Get    func(ctx context.Context, url string) (int, error)
	Logger *slog.Logger
	Events events.EventRecorder // nil: none are written
	Now    func() time.Time     // default time.Now

	// Policies are all there are, and Labels those of a home, both from a cache. nil: there are none.
	Policies func() []v1alpha1.EnvironmentPolicy
	Labels   func(home string) map[string]string
	// Wake has an environment looked at after a time.
	Wake func(at client.ObjectKey, after time.Duration)
}

// Engine brings the cluster to what Environments ask for.
type Engine struct {
	client   client.Client
	reader   client.Reader
	accounts *Accounts
	system   string
	domain   string
	renderer func(context.Context, source.Folder, source.Options) (*source.Rendered, error)
	get      func(context.Context, string) (int, error)
	log      *slog.Logger
	events   events.EventRecorder
	now      func() time.Time
	policies func() []v1alpha1.EnvironmentPolicy
	labels   func(string) map[string]string

	fetches *fetches
	clones  *clones
	queue   *queue
	known   known
	renders *renders

	patrol *patrol

	mu      sync.Mutex
	refused map[client.ObjectKey]map[key]refusal
	putBack map[client.ObjectKey]map[key]time.Time
	seen    map[types.UID]time.Time // when an environment with a lease was looked at last
}

// New returns an engine.
func New(o Options) *Engine {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	e := &Engine{client: o.Client, reader: o.Reader, accounts: o.Accounts, system: o.System, domain: o.Domain, renderer: o.Render, get: o.Get, log: o.Logger, events: o.Events, now: o.Now,
		fetches: newFetches(o.Reader, o.Fetcher), clones: newClones(o.Reader, o.Fetcher), policies: o.Policies, labels: o.Labels, refused: map[client.ObjectKey]map[key]refusal{}, putBack: map[client.ObjectKey]map[key]time.Time{}, seen: map[types.UID]time.Time{}}
	e.queue = newQueue(e.policy, o.Now, o.Wake)
	e.renders = newRenders(o.Wake)
	e.patrol = newPatrol(o.Accounts, o.Wake, o.Logger, o.Now)
	return e
}

// policy is what holds for the environments of a home.
func (e *Engine) policy(home string) rules {
	if e.policies == nil {
		return rules{}
	}
	return rules{PolicyFor(e.policies(), home, e.labels(home))}
}

// PoliciesChanged has all who wait for a place stand in line anew.
func (e *Engine) PoliciesChanged() { e.queue.again() }

// page is how many environments are read at once.
const page = 100

// line reads who has a place, and who waits for one.
func (e *Engine) line(ctx context.Context) (out []entry, err error) {
	list := &v1alpha1.EnvironmentList{}
	for {
		if err := e.reader.List(ctx, list, client.Limit(page), client.Continue(list.Continue)); err != nil {
			return nil, fmt.Errorf("listing environments: %w", err)
		}
		for i := range list.Items {
			env := &list.Items[i]
			if left(env) {
				continue
			}
			env.Spec.Blueprint = BlueprintOf(env) // its revision is that of what was fetched
			if s, ok := measured(env); ok {
				out = append(out, entryOf(env, &s))
			} else {
				out = append(out, entryOf(env, nil))
			}
		}
		if list.Continue == "" {
			return out, nil
		}
	}
}

// Run fetches sources, clones databases, renders, and looks at what no watch shows, until ctx ends. Without it environments that are
// not ready wait.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { e.fetches.run(ctx) })
	wg.Go(func() { e.clones.run(ctx) })
	wg.Go(func() { e.renders.run(ctx, e.renderOne) })
	wg.Go(func() { e.patrol.run(ctx) })
	wg.Wait()
	return nil
}

// stepsAtOnce and longPass bound how long one pass may keep others waiting.
const (
	stepsAtOnce = 10
	longPass    = 500 * time.Millisecond
)

// Reconcile brings one environment further. It returns when to look again at the latest; 0 is when something changes. Wakes are
// to be expected for every change of the Environment, of the endpoints in its namespace, and of what is Watched there.
func (e *Engine) Reconcile(ctx context.Context, at client.ObjectKey) (time.Duration, error) {
	if err := e.queue.fill(func() ([]entry, error) { return e.line(ctx) }); err != nil {
		return 0, err
	}
	began := e.now()
	for range stepsAtOnce {
		if e.now().Sub(began) > longPass {
			break
		}
		env := &v1alpha1.Environment{}
		if err := e.reader.Get(ctx, at, env); err != nil {
			if apierrors.IsNotFound(err) {
				e.forget(at)
				e.fetches.forget(at)
				e.clones.forget(at)
			}
			return 0, client.IgnoreNotFound(err)
		}
		if left(env) {
			e.forget(at)
			e.fetches.forget(at)
			return 0, nil
		}
		o, err := e.observe(ctx, env)
		if err != nil {
			return 0, err
		}
		p := Decide(o)
		if err := e.report(ctx, env, p.Status); apierrors.IsConflict(err) {
			continue // it was asked to be awake meanwhile
		} else if err != nil {
			return 0, err
		}
		e.queue.put(entryOf(env, o.Size)) // it may have given up its place
		if p.Step == nil {
			e.patrol.put(at, o)
			return p.Recheck, nil
		}
		for _, h := range p.Healed {
			e.healed(env, h)
		}
		if s, idle := p.Step.(Sleep); idle && e.events != nil {
			e.events.Eventf(env, nil, corev1.EventTypeNormal, "Idle", "Reconcile", "falls asleep: %s", s.Why)
		}
		if err := e.do(ctx, env, p.Step); err != nil {
			return 0, err
		}
	}
	return time.Millisecond, nil
}

// left says whether nothing of an environment is there any more but its name. Who holds on to that keeps no place by it.
func left(env *v1alpha1.Environment) bool {
	return !env.DeletionTimestamp.IsZero() && !controllerutil.ContainsFinalizer(env, v1alpha1.EnvironmentFinalizer)
}

// report writes down what was seen, before the step that follows from it.
func (e *Engine) report(ctx context.Context, env *v1alpha1.Environment, st v1alpha1.EnvironmentStatus) error {
	if equality.Semantic.DeepEqual(env.Status, st) {
		return nil
	}
	before := env.DeepCopy()
	env.Status = st
	patch := client.MergeFrom(before)
	if st.Replicas < before.Status.Replicas { // whoever asks for it to be awake must either be seen, or see that it is not
		patch = client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	}
	if err := e.client.Status().Patch(ctx, env, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("writing the status of environment %s/%s: %w", env.Namespace, env.Name, err)
	}
	e.tell(before, env)
	return nil
}

// tell says in an event, and in the log, that an environment has come to another state.
func (e *Engine) tell(before, now *v1alpha1.Environment) {
	e.tellEnd(before, now)
	was, is := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionReady), meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionReady)
	if is == nil || was != nil && was.Reason == is.Reason && before.Status.Revisions == now.Status.Revisions {
		return
	}
	kind := corev1.EventTypeNormal
	switch is.Reason {
	case ReasonFailing, ReasonInvalid, ReasonNamespaceTaken, ReasonNotInTime, ReasonBlocked, ReasonNoBlueprint, ReasonSourceUnavailable:
		kind = corev1.EventTypeWarning
	}
	says := is.Message
	if is.Reason == ReasonReady {
		says = "revision " + now.Status.Revisions.Ready
	}
	e.log.Info("environment", "environment", now.Namespace+"/"+now.Name, "owner", now.Spec.Owner.Username, "state", is.Reason, "revision", now.Status.Revisions.Requested)
	if e.events != nil {
		e.events.Eventf(now, nil, kind, is.Reason, "Reconcile", "%s", clean(says))
	}
}

// tellEnd says in an event that an environment ends at another time than it did, with the reason that was given, or that it ends soon.
func (e *Engine) tellEnd(before, now *v1alpha1.Environment) {
	if e.events == nil {
		return
	}
	why := ""
	if r := clean(now.Annotations[v1alpha1.AnnotationReason]); r != "" {
		why = ": " + r
	}
	was, is := before.Status.ExpiresAt, now.Status.ExpiresAt
	asked := before.Status.ObservedGeneration != 0 && before.Status.ObservedGeneration != now.Generation
	switch {
	case asked && was != nil && is == nil:
		e.events.Eventf(now, nil, corev1.EventTypeNormal, "Pinned", "Reconcile", "it no longer ends by itself%s", why)
	case asked && was == nil && is != nil:
		e.events.Eventf(now, nil, corev1.EventTypeNormal, "Unpinned", "Reconcile", "it lives until %s", is.UTC().Format(time.RFC3339))
	case asked && was != nil && is.After(was.Time):
		e.events.Eventf(now, nil, corev1.EventTypeNormal, "Extended", "Reconcile", "it lives until %s%s", is.UTC().Format(time.RFC3339), why)
	}
	soon := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionExpiresSoon)
	if soon != nil && meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionExpiresSoon) == nil && is != nil {
		e.events.Eventf(now, nil, corev1.EventTypeWarning, v1alpha1.ConditionExpiresSoon, "Reconcile", "it ends at %s: %s", is.UTC().Format(time.RFC3339), soon.Message)
	}
}

// looked notes that an environment is looked at, and says whether the last look is too long ago for a lease to be judged by it.
func (e *Engine) looked(env *v1alpha1.Environment, now time.Time) (away bool) {
	if env.Spec.Lease == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for uid, last := range e.seen { // of those that are gone
		if now.Sub(last) > 24*time.Hour {
			delete(e.seen, uid)
		}
	}
	last, ok := e.seen[env.UID]
	e.seen[env.UID] = now
	return !ok || now.Sub(last) > env.Spec.Lease.Duration/2
}

// healed tells that an object is put back, and remembers when.
func (e *Engine) healed(env *v1alpha1.Environment, h Healing) {
	e.log.Info("drift", "environment", env.Namespace+"/"+env.Name, "object", h.Says)
	if e.events != nil {
		e.events.Eventf(env, nil, corev1.EventTypeWarning, "Drift", "Reconcile", "%s", h.Says)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	at := client.ObjectKeyFromObject(env)
	if e.putBack[at] == nil {
		e.putBack[at] = map[key]time.Time{}
	}
	e.putBack[at][h.object] = e.now()
}

// putBacks are the objects of an environment that were put back lately, and when.
func (e *Engine) putBacks(env *v1alpha1.Environment) map[key]time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := client.ObjectKeyFromObject(env)
	maps.DeleteFunc(e.putBack[at], func(_ key, when time.Time) bool { return e.now().Sub(when) > putBackAgain })
	if len(e.putBack[at]) == 0 {
		delete(e.putBack, at)
	}
	return maps.Clone(e.putBack[at])
}

func (e *Engine) forget(at client.ObjectKey) {
	e.patrol.drop(at)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.refused, at)
	delete(e.putBack, at)
	e.queue.drop(at)
}

func (e *Engine) refusals(env *v1alpha1.Environment) map[key]refusal {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[key]refusal{}
	for k, r := range e.refused[client.ObjectKeyFromObject(env)] {
		out[k] = r
	}
	return out
}

func (e *Engine) refuse(env *v1alpha1.Environment, k key, r refusal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := client.ObjectKeyFromObject(env)
	if e.refused[at] == nil {
		e.refused[at] = map[key]refusal{}
	}
	e.refused[at][k] = r
}
