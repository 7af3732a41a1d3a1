package session

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// do carries out one step. A conflict with somebody else's write is no error: the next pass observes again.
func (e *Engine) do(ctx context.Context, namespace string, s Step) error {
	e.log.Info("step", "namespace", namespace, "step", s.String())
	ctx, span := e.tracer.Start(ctx, kindOf(s), trace.WithAttributes(attribute.String("dayfly.step", s.String())))
	defer span.End()
	err := e.dispatch(ctx, namespace, s)
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || isTestFailed(err) {
		e.log.Info("step overtaken", "namespace", namespace, "step", s.String(), "reason", err)
		return nil
	}
	e.metrics.did(s, err)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		return fmt.Errorf("%s: %w", s, err)
	}
	e.tell(namespace, s)
	return nil
}

func (e *Engine) dispatch(ctx context.Context, namespace string, s Step) error {
	switch s := s.(type) {
	case Record:
		return e.record(ctx, namespace, s)
	case Hold:
		return e.holdAll(ctx, s.Sessions)
	case WriteOrigin:
		return e.writeOrigin(ctx, s)
	case WriteSlices:
		return e.writeSlices(ctx, s)
	case AdmitRouters:
		return e.admitRouters(ctx, s)
	case DeleteSlices:
		if s.Settled && len(s.Slices) > 0 {
			if err := e.follow(ctx, fmt.Sprint("withdraw ", s.Slices[0].UID), 1, relistPatience); err != nil {
				return err
			}
		}
		return e.deleteSlices(ctx, s.Slices)
	case Flip:
		return e.flip(ctx, s)
	case GiveBack:
		return e.giveBack(ctx, s)
	case Rebase:
		return e.rebase(ctx, s)
	case CountRevert:
		return e.updateStatus(ctx, s.Alteration, func(st *v1alpha1.AlterationStatus) {
			st.Reverts++
			setPort(st, emptyStatus(s.Port))
		})
	case Settle:
		return e.settle(ctx, s)
	case MarkPort:
		return e.updateStatus(ctx, s.Alteration, func(st *v1alpha1.AlterationStatus) { setPort(st, s.Port) })
	case Unrecord:
		return e.unrecord(ctx, s)
	case Finish:
		return e.finish(ctx, s)
	case Describe:
		return e.describe(ctx, s)
	}
	return fmt.Errorf("no such step: %T", s)
}

// record writes ahead: first the sessions' finalizers, then the Alteration with the before-image.
func (e *Engine) record(ctx context.Context, namespace string, s Record) error {
	if err := e.holdAll(ctx, s.Sessions); err != nil {
		return err
	}
	svc := &corev1.Service{}
	if err := e.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: s.Service}, svc); err != nil {
		return client.IgnoreNotFound(err)
	}
	e.allocate.Lock()
	defer e.allocate.Unlock()
	var all v1alpha1.AlterationList
	if err := e.reader.List(ctx, &all); err != nil {
		return fmt.Errorf("listing alterations: %w", err)
	}
	a, err := e.alterationFor(svc, &all)
	if err != nil {
		return err
	}
	for _, p := range s.Ports {
		sp := servicePort(svc, p)
		if sp == nil || capturedPort(a, p) != nil {
			continue
		}
		free, err := freePort(&all, a)
		if err != nil {
			return err
		}
		a.Spec.Ports = append(a.Spec.Ports, v1alpha1.CapturedPort{
			Name: sp.Name, Port: sp.Port, Protocol: string(p.Protocol()), Before: sp.TargetPort, After: afterName(svc.UID, p), RouterPort: free,
		})
	}
	if a.ResourceVersion != "" {
		return e.client.Update(ctx, a)
	}
	return e.client.Create(ctx, a)
}

