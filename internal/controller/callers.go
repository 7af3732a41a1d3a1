package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/intercept"
	"dayfly.dev/dayfly/internal/session"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// policeTime bounds how long the table waits for the first list of all pods.
const policeTime = 10 * time.Second

// police writes into a table who may call each of its ports, as network policies say.
func (f *fleet) police(ctx context.Context, t *control.Table, alterations []v1alpha1.Alteration) error {
	ctx, cancel := context.WithTimeout(ctx, policeTime)
	defer cancel()
	admissions, err := f.admissions(ctx, alterations)
	if err != nil {
		return err
	}
	reasons := map[int]string{}
	for i := range t.Listeners {
		l := &t.Listeners[i]
		if a, ok := admissions[l.Port]; ok {
			l.Callers, reasons[l.Port] = a.Callers, a.Message
		}
	}
	if !maps.Equal(reasons, f.reasons) {
		f.reasons = reasons
		f.notify()
	}
	return nil
}

func (f *fleet) admissions(ctx context.Context, alterations []v1alpha1.Alteration) (map[int]session.Admission, error) {
	var policies networkingv1.NetworkPolicyList
	if err := f.cached.List(ctx, &policies); err != nil {
		return nil, fmt.Errorf("listing network policies: %w", err)
	}
	bound := map[string]bool{}
	for i := range policies.Items {
		bound[policies.Items[i].Namespace] = true
	}
	services := map[client.ObjectKey]*corev1.Service{}
	for i := range alterations {
		a := &alterations[i]
		if !bound[a.Namespace] || len(a.Spec.Ports) == 0 {
			continue
		}
		key := client.ObjectKey{Namespace: a.Namespace, Name: a.Spec.Target.Name}
		svc, err := f.near.service(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("reading service %s: %w", key, err)
		}
		services[key] = svc
	}
	if len(services) == 0 {
		return nil, nil
	}
	near, err := f.near.all(ctx)
	if err != nil {
		return nil, err
	}
	return session.Callers(alterations, services, policies.Items, near), nil
}

// Reach returns once every router can connect to the pods behind one of its ports.
func (f *fleet) Reach(ctx context.Context, routerPort int) error {
	return f.each(func(c *control.Client) error { return c.Reach(ctx, routerPort) })
}

// understood are the listeners as a router serves them: one that does not ask callers lets everybody in.
func understood(ls []intercept.Listener, s control.Status) []intercept.Listener {
	if s.AsksCallers {
		return ls
	}
	ls = slices.Clone(ls)
	for i := range ls {
		ls[i].Callers = nil
	}
	return ls
}
