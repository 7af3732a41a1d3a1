// Package session is the engine behind Sessions: it captures ports of Services so that requests reach the routers, and
// puts everything back. [Engine.Reconcile] observes one namespace, decides (a pure function that holds every rule), does
// the decided steps, and says in the status what it saw. Every step is idempotent and may be interrupted anywhere: the
// next pass observes again and goes on.
//
// A captured port goes through these states, each visible in the cluster:
//
//	recorded    the Alteration holds the before-image           nothing is altered yet
//	origin      a headless Service of ours finds the target's own pods
//	admitted    where network policies bind the pods: the routers know who may call, and a policy of ours admits them
//	offered     an EndpointSlice of ours offers the routers      only after every router has acknowledged its listener and found the original pods
//	flipped     the port's targetPort is a name that no pod has, so Kubernetes drops the original endpoints
//	armed       every node is known to follow                    (see Fleet.Settle)
//
// and back: unflipped, originals are back in the slices, our slice is deleted, every node is known to follow, connections
// that are still open drain, the port leaves the Alteration, and with its last port the Alteration goes.
package session

import (
	"context"
	"net/netip"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/intercept"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Fleet is what the engine needs of the routers.
type Fleet interface {
	// Routers returns every router that can be reached now.
	Routers() []Router
	// Settle returns once every change of endpoints made before the call is in force on every node that can be asked, or
	// with an error if that took too long.
	Settle(ctx context.Context) error
	// Reach returns once every router can connect to the original pods of the captured port that is served at routerPort.
	Reach(ctx context.Context, routerPort int) error
	// Flow returns what the routers have counted of a route (intercept.Route.ID), as far as they could be heard.
	Flow(route string) control.Flow
}

// Router is one router as it reported itself last.
type Router struct {
	Name      string
	Addresses []netip.Addr
	Node      string
	Zone      string
	Labels    map[string]string
	Namespace string
	Silent    bool                 // it did not answer when it was last asked: it may be dead, or it may not
	Listeners []intercept.Listener // of the table it acknowledged
	Finds     []int                // router ports whose original pods it knows; nil: it does not say
	Open      map[int]int          // open connections by router port
	Met       map[int][]netip.Addr // the first callers of each router port
	Connected map[string][]string  // routes that connected laptops answer, by session ID
}

// Observed is one namespace, read live, and the routers.
type Observed struct {
	Now         time.Time
	Namespace   string
	Sessions    []v1alpha1.Session
	Alterations []v1alpha1.Alteration
	Services    map[string]*corev1.Service              // those that a Session or an Alteration names; absent: not there
	Slices      map[string][]discoveryv1.EndpointSlice  // of each of these and of their origins, by Service name
	Taken       map[string][]string                     // by Service: slices of somebody else's that have the names of ours
	Denied      map[string]string                       // by ID of session + route: why the owner may not
	Policies    []networkingv1.NetworkPolicy            // those that concern the namespace, but for dayfly's own
	Admissions  map[portKey]Admission                   // of each port that is captured or wanted
	Admits      map[string][]networkingv1.NetworkPolicy // dayfly's own, by Service
	Pods        map[string][]corev1.Pod                 // of a Service's selector, if there are policies
	Routers     []Router
	System      System
	Relisting   bool // nodes may be reading everything anew: one that does sees changes in no order

	NamespaceLabels map[string]string
	Bounds          Bounds
}

// System is where dayfly itself lives.
type System struct {
	Namespace       string
	NamespaceLabels map[string]string
	RouterLabels    map[string]string // of every router's pod
	Tunnel          v1alpha1.Tunnel
	Version         string
}

// ID names a session to routers and laptops: it is never used again, unlike a name.
func ID(s *v1alpha1.Session) string { return string(s.UID) }
