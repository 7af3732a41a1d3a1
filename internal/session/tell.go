package session

import (
	"fmt"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// event says on an object what has happened to it, where there is somebody to say it to.
func (e *Engine) event(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	if e.events == nil {
		return
	}
	const limit = 1000 // the API server takes 1024 bytes
	text := fmt.Sprintf(note, args...)
	if len(text) > limit {
		text = text[:limit] + "…"
	}
	e.events.Eventf(regarding, related, kind, reason, action, "%s", text)
}

// tell says on the Service what a step has done to it.
func (e *Engine) tell(namespace string, s Step) {
	switch s := s.(type) {
	case CountRevert:
		e.reverted(s.Alteration, s.Port)
	case Rebase:
		if s.Reverted {
			e.reverted(s.Alteration, s.Port)
		}
	case Finish:
		if s.Service != nil {
			e.event(serviceOf(s.Alteration), nil, corev1.EventTypeNormal, "Restored", "Restore", "every port leads to its own pods again")
		}
	}
}

func (e *Engine) reverted(a *v1alpha1.Alteration, port Port) {
	e.metrics.reverts.Inc()
	e.event(serviceOf(a), a, corev1.EventTypeWarning, "Reverted", "Capture",
		"somebody else changed where port %s leads, %d times so far", port, a.Status.Reverts+1)
}

// serviceOf is the altered Service, as far as an event needs it.
func serviceOf(a *v1alpha1.Alteration) *corev1.Service { return serviceRef(a.Namespace, a.Spec.Target) }

func serviceRef(namespace string, t v1alpha1.Target) *corev1.Service {
	svc := &corev1.Service{}
	svc.APIVersion, svc.Kind = "v1", "Service"
	svc.Namespace, svc.Name, svc.UID = namespace, t.Name, t.UID
	return svc
}

// changed says on session and Service which intercepts have come to be armed, parked or refused.
func (e *Engine) changed(o *Observed, s *v1alpha1.Session, before []v1alpha1.InterceptStatus) {
	for _, now := range s.Status.Intercepts {
		old := statusOf(before, StatusRoute(now))
		if old != nil && old.State == now.State || !s.DeletionTimestamp.IsZero() {
			continue
		}
		kind, note := corev1.EventTypeNormal, now.Message
		switch now.State {
		case v1alpha1.StateArmed:
			note = "requests that match (" + now.Rule + ") reach the laptop"
		case v1alpha1.StateParked:
		case v1alpha1.StateRefused:
			kind = corev1.EventTypeWarning
		default:
			continue
		}
		e.event(s, nil, kind, string(now.State), "Intercept", "%s: %s", StatusRoute(now), note)
		if svc := o.Services[now.Service]; svc != nil {
			e.event(serviceRef(svc.Namespace, v1alpha1.Target{Name: svc.Name, UID: svc.UID}), s, kind, string(now.State), "Intercept",
				"session %s of %s, port %s: %s", s.Name, s.Spec.Owner.Username, port(now.Port, now.Protocol), note)
		}
	}
}

func statusOf(list []v1alpha1.InterceptStatus, route string) *v1alpha1.InterceptStatus {
	for i := range list {
		if StatusRoute(list[i]) == route {
			return &list[i]
		}
	}
	return nil
}

func proofs(ps []v1alpha1.Proof) string {
	var out []string
	for _, p := range ps {
		text := p.Object
		if p.Note != "" {
			text += " (" + p.Note + ")"
		}
		out = append(out, text)
	}
	if len(out) == 0 {
		return "nothing was altered"
	}
	return strings.Join(out, ", ")
}
