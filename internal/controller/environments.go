package controller

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// watchEnvironments has the engine reconcile an Environment whenever its spec, what refreshes its source, the endpoints in its namespace, or
// what was applied there changed. Of all that nothing is kept in memory but traces (see slim) and the environment's place.
func watchEnvironments(mgr manager.Manager, engine *environment.Engine, wakes *wakes) error {
	slices := metadataOf(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"))
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
	b := ctrl.NewControllerManagedBy(mgr).Named("environments").
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
		}))
	for _, gvk := range append([]schema.GroupVersionKind{roleBinding}, environment.Watched...) {
		b = b.WatchesMetadata(metadataOf(gvk), handler.EnqueueRequestsFromMapFunc(inside), builder.WithPredicates(altered(gvk)))
	}
	return b.Complete(reconcile.Func(func(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
		ctx, cancel := context.WithTimeout(ctx, reconcileTime)
		defer cancel()
		again, err := engine.Reconcile(ctx, req.NamespacedName)
		return reconcile.Result{RequeueAfter: again}, err
	}))
}

func metadataOf(gvk schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(gvk)
	return m
}

// roleBinding is the kind of the last of an environment's guards.
var roleBinding = rbacv1.SchemeGroupVersion.WithKind("RoleBinding")

// watchedOfEnvironments says what is watched of the kinds that environments consist of: metadata, of environments' objects alone. Services are
// watched for the sessions as well, and so all of them.
func watchedOfEnvironments() map[client.Object]cache.ByObject {
	ours, _ := labels.NewRequirement(v1alpha1.LabelEnvironment, selection.Exists, nil) // an error is of a label that cannot be
	out := map[client.Object]cache.ByObject{
		metadataOf(roleBinding): {Field: fields.OneTermEqualSelector("metadata.name", v1alpha1.EnvironmentAccount), Transform: slim},
	}
	for _, gvk := range environment.Watched {
		by := cache.ByObject{Transform: slim}
		if gvk.Kind != "Service" {
			by.Label = labels.NewSelector().Add(*ours)
		}
		out[metadataOf(gvk)] = by
	}
	return out
}

// annotationTrace is where slim leaves the trace of an object, in memory only.
const annotationTrace = "dayfly.dev/trace"

// slim leaves of an object's metadata its name, its version, and what tells whether it is still what was applied: a thousand
// environments have ten thousand of them.
func slim(o any) (any, error) {
	m, ok := o.(*metav1.PartialObjectMetadata)
	if !ok || m.Annotations[annotationTrace] != "" && m.ManagedFields == nil { // it was slim before
		return o, nil
	}
	return &metav1.PartialObjectMetadata{TypeMeta: m.TypeMeta, ObjectMeta: metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Annotations: map[string]string{annotationTrace: environment.Trace(m)},
	}}, nil
}

// altered is when somebody changes or deletes what was applied. Of workloads it is every change: they may be ready, or no longer.
func altered(gvk schema.GroupVersionKind) predicate.Predicate {
	workload := gvk.Group == appsv1.GroupName || gvk.Kind == "Job"
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, now := e.ObjectOld, e.ObjectNew
			return before.GetAnnotations()[annotationTrace] != now.GetAnnotations()[annotationTrace] || workload && before.GetResourceVersion() != now.GetResourceVersion()
		},
	}
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
