package session

import (
	"context"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// reachTime bounds how long routers wait until a policy that admits them is in force at every node.
const reachTime = 4 * time.Second

// AdmitRouters makes the policies Want out of Have, all of them recorded in the Alteration before they are made.
type AdmitRouters struct {
	Alteration *v1alpha1.Alteration
	Want, Have []networkingv1.NetworkPolicy
}

func (s AdmitRouters) String() string {
	return s.Alteration.Name + ": admit the routers by " + orNone(policyNames(s.Want))
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "no policy"
	}
	data, _ := json.Marshal(names)
	return string(data)
}

func policyNames(ps []networkingv1.NetworkPolicy) []string {
	return names(pointers(ps))
}

// admitRouters keeps the policies in line that let routers call the pods of a captured Service: one for each policy that binds
// them, once every router knows who may call. It reports whether something is to be done first.
func (d *decision) admitRouters(a *v1alpha1.Alteration, svc *corev1.Service) bool {
	var want []networkingv1.NetworkPolicy
	var ports []networkingv1.NetworkPolicyPort
	strict := map[string]*networkingv1.NetworkPolicy{}
	for i := range a.Spec.Ports {
		p := &a.Spec.Ports[i]
		admission := d.Admissions[portKey{svc.Name, capturedPortOf(p)}]
		if admission.Callers == nil {
			continue
		}
		if !d.told(p, admission) {
			return false // the fleet is being told; until then nothing more is opened
		}
		ports = append(ports, networkingv1.NetworkPolicyPort{Protocol: new(capturedPortOf(p).Protocol()), Port: new(p.Before)})
		for _, s := range admission.Strict {
			strict[s.Name] = s
		}
	}
	for _, name := range slices.Sorted(maps.Keys(strict)) {
		want = append(want, d.admitting(svc, strict[name], ports))
	}
	return d.admit(a, want)
}

// admit has the policies of an alteration be those of want; it reports whether they are not yet.
func (d *decision) admit(a *v1alpha1.Alteration, want []networkingv1.NetworkPolicy) bool {
	have := d.Admits[a.Spec.Target.Name]
	recorded := slices.Sorted(slices.Values(a.Spec.Admits))
	if slices.Equal(policyNames(have), policyNames(want)) && slices.Equal(recorded, policyNames(want)) {
		return false
	}
	d.step(AdmitRouters{Alteration: a, Want: want, Have: have})
	return true
}

// told says whether every router serves a port by what policies make of it now.
func (d *decision) told(p *v1alpha1.CapturedPort, a Admission) bool {
	for _, r := range d.Routers {
		if l := listener(r, int(p.RouterPort)); l == nil || !reflect.DeepEqual(l.Callers, a.Callers) {
			return false
		}
	}
	return true
}

// policed says whether a port may be led to the routers as far as policies go: every router knows who may call, and every policy
// that binds the pods has one beside it that admits the routers.
func (d *decision) policed(svc *corev1.Service, p *v1alpha1.CapturedPort) bool {
	admission := d.Admissions[portKey{svc.Name, capturedPortOf(p)}]
	if admission.Callers == nil {
		return true
	}
	if !d.told(p, admission) {
		return false
	}
	for _, s := range admission.Strict {
		if !slices.ContainsFunc(d.Admits[svc.Name], func(ours networkingv1.NetworkPolicy) bool { return belongsTo(&ours, s) }) {
			return false
		}
	}
	return true
}

func belongsTo(ours, strict *networkingv1.NetworkPolicy) bool {
	return slices.ContainsFunc(ours.OwnerReferences, func(r ownerRef) bool { return r.UID == strict.UID })
}

// admitting is a policy that lets routers call what strict and svc both select, at these ports. It selects no pod that strict does
// not restrict already, so it restricts none by itself, and it belongs to strict: where that is deleted, Kubernetes
// deletes this one too, with dayfly or without.
func (d *decision) admitting(svc *corev1.Service, strict *networkingv1.NetworkPolicy, ports []networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicy {
	selector := *strict.Spec.PodSelector.DeepCopy()
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	maps.Copy(selector.MatchLabels, svc.Spec.Selector)
	p := networkingv1.NetworkPolicy{}
	p.Spec = networkingv1.NetworkPolicySpec{
		PodSelector: selector, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		Ingress: []networkingv1.NetworkPolicyIngressRule{{Ports: ports, From: []networkingv1.NetworkPolicyPeer{{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: d.System.Namespace}},
			PodSelector:       &metav1.LabelSelector{MatchLabels: d.System.RouterLabels},
		}}}},
	}
	spec, _ := json.Marshal(p.Spec) // what is different has another name: policies are made and deleted, never changed
	p.Name = shorten(svc.Name + "-dayfly-" + digest(string(strict.UID) + string(spec))[:8])
	p.Namespace = svc.Namespace
	p.Labels = map[string]string{v1alpha1.LabelManaged: managed, v1alpha1.LabelOriginOf: svc.Name}
	p.OwnerReferences = []ownerRef{{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy", Name: strict.Name, UID: strict.UID}}
	return p
}

// admitRouters records first what is about to be made, and forgets last what is deleted.
func (e *Engine) admitRouters(ctx context.Context, s AdmitRouters) error {
	a := s.Alteration.DeepCopy()
	if err := e.recordAdmits(ctx, a, append(policyNames(s.Want), append(policyNames(s.Have), a.Spec.Admits...)...)); err != nil {
		return err
	}
	for i := range s.Want {
		if err := e.createPolicy(ctx, &s.Want[i]); err != nil {
			return err
		}
	}
	for i := range s.Have {
		if slices.Contains(policyNames(s.Want), s.Have[i].Name) {
			continue
		}
		if err := client.IgnoreNotFound(e.client.Delete(ctx, s.Have[i].DeepCopy(), client.Preconditions{UID: &s.Have[i].UID})); err != nil {
			return err
		}
	}
	return e.recordAdmits(ctx, a, policyNames(s.Want))
}

// createPolicy creates one of ours; one of that name that is there is ours, for the name is a digest of all that it says.
func (e *Engine) createPolicy(ctx context.Context, want *networkingv1.NetworkPolicy) error {
	return ignoreExists(e.client.Create(ctx, want.DeepCopy()))
}

func (e *Engine) recordAdmits(ctx context.Context, a *v1alpha1.Alteration, names []string) error {
	slices.Sort(names)
	names = slices.Compact(names)
	if slices.Equal(slices.Sorted(slices.Values(a.Spec.Admits)), names) {
		return nil
	}
	a.Spec.Admits = names
	return e.client.Update(ctx, a)
}

// reached waits until routers reach the pods of a port that policies bind: how soon an engine of policies follows is its own
// affair, and a router that is not admitted yet would fail requests.
func (e *Engine) reached(ctx context.Context, s WriteSlices) error {
	if s.Reach == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	return e.fleet.Reach(ctx, int(s.Reach))
}

// isSlow says whether a step waits for something beyond the API server.
func isSlow(s Step) bool {
	switch s := s.(type) {
	case Settle:
		return true
	case WriteSlices:
		return s.Reach != 0
	case DeleteSlices:
		return s.Settled
	case Flip:
		return s.Settled
	}
	return false
}
