package session

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Step is one change, idempotent, that may be interrupted anywhere. String says it for logs and tests.
type Step interface{ String() string }

type (
	// Record writes ports of a Service into its Alteration, with the before-image, making the Alteration if there is
	// none. It comes before everything else.
	Record struct {
		Service  string
		Ports    []Port
		Sessions []*v1alpha1.Session // that need it: their finalizer comes first of all
	}
	// Hold keeps sessions that join what is captured already until they have their proof.
	Hold struct {
		Service  string
		Sessions []*v1alpha1.Session
	}
	// WriteOrigin makes or mends the origin Service.
	WriteOrigin struct {
		Service *corev1.Service
		Exists  bool
	}
	// WriteSlices makes the EndpointSlices Want out of Have.
	WriteSlices struct {
		Service    string
		Want, Have []discoveryv1.EndpointSlice
		Reach      int32 // router port: routers must reach the pods behind it first; 0: nobody keeps them from it
	}
	// DeleteSlices deletes EndpointSlices of ours.
	DeleteSlices struct {
		Slices  []discoveryv1.EndpointSlice
		Settled bool // every node must be known to follow before
	}
	// Flip changes a port's targetPort from From to To, and nothing if it is not From.
	Flip struct {
		Service  *corev1.Service
		Port     v1alpha1.CapturedPort
		From, To intstr.IntOrString
		Settled  bool // every node must be known to follow before
	}
	// GiveBack returns the ownership of restored fields to the managers that had it.
	GiveBack struct {
		Alteration *v1alpha1.Alteration
		Service    *corev1.Service
	}
	// Rebase records that somebody else changed the port meanwhile: theirs is what will be restored.
	Rebase struct {
		Alteration *v1alpha1.Alteration
		Port       Port
		Before     intstr.IntOrString
		Reverted   bool
	}
	// CountRevert records that somebody else undid the flip.
	CountRevert struct {
		Alteration *v1alpha1.Alteration
		Port       Port
	}
	// Settle waits until every node is known to follow, then marks the port as armed or as draining.
	Settle struct {
		Alteration *v1alpha1.Alteration
		Port       Port
		Armed      bool
		Drain      time.Duration
	}
	// MarkPort writes a port's status.
	MarkPort struct {
		Alteration *v1alpha1.Alteration
		Port       v1alpha1.PortStatus
	}
	// Unrecord takes a restored port off the Alteration.
	Unrecord struct {
		Alteration *v1alpha1.Alteration
		Port       Port
	}
	// Finish deletes the origin Service, writes the proof into every session that is closing, and deletes the Alteration.
	Finish struct {
		Alteration *v1alpha1.Alteration
		Service    *corev1.Service // nil: it is gone
	}
	// Describe updates what people read about an Alteration.
	Describe struct {
		Alteration *v1alpha1.Alteration
		Text       description
	}
)

type description struct {
	Target, Summary, By string
	Sessions            []string
	Until               *time.Time
	Applied             bool
	Callers             []v1alpha1.Caller
}

func (t description) matches(a *v1alpha1.Alteration) bool {
	applied := false
	for _, c := range a.Status.Conditions {
		if c.Type == v1alpha1.ConditionApplied {
			applied = c.Status == "True"
		}
	}
	sameUntil := (t.Until == nil) == (a.Status.Until == nil) && (t.Until == nil || a.Status.Until.Unix() == t.Until.Unix())
	return applied == t.Applied && sameUntil && len(a.Status.Conditions) > 0 && a.Status.Target == t.Target &&
		a.Status.Summary == t.Summary && a.Status.By == t.By && slices.Equal(a.Status.Sessions, t.Sessions) &&
		len(a.Status.Callers) == len(t.Callers) // they are only ever added
}

func (s Record) String() string {
	return fmt.Sprintf("record ports %v of service %s", s.Ports, s.Service)
}
func (s Hold) String() string {
	var names []string
	for _, sess := range s.Sessions {
		names = append(names, sess.Name)
	}
	return fmt.Sprintf("service %s: hold sessions %s", s.Service, strings.Join(names, ", "))
}
func (s WriteOrigin) String() string { return "write origin service " + s.Service.Name }
func (s WriteSlices) String() string {
	return fmt.Sprintf("offer routers for service %s: %v", s.Service, offers(s.Want))
}
func (s DeleteSlices) String() string {
	return fmt.Sprintf("%swithdraw routers: %v", settled(s.Settled), offers(s.Slices))
}

func settled(before bool) string {
	if before {
		return "settle, then "
	}
	return ""
}
func (s Flip) String() string {
	return fmt.Sprintf("%sservice %s port %s: targetPort %s to %s", settled(s.Settled), s.Service.Name, capturedPortOf(&s.Port), s.From.String(), s.To.String())
}
func (s GiveBack) String() string {
	return s.Alteration.Name + ": give the fields back to their managers"
}
func (s Rebase) String() string {
	return fmt.Sprintf("%s port %s: somebody set targetPort %s", s.Alteration.Name, s.Port, s.Before.String())
}
func (s CountRevert) String() string {
	return fmt.Sprintf("%s port %s: somebody undid the flip", s.Alteration.Name, s.Port)
}
func (s Settle) String() string {
	if s.Armed {
		return fmt.Sprintf("%s port %s: settle, then armed", s.Alteration.Name, s.Port)
	}
	return fmt.Sprintf("%s port %s: settle, then drain for %s", s.Alteration.Name, s.Port, s.Drain)
}
func (s MarkPort) String() string {
	return fmt.Sprintf("%s port %s: mark", s.Alteration.Name, port(s.Port.Port, s.Port.Protocol))
}
func (s Unrecord) String() string {
	return fmt.Sprintf("%s port %s: off the record", s.Alteration.Name, s.Port)
}
func (s Finish) String() string   { return s.Alteration.Name + ": finish" }
func (s Describe) String() string { return s.Alteration.Name + ": describe" }
