package environment

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	authorizationv1client "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/transport"
)

// Accounts act in environments' namespaces as the accounts there.
type Accounts struct {
	config *rest.Config
	http   *http.Client // one set of connections for all accounts
	mapper *kinds
}

// NewAccounts returns the accounts of a cluster whose API server is reached by config, which must be allowed to impersonate.
func NewAccounts(config *rest.Config) (*Accounts, error) {
	config = rest.CopyConfig(config)
	c, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	dc, err := discovery.NewDiscoveryClientForConfigAndClient(config, c)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return &Accounts{config, c, &kinds{DeferredDiscoveryRESTMapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(dc))}}, nil
}

// kinds are those of the cluster. They are asked for again when one is not known, but not all the time.
type kinds struct {
	*restmapper.DeferredDiscoveryRESTMapper

	mu    sync.Mutex
	asked time.Time
}

const askAgain = 10 * time.Second

func (k *kinds) mapping(gvk schema.GroupVersionKind) (*meta.RESTMapping, error) {
	m, err := k.RESTMapping(gvk.GroupKind(), gvk.Version)
	if !meta.IsNoMatchError(err) {
		return m, err
	}
	k.mu.Lock()
	again := time.Since(k.asked) > askAgain
	if again {
		k.asked = time.Now()
	}
	k.mu.Unlock()
	if !again {
		return nil, err
	}
	k.Reset()
	return k.RESTMapping(gvk.GroupKind(), gvk.Version)
}

// account is that of one environment. It can do what its role says, in its namespace.
type account struct {
	namespace string
	dynamic   dynamic.Interface
	metadata  metadata.Interface
	rights    authorizationv1client.SelfSubjectRulesReviewsGetter
	mapper    *kinds
}

func (a *Accounts) of(namespace string) (*account, error) {
	who := transport.ImpersonationConfig{UserName: "system:serviceaccount:" + namespace + ":" + v1alpha1.EnvironmentAccount}
	c := &http.Client{Transport: transport.NewImpersonatingRoundTripper(who, a.http.Transport), Timeout: a.http.Timeout}
	d, err := dynamic.NewForConfigAndClient(a.config, c)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	m, err := metadata.NewForConfigAndClient(metadata.ConfigFor(a.config), c)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	r, err := authorizationv1client.NewForConfigAndClient(a.config, c)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	return &account{namespace, d, m, r, a.mapper}, nil
}

var errScope = errors.New("is in no namespace, and an environment holds only what is in its own")

// at is where objects of a kind are; meta.IsNoMatchError tells that the cluster does not know the kind.
func (a *account) at(gvk schema.GroupVersionKind) (dynamic.ResourceInterface, error) {
	m, err := a.mapper.mapping(gvk)
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() != meta.RESTScopeNameNamespace {
		return nil, fmt.Errorf("a %s %w", gvk.Kind, errScope)
	}
	return a.dynamic.Resource(m.Resource).Namespace(a.namespace), nil
}

// key names an object within a namespace, whatever version of its kind it is written in.
type key struct{ group, kind, name string }

func keyOf(o *unstructured.Unstructured) key {
	return key{o.GroupVersionKind().Group, o.GetKind(), o.GetName()}
}

func (k key) String() string { return lower(k.kind) + "/" + k.name }

// reading is how much is read of objects.
type reading struct {
	whole func(schema.GroupVersionKind) bool // of others the metadata: what they hold can be large
	may   func(schema.GroupVersionKind) bool // the account need not have the right to read it; nil: it must, all of it
}

// wholly is the reading of what tells by more than its metadata how it stands.
func wholly(gvk schema.GroupVersionKind) bool {
	return gvk.Group != "" || gvk.Kind != "ConfigMap" && gvk.Kind != "Secret"
}

// list reads all objects of some kinds. A kind that the cluster no longer knows has none.
func (a *account) list(ctx context.Context, kinds []schema.GroupVersionKind, how reading) (map[key]*unstructured.Unstructured, error) {
	out := map[key]*unstructured.Unstructured{}
	var mu sync.Mutex
	err := each(kinds, func(gvk schema.GroupVersionKind) error {
		all, err := a.listOne(ctx, gvk, how.whole(gvk))
		switch {
		case meta.IsNoMatchError(err), apierrors.IsNotFound(err), apierrors.IsForbidden(err) && how.may != nil && how.may(gvk):
			return nil
		case err != nil:
			return fmt.Errorf("listing %s: %w", gvk.Kind, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, u := range all {
			out[keyOf(u)] = u
		}
		return nil
	})
	return out, err
}

// listOne reads the objects of one kind, or their metadata.
func (a *account) listOne(ctx context.Context, gvk schema.GroupVersionKind, whole bool) (out []*unstructured.Unstructured, err error) {
	if whole {
		r, err := a.at(gvk)
		if err != nil {
			return nil, err
		}
		l, err := r.List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for i := range l.Items {
			out = append(out, &l.Items[i])
		}
		return out, nil
	}
	m, err := a.mapper.mapping(gvk)
	if err != nil {
		return nil, err
	}
	l, err := a.metadata.Resource(m.Resource).Namespace(a.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range l.Items {
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&l.Items[i])
		if err != nil {
			return nil, err
		}
		u := &unstructured.Unstructured{Object: object}
		u.SetGroupVersionKind(gvk)
		out = append(out, u)
	}
	return out, nil
}

// kinds are all those that the account may list in its namespace.
func (a *account) kinds(ctx context.Context) ([]schema.GroupVersionKind, error) {
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: a.namespace}}
	review, err := a.rights.SelfSubjectRulesReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("asking what the account of %s may list: %w", a.namespace, err)
	}
	var out []schema.GroupVersionKind
	for _, r := range review.Status.ResourceRules {
		if !slices.Contains(r.Verbs, "list") || len(r.ResourceNames) > 0 {
			continue
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				gvk, err := a.mapper.KindFor(schema.GroupVersionResource{Group: group, Resource: resource})
				if err == nil && !slices.Contains(out, gvk) { // what the cluster does not have cannot be there
					out = append(out, gvk)
				}
			}
		}
	}
	return out, nil
}

// each does something for every item, eight at once, and returns the first error.
func each[T any](items []T, do func(T) error) error {
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	places := make(chan struct{}, 8)
	for i, item := range items {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			errs[i] = do(item)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
