package controller

import (
	"context"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/session"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// watch has the engine reconcile a namespace whenever something in it, or about the routers, changed.
func watch(mgr manager.Manager, engine *session.Engine, f *fleet, o Options) error {
	changes := make(chan event.GenericEvent, 1)
	f.notify = func() {
		select {
		case changes <- event.GenericEvent{Object: &v1alpha1.Session{}}:
		default:
		}
	}
	w := &watcher{cached: mgr.GetClient(), fleet: f}
	// Of Services and their slices only the metadata is kept: the engine reads them live.
	services, slices := &metav1.PartialObjectMetadata{}, &metav1.PartialObjectMetadata{}
	services.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Service"))
	slices.SetGroupVersionKind(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"))
	return ctrl.NewControllerManagedBy(mgr).Named("sessions").
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 8,
			SkipNameValidation:      new(true), // a controller that starts over has the name of the one before
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](20*time.Millisecond, 5*time.Second),
		}).
		Watches(&v1alpha1.Session{}, handler.EnqueueRequestsFromMapFunc(w.ours)).
		Watches(&v1alpha1.Alteration{}, handler.EnqueueRequestsFromMapFunc(w.ours)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(w.router)).
		WatchesMetadata(services, handler.EnqueueRequestsFromMapFunc(w.theirs), builder.OnlyMetadata).
		WatchesMetadata(slices, handler.EnqueueRequestsFromMapFunc(w.theirs), builder.OnlyMetadata).
		Watches(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(w.namespace)).
		Watches(&networkingv1.NetworkPolicy{}, handler.EnqueueRequestsFromMapFunc(w.everywhere)).
		WatchesRawSource(source.Channel(changes, handler.EnqueueRequestsFromMapFunc(w.everywhere))).
		Complete(reconcile.Func(func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
			if !f.known() {
				return reconcile.Result{RequeueAfter: 100 * time.Millisecond}, nil
			}
			again, err := engine.Reconcile(ctx, req.Name)
			return reconcile.Result{RequeueAfter: again}, err
		}))
}

type watcher struct {
	cached client.Reader
	fleet  *fleet
}

func namespaced(name string) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: name}}}
}

// ours is for Sessions and Alterations: they are also what the routers' table is made of.
func (w *watcher) ours(_ context.Context, o client.Object) []reconcile.Request {
	w.fleet.poke()
	return namespaced(o.GetNamespace())
}

func (w *watcher) router(context.Context, client.Object) []reconcile.Request {
	w.fleet.poke()
	return nil // the fleet says when it matters
}

// theirs is for the cluster's Services and slices: most are nobody's concern.
func (w *watcher) theirs(ctx context.Context, o client.Object) []reconcile.Request {
	if !w.concerned(ctx, o.GetNamespace()) {
		return nil
	}
	return namespaced(o.GetNamespace())
}

// namespace is for the labels of namespaces.
func (w *watcher) namespace(ctx context.Context, o client.Object) []reconcile.Request {
	if !w.concerned(ctx, o.GetName()) {
		return nil
	}
	return namespaced(o.GetName())
}

func (w *watcher) concerned(ctx context.Context, namespace string) bool {
	var alterations v1alpha1.AlterationList
	var sessions v1alpha1.SessionList
	one := client.Limit(1)
	if w.cached.List(ctx, &alterations, client.InNamespace(namespace), one) != nil ||
		w.cached.List(ctx, &sessions, client.InNamespace(namespace), one) != nil {
		return true
	}
	return len(alterations.Items)+len(sessions.Items) > 0
}

// everywhere wakes every namespace in which there is something of ours.
func (w *watcher) everywhere(ctx context.Context, _ client.Object) []reconcile.Request {
	names := map[string]bool{}
	var alterations v1alpha1.AlterationList
	if w.cached.List(ctx, &alterations) == nil {
		for _, a := range alterations.Items {
			names[a.Namespace] = true
		}
	}
	var sessions v1alpha1.SessionList
	if w.cached.List(ctx, &sessions) == nil {
		for _, s := range sessions.Items {
			names[s.Namespace] = true
		}
	}
	var out []reconcile.Request
	for n := range names {
		out = append(out, namespaced(n)...)
	}
	return out
}
