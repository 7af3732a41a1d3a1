package controller

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"dayfly.dev/dayfly/internal/session"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// newsEvery is how often changes of pods are looked at when there are many.
const newsEvery = 200 * time.Millisecond

// neighbours knows the pods, Services and namespaces of the cluster, of each no more than network policies go by. It begins
// to watch when somebody first asks: where no policy binds a captured port nobody does.
type neighbours struct {
	cache cache.Cache
	news  func() // a pod or a namespace has changed; called every newsEvery at most

	pending atomic.Bool

	mu        sync.Mutex
	listening bool
}

func newNeighbours(config *rest.Config, scheme *runtime.Scheme) (*neighbours, error) {
	c, err := cache.New(config, cache.Options{Scheme: scheme, DefaultTransform: strip, DefaultUnsafeDisableDeepCopy: new(true)})
	if err != nil {
		return nil, fmt.Errorf("making a cache of pods: %w", err)
	}
	return &neighbours{cache: c, news: func() {}}, nil
}

// strip keeps of an object what network policies and Services go by.
func strip(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Pod:
		kept := &corev1.Pod{ObjectMeta: bare(o.ObjectMeta)}
		kept.Spec.HostNetwork = o.Spec.HostNetwork
		for _, c := range o.Spec.Containers {
			kept.Spec.Containers = append(kept.Spec.Containers, corev1.Container{Ports: c.Ports})
		}
		for _, c := range o.Spec.InitContainers {
			if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways { // a sidecar
				kept.Spec.Containers = append(kept.Spec.Containers, corev1.Container{Ports: c.Ports})
			}
		}
		kept.Status.Phase, kept.Status.PodIPs = o.Status.Phase, o.Status.PodIPs
		return kept, nil
	case *corev1.Service:
		return &corev1.Service{ObjectMeta: bare(o.ObjectMeta), Spec: o.Spec}, nil
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: bare(o.ObjectMeta)}, nil
	}
	return o, nil
}

func bare(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion, Labels: m.Labels}
}

// all returns every pod and the labels of every namespace. What it returns is only read.
func (n *neighbours) all(ctx context.Context) (session.Neighbours, error) {
	if err := n.listen(ctx); err != nil {
		return session.Neighbours{}, err
	}
	var pods corev1.PodList
	if err := n.cache.List(ctx, &pods); err != nil {
		return session.Neighbours{}, fmt.Errorf("listing pods: %w", err)
	}
	var namespaces corev1.NamespaceList
	if err := n.cache.List(ctx, &namespaces); err != nil {
		return session.Neighbours{}, fmt.Errorf("listing namespaces: %w", err)
	}
	out := session.Neighbours{Pods: pods.Items, Namespaces: make(map[string]labels.Set, len(namespaces.Items))}
	for i := range namespaces.Items {
		out.Namespaces[namespaces.Items[i].Name] = namespaces.Items[i].Labels
	}
	return out, nil
}

// listen has news called for what changes from now on.
func (n *neighbours) listen(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listening {
		return nil
	}
	for _, kind := range []client.Object{&corev1.Pod{}, &corev1.Namespace{}, &corev1.Service{}} {
		informer, err := n.cache.GetInformer(ctx, kind)
		if err != nil {
			return fmt.Errorf("watching %T: %w", kind, err)
		}
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { n.soon() }, UpdateFunc: func(_, _ any) { n.soon() }, DeleteFunc: func(any) { n.soon() },
		}); err != nil {
			return fmt.Errorf("watching %T: %w", kind, err)
		}
	}
	n.listening = true
	return nil
}

func (n *neighbours) soon() {
	if n.pending.Swap(true) {
		return
	}
	time.AfterFunc(newsEvery, func() {
		n.pending.Store(false)
		n.news()
	})
}

// service returns a Service, or nil if there is none.
func (n *neighbours) service(ctx context.Context, key client.ObjectKey) (*corev1.Service, error) {
	svc := &corev1.Service{}
	if err := n.cache.Get(ctx, key, svc); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return svc, nil
}
