package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Options configure an Engine.
type Options struct {
	Client client.Client // for writes; reads of it may come from a cache
	Reader client.Reader // live, never a cache: the engine acts on what is, not on what was
	Fleet  Fleet
	System System
	Logger *slog.Logger
	Events events.EventRecorder // nil: none are written
	Traces trace.TracerProvider // nil: none are made
	Bounds Bounds
	Now    func() time.Time // for leases; default time.Now
	// Relisting says whether nodes may be reading all endpoints anew, such as after the API server was away; nil: never.
	Relisting func() bool
	// Neighbours returns the pods and namespaces of the cluster; nil where nothing is captured. What it returned may be old,
	// as long as changes wake the engine and the fleet.
	Neighbours func(context.Context) (Neighbours, error)
}

// Engine brings the cluster to what Sessions ask for.
type Engine struct {
	client  client.Client
	reader  client.Reader
	fleet   Fleet
	system  System
	log     *slog.Logger
	bounds  Bounds
	now     func() time.Time
	near    func(context.Context) (Neighbours, error)
	relists func() bool
	rights  rights
	metrics *metrics
	events  events.EventRecorder
	audit   audit
	tracer  trace.Tracer

	settling settling

	allocate sync.Mutex // held while a router port is chosen and recorded
}

// New returns an engine.
func New(o Options) *Engine {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Traces == nil {
		o.Traces = noop.NewTracerProvider()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Relisting == nil {
		o.Relisting = func() bool { return false }
	}
	return &Engine{now: o.Now, client: o.Client, reader: o.Reader, fleet: o.Fleet, system: o.System, log: o.Logger, bounds: o.Bounds, near: o.Neighbours, relists: o.Relisting, rights: rights{answers: map[string]answer{}},
		settling: settling{since: map[string]time.Time{}}, metrics: newMetrics(), events: o.Events, tracer: o.Traces.Tracer("dayfly.dev/session"), audit: audit{lives: map[string]map[string]*life{}}}
}

// Reconcile brings one namespace a step further. It returns when to look again at the latest; 0 is when something changes.
// Wakes are to be expected for every change of a Session, an Alteration, a Service or an EndpointSlice that these name,
// and of the routers.
func (e *Engine) Reconcile(ctx context.Context, namespace string) (time.Duration, error) {
	begin := time.Now()
	o, err := e.Observe(ctx, namespace)
	if err != nil {
		return 0, err
	}
	plan := Decide(o)
	e.auditEnds(o, plan) // before the last that is known of them may go
	// Who is refused must be known to the routers' table before anything leads to them, so the status comes first.
	if err := e.report(ctx, o, plan); err != nil {
		return 0, err
	}
	if len(plan.Steps) > 0 { // a pass that does nothing is no news
		var span trace.Span
		ctx, span = e.tracer.Start(ctx, "reconcile", trace.WithTimestamp(begin), trace.WithAttributes(attribute.String("k8s.namespace.name", namespace)))
		defer span.End()
	}
	var wg sync.WaitGroup
	errs := make([]error, len(plan.Steps))
	for i, s := range plan.Steps {
		if isSlow(s) {
			wg.Go(func() { errs[i] = e.do(ctx, namespace, s) })
			continue
		}
		errs[i] = e.do(ctx, namespace, s)
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	if len(plan.Steps) > 0 {
		return time.Millisecond, nil
	}
	if len(o.Sessions) == 0 && len(o.Alterations) == 0 {
		return 0, nil
	}
	return plan.Recheck, nil
}

// Observe reads one namespace, live.
func (e *Engine) Observe(ctx context.Context, namespace string) (*Observed, error) {
	o := &Observed{
		Now: e.now(), Namespace: namespace, System: e.system, Routers: e.fleet.Routers(),
		Services: map[string]*corev1.Service{}, Slices: map[string][]discoveryv1.EndpointSlice{}, Denied: map[string]string{},
		Pods: map[string][]corev1.Pod{}, Taken: map[string][]string{}, Bounds: e.bounds, Relisting: e.relists(),
	}
	var sessions v1alpha1.SessionList
	if err := e.reader.List(ctx, &sessions, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("listing sessions: %w", err)
	}
	var alterations v1alpha1.AlterationList
	if err := e.reader.List(ctx, &alterations, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("listing alterations: %w", err)
	}
	o.Sessions, o.Alterations = sessions.Items, alterations.Items
	if len(o.Sessions) > 0 {
		var ns corev1.Namespace
		if err := e.client.Get(ctx, client.ObjectKey{Name: namespace}, &ns); client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading namespace %s: %w", namespace, err)
		}
		o.NamespaceLabels = ns.Labels
	}
	if err := e.observeServices(ctx, o); err != nil {
		return nil, err
	}
	if err := e.observeRights(ctx, o); err != nil {
		return nil, err
	}
	return o, e.observePolicies(ctx, o)
}

func (e *Engine) observeServices(ctx context.Context, o *Observed) error {
	names := map[string]bool{}
	for _, s := range o.Sessions {
		for _, i := range s.Spec.Intercepts {
			names[i.Service], names[originName(i.Service)] = true, true
		}
	}
	for _, a := range o.Alterations {
		names[a.Spec.Target.Name], names[a.Spec.Origin] = true, true
	}
	if len(names) == 0 {
		return nil
	}
	for name := range names {
		svc := &corev1.Service{}
		err := e.reader.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, svc)
		switch {
		case client.IgnoreNotFound(err) != nil:
			return fmt.Errorf("reading service %s: %w", name, err)
		case err == nil:
			o.Services[name] = svc
		}
	}
	var all []string
	for name := range names {
		all = append(all, name)
	}
	only, err := labels.NewRequirement(discoveryv1.LabelServiceName, selection.In, all)
	if err != nil {
		return fmt.Errorf("selecting endpoint slices: %w", err)
	}
	var list discoveryv1.EndpointSliceList
	if err := e.reader.List(ctx, &list, client.InNamespace(o.Namespace), client.MatchingLabelsSelector{Selector: labels.NewSelector().Add(*only)}); err != nil {
		return fmt.Errorf("listing endpoint slices: %w", err)
	}
	for _, s := range list.Items {
		name := s.Labels[discoveryv1.LabelServiceName]
		o.Slices[name] = append(o.Slices[name], s)
	}
	return e.observeNames(ctx, o)
}