// alterationFor returns the Alteration of a Service, a new one with the before-image if there is none.
func (e *Engine) alterationFor(svc *corev1.Service, all *v1alpha1.AlterationList) (*v1alpha1.Alteration, error) {
	for i := range all.Items {
		if a := &all.Items[i]; a.Namespace == svc.Namespace && a.Spec.Target.Name == svc.Name {
			return a, nil
		}
	}
	image, err := toMap(svc)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(image)
	if err != nil {
		return nil, fmt.Errorf("encoding service %s: %w", svc.Name, err)
	}
	a := &v1alpha1.Alteration{}
	a.Name, a.Namespace = shorten("service-"+svc.Name), svc.Namespace
	a.Finalizers = []string{v1alpha1.Finalizer}
	a.Spec = v1alpha1.AlterationSpec{
		Target:  v1alpha1.Target{APIVersion: "v1", Kind: "Service", Name: svc.Name, UID: svc.UID},
		Capture: "service", Before: runtime.RawExtension{Raw: raw}, BeforeHash: HashOf(image), Origin: originName(svc.Name),
		Ports: []v1alpha1.CapturedPort{},
	}
	return a, nil
}

// holdAll puts the finalizer on sessions before anything is altered on their account.
func (e *Engine) holdAll(ctx context.Context, sessions []*v1alpha1.Session) error {
	for _, s := range sessions {
		if err := e.hold(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) hold(ctx context.Context, s *v1alpha1.Session) error {
	if slices.Contains(s.Finalizers, v1alpha1.Finalizer) {
		return nil
	}
	changed := s.DeepCopy()
	controllerutil.AddFinalizer(changed, v1alpha1.Finalizer)
	return e.client.Patch(ctx, changed, client.MergeFromWithOptions(s, client.MergeFromWithOptimisticLock{}))
}

const firstRouterPort, lastRouterPort = 20000, 29999

// freePort finds a router port that no Alteration of the cluster has. It begins anywhere: nodes that lag behind may still send
// connections to a port that has just become free, and they are another Service's.
func freePort(have *v1alpha1.AlterationList, mine *v1alpha1.Alteration) (int32, error) {
	used := map[int32]bool{}
	for _, a := range append(have.Items, *mine) {
		for _, p := range a.Spec.Ports {
			used[p.RouterPort] = true
		}
	}
	const all = lastRouterPort - firstRouterPort + 1
	start := rand.Int32N(all)
	for i := range int32(all) {
		if p := firstRouterPort + (start+i)%all; !used[p] {
			return p, nil
		}
	}
	return 0, fmt.Errorf("all %d router ports are taken", all)
}

func (e *Engine) writeOrigin(ctx context.Context, s WriteOrigin) error {
	if !s.Exists {
		return e.client.Create(ctx, s.Service.DeepCopy())
	}
	have := &corev1.Service{}
	if err := e.reader.Get(ctx, client.ObjectKeyFromObject(s.Service), have); err != nil {
		return client.IgnoreNotFound(err)
	}
	if !isOurs(have, s.Service.OwnerReferences[0].UID) {
		return fmt.Errorf("service %s exists and is not dayfly's", have.Name)
	}
	have.Labels = s.Service.Labels
	have.Spec.Selector, have.Spec.Ports = s.Service.Spec.Selector, s.Service.Spec.Ports
	have.Spec.PublishNotReadyAddresses = s.Service.Spec.PublishNotReadyAddresses
	return e.client.Update(ctx, have)
}

func (e *Engine) writeSlices(ctx context.Context, s WriteSlices) error {
	if err := e.reached(ctx, s); err != nil {
		return err
	}
	for i := range s.Want {
		want := s.Want[i].DeepCopy()
		at := slices.IndexFunc(s.Have, func(h discoveryv1.EndpointSlice) bool { return h.Name == want.Name })
		if at < 0 {
			if err := e.createSlice(ctx, want); err != nil {
				return err
			}
			continue
		}
		have := s.Have[at].DeepCopy()
		have.Endpoints, have.Ports = want.Endpoints, want.Ports
		if err := e.client.Update(ctx, have); err != nil {
			return err
		}
	}
	stale := slices.DeleteFunc(slices.Clone(s.Have), func(h discoveryv1.EndpointSlice) bool {
		return slices.ContainsFunc(s.Want, func(w discoveryv1.EndpointSlice) bool { return w.Name == h.Name })
	})
	return e.deleteSlices(ctx, stale)
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// createSlice creates a slice; one of the same name that is not dayfly's is an error, not a race to be run again at once.
func (e *Engine) createSlice(ctx context.Context, want *discoveryv1.EndpointSlice) error {
	err := e.client.Create(ctx, want)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	have := &discoveryv1.EndpointSlice{}
	if getErr := e.reader.Get(ctx, client.ObjectKeyFromObject(want), have); getErr == nil && !isOurs(have, want.OwnerReferences[0].UID) {
		return fmt.Errorf("endpoint slice %s exists and is not dayfly's", have.Name)
	}
	return err
}

func (e *Engine) deleteSlices(ctx context.Context, ss []discoveryv1.EndpointSlice) error {
	for i := range ss {
		if err := client.IgnoreNotFound(e.client.Delete(ctx, &ss[i])); err != nil {
			return err
		}
	}
	return nil
}

type jsonOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

func (e *Engine) patch(ctx context.Context, obj client.Object, ops []jsonOp) error {
	data, err := json.Marshal(ops)
	if err != nil {
		return fmt.Errorf("encoding the patch: %w", err)
	}
	return e.client.Patch(ctx, obj, client.RawPatch(types.JSONPatchType, data))
}

// isTestFailed recognises a JSON patch whose test did not hold: somebody else changed what it was about.
func isTestFailed(err error) bool {
	return apierrors.IsInvalid(err) && strings.Contains(err.Error(), "test operation") ||
		err != nil && strings.Contains(err.Error(), "testing value") ||
		err != nil && strings.Contains(err.Error(), "the server rejected our request due to an error in our request")
}

// flip writes one port's targetPort, if the object is still the one we know and the port still says what we think.
func (e *Engine) flip(ctx context.Context, s Flip) error {
	id := capturedPortOf(&s.Port)
	if s.Settled {
		if err := e.follow(ctx, fmt.Sprint("flip ", s.Service.UID, "/", id), 1, relistPatience); err != nil {
			return err
		}
	}
	at := servicePortIndex(s.Service, id)
	if at < 0 {
		return nil
	}
	path := fmt.Sprintf("/spec/ports/%d", at)
	svc := s.Service.DeepCopy()
	err := e.patch(ctx, svc, []jsonOp{
		{"test", "/metadata/uid", s.Service.UID},
		{"test", path + "/port", id.Number},
		{"test", path + "/protocol", id.Protocol()},
		{"test", path + "/targetPort", s.From},
		{"replace", path + "/targetPort", s.To},
	})
	return client.IgnoreNotFound(err)
}

func (e *Engine) rebase(ctx context.Context, s Rebase) error {
	a := s.Alteration.DeepCopy()
	p := capturedPort(a, s.Port)
	if p == nil {
		return nil
	}
	p.Before = s.Before
	if err := e.client.Update(ctx, a); err != nil {
		return err
	}
	if !s.Reverted {
		return nil
	}
	return e.updateStatus(ctx, a, func(st *v1alpha1.AlterationStatus) {
		st.Reverts++
		setPort(st, emptyStatus(s.Port))
	})
}

// How long nodes are asked again and again whether they follow. An intercept that waits longer than patience to be armed
// works, only the moment is not known exactly. A port that is given back is served meanwhile: nodes that have not followed
// still send connections to it. After the API server was away a node may take more than a minute to notice its return;
// what would have it refuse connections then waits for it.
const armPatience, drainPatience, relistPatience = 10 * time.Second, 90 * time.Second, 3 * time.Minute

// settle waits for the nodes.
func (e *Engine) settle(ctx context.Context, s Settle) error {
	most := drainPatience
	if s.Armed {
		most = armPatience
	}
	rounds := 1
	if s.Armed && s.Port.UDP {
		rounds = 2
	}
	if err := e.follow(ctx, fmt.Sprintf("%s/%s/%t", s.Alteration.UID, s.Port, s.Armed), rounds, most); err != nil {
		return err
	}
	p := emptyStatus(s.Port)
	if now := e.now(); s.Armed {
		p.ArmedAt = new(metav1.NewMicroTime(now))
	} else {
		p.DrainUntil = new(metav1.NewMicroTime(now.Add(s.Drain)))
	}
	return e.markSettled(ctx, s.Alteration, p)
}

// follow returns once every node follows what was written before, or once it has been asked for as long as most: what for is
// one waiting. Before that an error has it asked again. One round shows that a node has rules for it. A second shows that it
// has also done what it does after that, such as to forget where the datagrams of kept sockets went, and that what it saw in
// no order is behind it.
func (e *Engine) follow(ctx context.Context, what string, rounds int, most time.Duration) error {
	if e.relists() {
		rounds = 2
	}
	var err error
	for i := 0; i < rounds && err == nil; i++ {
		err = e.fleet.Settle(ctx)
	}
	if err != nil && (ctx.Err() != nil || e.settling.patient(what, most)) {
		return err
	}
	e.settling.forget(what)
	if err != nil {
		e.log.Warn("nodes did not confirm in time", "what", what, "reason", err)
	}
	return nil
}

// markSettled writes a port's status. While the nodes were asked, the alteration may have been described anew: as long as
// the port itself is as it was observed, asking again would only cost as much time again.
func (e *Engine) markSettled(ctx context.Context, a *v1alpha1.Alteration, p v1alpha1.PortStatus) error {
	err := e.updateStatus(ctx, a, func(st *v1alpha1.AlterationStatus) { setPort(st, p) })
	if !apierrors.IsConflict(err) {
		return err
	}
	live := &v1alpha1.Alteration{}
	if getErr := e.reader.Get(ctx, client.ObjectKeyFromObject(a), live); getErr != nil {
		return client.IgnoreNotFound(getErr)
	}
	which := port(p.Port, p.Protocol)
	same := live.UID == a.UID && reflect.DeepEqual(capturedPort(live, which), capturedPort(a, which)) &&
		reflect.DeepEqual(portStatus(live, which), portStatus(a, which))
	if !same {
		return err
	}
	return e.updateStatus(ctx, live, func(st *v1alpha1.AlterationStatus) { setPort(st, p) })
}

// settling remembers since when nodes have been asked in vain. A leader that takes over begins anew.
type settling struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// patient says whether to ask again.
func (t *settling) patient(what string, most time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, since := range t.since { // of alterations that went another way
		if time.Since(since) > 2*relistPatience {
			delete(t.since, key)
		}
	}
	if _, ok := t.since[what]; !ok {
		t.since[what] = time.Now()
	}
	return time.Since(t.since[what]) < most
}

func (t *settling) forget(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.since, what)
}

func setPort(st *v1alpha1.AlterationStatus, p v1alpha1.PortStatus) {
	for i := range st.Ports {
		if st.Ports[i].Port == p.Port && st.Ports[i].Protocol == p.Protocol {
			st.Ports[i] = p
			return
		}
	}
	st.Ports = append(st.Ports, p)
}

// updateStatus changes the status of the Alteration as it was observed; a conflict is the caller's to ignore.
func (e *Engine) updateStatus(ctx context.Context, a *v1alpha1.Alteration, change func(*v1alpha1.AlterationStatus)) error {
	changed := a.DeepCopy()
	change(&changed.Status)
	return client.IgnoreNotFound(e.client.Status().Update(ctx, changed))
}

func (e *Engine) unrecord(ctx context.Context, s Unrecord) error {
	a := s.Alteration.DeepCopy()
	a.Spec.Ports = slices.DeleteFunc(a.Spec.Ports, func(p v1alpha1.CapturedPort) bool { return capturedPortOf(&p) == s.Port })
	if err := e.client.Update(ctx, a); err != nil {
		return client.IgnoreNotFound(err)
	}
	return e.updateStatus(ctx, a, func(st *v1alpha1.AlterationStatus) {
		st.Ports = slices.DeleteFunc(st.Ports, func(p v1alpha1.PortStatus) bool { return port(p.Port, p.Protocol) == s.Port })
	})
}

// finish deletes the origin Service and writes the proof before the Alteration, the only record of it, goes.
func (e *Engine) finish(ctx context.Context, s Finish) error {
	a := s.Alteration
	if err := e.deleteOrigin(ctx, a); err != nil {
		return fmt.Errorf("deleting service %s: %w", a.Spec.Origin, err)
	}
	proof, err := e.prove(ctx, a)
	if err != nil {
		return err
	}
	if err := e.hand(ctx, a, proof); err != nil {
		return err
	}
	if a.DeletionTimestamp.IsZero() {
		if err := client.IgnoreNotFound(e.client.Delete(ctx, a.DeepCopy())); err != nil {
			return err
		}
	}
	changed := a.DeepCopy()
	controllerutil.RemoveFinalizer(changed, v1alpha1.Finalizer)
	return client.IgnoreNotFound(e.client.Patch(ctx, changed, client.MergeFrom(a)))
}

// deleteOrigin deletes the origin Service, if the one of that name is dayfly's.
func (e *Engine) deleteOrigin(ctx context.Context, a *v1alpha1.Alteration) error {
	origin := &corev1.Service{}
	if err := e.reader.Get(ctx, client.ObjectKey{Namespace: a.Namespace, Name: a.Spec.Origin}, origin); err != nil {
		return client.IgnoreNotFound(err)
	}
	if !isOurs(origin, a.Spec.Target.UID) {
		return nil
	}
	return client.IgnoreNotFound(e.client.Delete(ctx, origin, client.Preconditions{UID: &origin.UID}))
}

// hand gives the proof to the sessions that the alteration was for and that are closing.
func (e *Engine) hand(ctx context.Context, a *v1alpha1.Alteration, proof v1alpha1.Proof) error {
	var sessions v1alpha1.SessionList
	if err := e.reader.List(ctx, &sessions, client.InNamespace(a.Namespace)); err != nil {
		return fmt.Errorf("listing sessions: %w", err)
	}
	for i := range sessions.Items {
		s := &sessions.Items[i]
		names := func(ic v1alpha1.Intercept) bool { return ic.Service == a.Spec.Target.Name }
		concerned := slices.Contains(a.Status.Sessions, s.Name) || slices.ContainsFunc(s.Spec.Intercepts, names)
		if !concerned || !slices.Contains(s.Finalizers, v1alpha1.Finalizer) {
			continue
		}
		changed := s.DeepCopy()
		setProof(&changed.Status, proof)
		if reflect.DeepEqual(s.Status, changed.Status) {
			continue
		}
		if err := client.IgnoreNotFound(e.client.Status().Patch(ctx, changed, client.MergeFrom(s))); err != nil {
			return fmt.Errorf("writing the proof into session %s: %w", s.Name, err)
		}
	}
	return nil
}

func setProof(st *v1alpha1.SessionStatus, p v1alpha1.Proof) {
	st.Restored = slices.DeleteFunc(st.Restored, func(o v1alpha1.Proof) bool { return o.Object == p.Object })
	st.Restored = append(st.Restored, p)
}

func (e *Engine) describe(ctx context.Context, s Describe) error {
	return e.updateStatus(ctx, s.Alteration, func(st *v1alpha1.AlterationStatus) {
		st.Target, st.Summary, st.By, st.Sessions = s.Text.Target, s.Text.Summary, s.Text.By, s.Text.Sessions
		st.Callers = s.Text.Callers
		st.Until = nil
		if s.Text.Until != nil {
			st.Until = new(metav1.NewTime(*s.Text.Until))
		}
		c := metav1.Condition{Type: v1alpha1.ConditionApplied, Status: metav1.ConditionFalse, Reason: "InProgress", Message: s.Text.Summary}
		if s.Text.Applied {
			c.Status, c.Reason = metav1.ConditionTrue, "Captured"
		}
		meta.SetStatusCondition(&st.Conditions, c)
	})
}

// afterName is a port name that no pod has: it names the Service and the port.
func afterName(uid types.UID, p Port) string {
	return "dayfly-" + digest(string(uid) + p.String())[:8]
}
