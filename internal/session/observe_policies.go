package session

import (
	"context"
	"fmt"
	"slices"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// observePolicies reads the network policies that concern the namespace, and works out what they make of every port that
// is captured or that somebody wants: live where a port is about to be captured, from the cache where it is captured already.
func (e *Engine) observePolicies(ctx context.Context, o *Observed) error {
	o.Admissions, o.Admits = map[portKey]Admission{}, map[string][]networkingv1.NetworkPolicy{}
	ports, isNew := o.policedPorts()
	from := client.Reader(e.client)
	if isNew {
		from = e.reader
	}
	if len(ports) == 0 && !slices.ContainsFunc(o.Alterations, func(a v1alpha1.Alteration) bool { return len(a.Spec.Admits) > 0 }) {
		return nil
	}
	var policies networkingv1.NetworkPolicyList
	if err := from.List(ctx, &policies); err != nil {
		return fmt.Errorf("listing network policies: %w", err)
	}
	own := ownPolicies(o.Alterations)
	for i := range policies.Items {
		p := &policies.Items[i]
		switch service, mine := own[client.ObjectKeyFromObject(p)]; {
		case mine:
			o.Admits[service] = append(o.Admits[service], *p)
		case concerns(p, o.Namespace):
			o.Policies = append(o.Policies, *p)
		}
	}
	if len(o.Policies) == 0 || e.near == nil {
		return nil
	}
	near, err := e.near(ctx)
	if err != nil {
		return fmt.Errorf("reading whom network policies speak of: %w", err)
	}
	strict := pointers(o.Policies)
	for key, to := range ports {
		svc := o.Services[key.service]
		o.Pods[key.service] = podsOf(svc, near.Pods)
		o.Admissions[key] = Admit(svc, to, strict, near.Pods, near)
	}
	return nil
}

// policedPorts are the ports that are captured or wanted, and where they lead; isNew says whether one is not captured yet.
func (o *Observed) policedPorts() (ports map[portKey]Destination, isNew bool) {
	ports = map[portKey]Destination{}
	for i := range o.Alterations {
		a := &o.Alterations[i]
		if o.Services[a.Spec.Target.Name] == nil {
			continue
		}
		for i := range a.Spec.Ports {
			ports[portKey{a.Spec.Target.Name, capturedPortOf(&a.Spec.Ports[i])}] = destination(&a.Spec.Ports[i])
		}
	}
	for _, s := range o.Sessions {
		for _, i := range s.Spec.Intercepts {
			svc, key := o.Services[i.Service], portKey{i.Service, PortOf(i)}
			if reason, _ := Interceptable(o.Namespace, i.Service, PortOf(i), svc); reason != "" || !s.DeletionTimestamp.IsZero() {
				continue
			}
			if _, ok := ports[key]; !ok {
				ports[key], isNew = Destination{servicePort(svc, key.port).TargetPort, key.port.Protocol()}, true
			}
		}
	}
	return ports, isNew
}

// destination is where a captured port leads when it is not captured.
func destination(p *v1alpha1.CapturedPort) Destination {
	return Destination{p.Before, capturedPortOf(p).Protocol()}
}

// ownPolicies are the network policies that dayfly made, by their names in the record, and for which Service.
func ownPolicies(alterations []v1alpha1.Alteration) map[client.ObjectKey]string {
	out := map[client.ObjectKey]string{}
	for i := range alterations {
		for _, name := range alterations[i].Spec.Admits {
			out[client.ObjectKey{Namespace: alterations[i].Namespace, Name: name}] = alterations[i].Spec.Target.Name
		}
	}
	return out
}

// Callers works out for the routers' table who may call each captured port, by router port; ports that everybody may call
// are not in it. services are those that are captured, by namespace and name.
func Callers(alterations []v1alpha1.Alteration, services map[client.ObjectKey]*corev1.Service, policies []networkingv1.NetworkPolicy, near Neighbours) map[int]Admission {
	out := map[int]Admission{}
	own := ownPolicies(alterations)
	theirs := map[string][]*networkingv1.NetworkPolicy{}
	for i := range policies {
		p := &policies[i]
		if _, mine := own[client.ObjectKeyFromObject(p)]; !mine {
			theirs[p.Namespace] = append(theirs[p.Namespace], p)
		}
	}
	for i := range alterations {
		a := &alterations[i]
		svc := services[client.ObjectKey{Namespace: a.Namespace, Name: a.Spec.Target.Name}]
		if svc == nil || len(theirs[a.Namespace]) == 0 {
			continue
		}
		for i := range a.Spec.Ports {
			p := &a.Spec.Ports[i]
			if admission := Admit(svc, destination(p), theirs[a.Namespace], near.Pods, near); admission.Callers != nil {
				out[int(p.RouterPort)] = admission
			}
		}
	}
	return out
}

func pointers(ps []networkingv1.NetworkPolicy) []*networkingv1.NetworkPolicy {
	out := make([]*networkingv1.NetworkPolicy, len(ps))
	for i := range ps {
		out[i] = &ps[i]
	}
	return out
}

func podsOf(svc *corev1.Service, pods []corev1.Pod) []corev1.Pod {
	selector := labels.SelectorFromSet(svc.Spec.Selector)
	var out []corev1.Pod
	for i := range pods {
		if pods[i].Namespace == svc.Namespace && selector.Matches(labels.Set(pods[i].Labels)) {
			out = append(out, pods[i])
		}
	}
	return out
}
