package controller

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
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
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// watchEnvironments has the engine reconcile an Environment whenever its spec, what refreshes its source, or the endpoints in its namespace changed. The
// metadata of slices is there already, for the sessions; nothing else of an environment is kept in memory or watched, but its place.
func watchEnvironments(mgr manager.Manager, engine *environment.Engine, wakes *wakes) error {
	slices := &metav1.PartialObjectMetadata{}
	slices.SetGroupVersionKind(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"))
	inside := func(ctx context.Context, o client.Object) []reconcile.Request {
		return environmentOf(ctx, mgr.GetClient(), o.GetNamespace())
	}
	itself := func(ctx context.Context, o client.Object) []reconcile.Request {
		return environmentOf(ctx, mgr.GetClient(), o.GetName())
	}
	all := func(ctx context.Context, _ client.Object) []reconcile.Request {
		engine.PoliciesChanged()
		return everyEnvironment(ctx, mgr.GetClient())
	}
	return ctrl.NewControllerManagedBy(mgr).Named("environments").
		WithOptions(controller.Options{
			MaxConcurrentReconciles: 8,
			SkipNameValidation:      new(true), // a controller that starts over has the name of the one before
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](50*time.Millisecond, 10*time.Second),
		}).
		For(&v1alpha1.Environment{}, builder.OnlyMetadata, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, refreshed))).
		WatchesMetadata(slices, handler.EnqueueRequestsFromMapFunc(inside), builder.OnlyMetadata).
		Watches(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(itself)).
		Watches(&v1alpha1.EnvironmentPolicy{}, handler.EnqueueRequestsFromMapFunc(all)).
		WatchesRawSource(source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			wakes.into.Store(&q)
			return nil
		})).
		Complete(reconcile.Func(func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
			ctx, cancel := context.WithTimeout(ctx, reconcileTime)
			defer cancel()
			again, err := engine.Reconcile(ctx, req.NamespacedName)
			return reconcile.Result{RequeueAfter: again}, err
		}))
}

// refreshed is a change of what has the source of an environment looked up again.
var refreshed = predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
	return e.ObjectOld.GetAnnotations()[v1alpha1.AnnotationRefresh] != e.ObjectNew.GetAnnotations()[v1alpha1.AnnotationRefresh]
}}

// wakes has environments looked at whose turn it is, or whose place in line is another one.
type wakes struct {
	into atomic.Pointer[workqueue.TypedRateLimitingInterface[reconcile.Request]]
}

func (w *wakes) wake(at client.ObjectKey, after time.Duration) {
	if q := w.into.Load(); q != nil {
		(*q).AddAfter(reconcile.Request{NamespacedName: at}, after)
	}
}

// everyEnvironment is each of the cluster: a policy may hold for any of them, or have held.
func everyEnvironment(ctx context.Context, cached client.Reader) (out []reconcile.Request) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("EnvironmentList"))
	_ = cached.List(ctx, list) // a cache that is synced answers
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

// policies are all that the cluster has. Nothing is reconciled before the cache has them.
func policies(cached client.Reader) func() []v1alpha1.EnvironmentPolicy {
	return func() []v1alpha1.EnvironmentPolicy {
		var list v1alpha1.EnvironmentPolicyList
		_ = cached.List(context.Background(), &list) // likewise
		return list.Items
	}
}

// labelsOf are those of a namespace.
func labelsOf(cached client.Reader) func(string) map[string]string {
	return func(name string) map[string]string {
		var ns corev1.Namespace
		_ = cached.Get(context.Background(), client.ObjectKey{Name: name}, &ns) // it has none, if it is gone
		return ns.Labels
	}
}

// reconcileTime bounds one pass over an environment, so that none keeps a worker from the others.
const reconcileTime = time.Minute

// environmentOf is the environment whose namespace this is.
func environmentOf(ctx context.Context, cached client.Reader, namespace string) []reconcile.Request {
	var ns corev1.Namespace
	if cached.Get(ctx, client.ObjectKey{Name: namespace}, &ns) != nil || ns.Labels[v1alpha1.LabelEnvironment] == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: ns.Labels[v1alpha1.LabelHome], Name: ns.Labels[v1alpha1.LabelEnvironment]}}}
}

// healthClient asks pods of environments whether they are well. It follows nobody elsewhere.
var healthClient = &http.Client{
	Timeout: 3 * time.Second,
	Transport: &http.Transport{
		DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
		DialContext: (&net.Dialer{Timeout: time.Second}).DialContext,
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func askHealth(ctx context.Context, url string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "dayfly-controller")
	resp, err := healthClient.Do(req)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	return resp.StatusCode, nil
}