// observeNames reads the slices that have a name which dayfly needs and belong to something else: no list of a Service's
// slices shows them.
func (e *Engine) observeNames(ctx context.Context, o *Observed) error {
	for _, s := range o.Sessions {
		for _, i := range s.Spec.Intercepts {
			svc := o.Services[i.Service]
			if svc == nil || !s.DeletionTimestamp.IsZero() {
				continue
			}
			for _, family := range svc.Spec.IPFamilies {
				name := sliceName(svc.Name, PortOf(i), family)
				if slices.ContainsFunc(o.Slices[svc.Name], func(s discoveryv1.EndpointSlice) bool { return s.Name == name }) {
					continue
				}
				have := &discoveryv1.EndpointSlice{}
				err := e.reader.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, have)
				if client.IgnoreNotFound(err) != nil {
					return fmt.Errorf("reading endpoint slice %s: %w", name, err)
				}
				if err == nil && !isOurs(have, svc.UID) {
					o.Taken[i.Service] = append(o.Taken[i.Service], name)
				}
			}
		}
	}
	return nil
}

// rights remembers for a while what owners may, so that a pass costs no review for each intercept.
type rights struct {
	mu      sync.Mutex
	answers map[string]answer
}

type answer struct {
	why  string // why not; "" if allowed
	when time.Time
}

// rightsAge is less than recheck, so that every recheck asks anew: a right that is taken away ends what was done with it
// within recheck.
const rightsAge = recheck / 2

// observeRights asks the API server whether each owner may intercept what the session asks for: always before a port is
// first recorded, and again whenever the last answer is older than rightsAge.
func (e *Engine) observeRights(ctx context.Context, o *Observed) error {
	for i := range o.Sessions {
		s := &o.Sessions[i]
		if !s.DeletionTimestamp.IsZero() {
			continue
		}
		for _, ic := range s.Spec.Intercepts {
			why, err := e.mayIntercept(ctx, s, ic)
			if err != nil {
				return err
			}
			if why != "" {
				o.Denied[ID(s)+"/"+Route(ic)] = why
			}
		}
	}
	return nil
}

func (e *Engine) mayIntercept(ctx context.Context, s *v1alpha1.Session, ic v1alpha1.Intercept) (why string, err error) {
	verb := Subresource(ic)
	key := fmt.Sprintf("%s/%s/%s/%d", ID(s), ic.Service, verb, s.Generation)
	e.rights.mu.Lock()
	known, ok := e.rights.answers[key]
	e.rights.mu.Unlock()
	if ok && time.Since(known.when) < rightsAge {
		return known.why, nil
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: s.Spec.Owner.Username, Groups: s.Spec.Owner.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: s.Namespace, Verb: "create", Resource: "services", Subresource: verb, Name: ic.Service,
		},
	}}
	if err := e.client.Create(ctx, review); err != nil {
		return "", fmt.Errorf("asking whether %s may intercept service %s: %w", s.Spec.Owner.Username, ic.Service, err)
	}
	if !review.Status.Allowed {
		why = fmt.Sprintf("%s may not create services/%s for service %s in namespace %s", s.Spec.Owner.Username, verb, ic.Service, s.Namespace)
	}
	e.rights.mu.Lock()
	defer e.rights.mu.Unlock()
	for k, a := range e.rights.answers {
		if time.Since(a.when) > 2*rightsAge {
			delete(e.rights.answers, k)
		}
	}
	e.rights.answers[key] = answer{why, time.Now()}
	return why, nil
}

// Subresource is the virtual subresource of services that an owner needs the verb create on.
func Subresource(ic v1alpha1.Intercept) string {
	if ic.All {
		return "interceptall"
	}
	return "intercept"
}

func unmarshal(raw []byte, v any) error { return json.Unmarshal(raw, v) }
