package servicegraph

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/mention"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Bounds of one observation. What lies beyond is left out, and the graph says so.
const (
	pageSize      = 500
	maxObjects    = 20000 // of one kind
	maxConfigMaps = 1000
	parallel      = 16
)

// Observed is what was read. No Secret is among it.
type Observed struct {
	Now         time.Time
	Namespace   string // "": all
	Services    []corev1.Service
	Workloads   []Running
	Pods        []corev1.Pod
	ConfigMaps  map[client.ObjectKey]*corev1.ConfigMap // those that a workload names and that exist
	Ingresses   []networkingv1.Ingress
	Routes      []Route
	Policies    []networkingv1.NetworkPolicy
	Sessions    []v1alpha1.Session
	Alterations []v1alpha1.Alteration
	Unseen      []Unseen
}

// Running is a workload with the template of its pods.
type Running struct {
	Namespace string
	Workload
	Labels map[string]string // of its pods
	Pod    corev1.PodSpec
}

// Route is a Gateway API route: a way in from outside to some Services.
type Route struct {
	Namespace, Kind, Name string
	Hosts                 []string
	Backends              []client.ObjectKey
}

// RouteKinds are the kinds of the Gateway API that lead to Services.
var RouteKinds = []schema.GroupVersionKind{
	{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"},
	{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "GRPCRoute"},
}

// Observe reads one namespace ("": all of them). What the caller may not see is left out and noted; only if neither
// Services nor any workload can be read is that an error.
func Observe(ctx context.Context, c client.Reader, namespace string) (*Observed, error) {
	o := &Observed{Now: time.Now(), Namespace: namespace}
	e := &eye{ctx: ctx, c: c, o: o}
	var deployments appsv1.DeploymentList
	var stateful appsv1.StatefulSetList
	var daemons appsv1.DaemonSetList
	var cron batchv1.CronJobList
	var jobs batchv1.JobList
	e.look("services", see(e, &corev1.ServiceList{}, func(l *corev1.ServiceList) { o.Services = append(o.Services, l.Items...) }))
	e.look("deployments", see(e, &deployments, func(l *appsv1.DeploymentList) { e.add(ofDeployments(l)) }))
	e.look("statefulsets", see(e, &stateful, func(l *appsv1.StatefulSetList) { e.add(ofStatefulSets(l)) }))
	e.look("daemonsets", see(e, &daemons, func(l *appsv1.DaemonSetList) { e.add(ofDaemonSets(l)) }))
	e.look("cronjobs", see(e, &cron, func(l *batchv1.CronJobList) { e.add(ofCronJobs(l)) }))
	e.look("jobs", see(e, &jobs, func(l *batchv1.JobList) { e.add(ofJobs(l)) }))
	e.look("pods", see(e, &corev1.PodList{}, func(l *corev1.PodList) { o.Pods = append(o.Pods, l.Items...) }))
	e.look("ingresses", see(e, &networkingv1.IngressList{}, func(l *networkingv1.IngressList) { o.Ingresses = append(o.Ingresses, l.Items...) }))
	e.look("networkpolicies", see(e, &networkingv1.NetworkPolicyList{}, func(l *networkingv1.NetworkPolicyList) { o.Policies = append(o.Policies, l.Items...) }))
	e.look("sessions", see(e, &v1alpha1.SessionList{}, func(l *v1alpha1.SessionList) { o.Sessions = append(o.Sessions, l.Items...) }))
	e.look("alterations", see(e, &v1alpha1.AlterationList{}, func(l *v1alpha1.AlterationList) { o.Alterations = append(o.Alterations, l.Items...) }))
	for _, gvk := range RouteKinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		e.look(strings.ToLower(gvk.Kind)+"s", see(e, list, func(l *unstructured.UnstructuredList) { o.Routes = append(o.Routes, ofRoutes(l)...) }))
	}
	e.wg.Wait()
	if err := e.blind(); err != nil {
		return nil, err
	}
	o.Workloads = append(o.Workloads, ofPods(o.Pods, o.Workloads)...)
	e.configMaps()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slices.SortFunc(o.Unseen, func(a, b Unseen) int {
		return cmp.Or(cmp.Compare(a.What, b.What), cmp.Compare(a.Namespace, b.Namespace))
	})
	return o, nil
}

// eye reads several kinds at once.
type eye struct {
	ctx context.Context // of one Observe
	c   client.Reader
	o   *Observed
	wg  sync.WaitGroup

	mu     sync.Mutex // guards o and what follows
	failed map[string]error
}

// look reads one kind beside the others and notes why if it cannot be read.
func (e *eye) look(what string, read func() error) {
	e.wg.Go(func() {
		err := read()
		if err == nil || notThere(err) {
			return
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.failed == nil {
			e.failed = map[string]error{}
		}
		e.failed[what] = err
		e.o.Unseen = append(e.o.Unseen, Unseen{e.o.Namespace, what, reason(err)})
	})
}

// notThere says whether the cluster does not know the kind: then there is nothing to see, and nothing is left out.
func notThere(err error) bool { return meta.IsNoMatchError(err) || apierrors.IsNotFound(err) }

func reason(err error) string {
	switch {
	case apierrors.IsForbidden(err):
		return "you may not list them"
	case errors.Is(err, context.DeadlineExceeded):
		return "the cluster did not answer in time"
	}
	return err.Error()
}

// blind returns an error if nothing of a graph could be read.
func (e *eye) blind() error {
	err := e.failed["services"]
	if err == nil || len(e.o.Workloads) > 0 || len(e.o.Pods) > 0 || e.failed["deployments"] == nil {
		return nil
	}
	return err
}

func (e *eye) add(ws []Running) { e.o.Workloads = append(e.o.Workloads, ws...) }

// see reads a list page by page and hands each page on, one at a time.
func see[L client.ObjectList](e *eye, list L, take func(L)) func() error {
	return func() error {
		next, n := "", 0
		for {
			err := e.c.List(e.ctx, list, client.InNamespace(e.o.Namespace), client.Limit(pageSize), client.Continue(next))
			if err != nil {
				return err
			}
			n += meta.LenList(list)
			next = list.GetContinue()
			e.mu.Lock()
			take(list)
			e.mu.Unlock()
			switch {
			case next == "":
				return nil
			case n >= maxObjects:
				return fmt.Errorf("there are more than %d", maxObjects)
			}
			list = list.DeepCopyObject().(L) // take may keep the page
		}
	}
}

// configMaps reads those that a workload names, each by its name: what nobody names is not read.
func (e *eye) configMaps() {
	e.o.ConfigMaps = map[client.ObjectKey]*corev1.ConfigMap{}
	names := map[client.ObjectKey]bool{}
	for i := range e.o.Workloads {
		w := &e.o.Workloads[i]
		for _, n := range mention.ConfigMaps(&w.Pod) {
			names[client.ObjectKey{Namespace: w.Namespace, Name: n}] = true
		}
	}
	if len(names) > maxConfigMaps {
		e.o.Unseen = append(e.o.Unseen, Unseen{e.o.Namespace, "configmaps", fmt.Sprintf("more than %d are in use: none was read", maxConfigMaps)})
		return
	}
	gate := make(chan struct{}, parallel)
	refused := map[string]Unseen{}
	for key := range names {
		gate <- struct{}{}
		e.wg.Go(func() {
			defer func() { <-gate }()
			m := &corev1.ConfigMap{}
			err := e.c.Get(e.ctx, key, m)
			e.mu.Lock()
			defer e.mu.Unlock()
			switch {
			case err == nil:
				e.o.ConfigMaps[key] = m
			case apierrors.IsForbidden(err):
				refused[key.Namespace] = Unseen{key.Namespace, "configmaps", "you may not get them"}
			case !apierrors.IsNotFound(err):
				refused[key.Namespace] = Unseen{key.Namespace, "configmaps", err.Error()}
			}
		})
	}
	e.wg.Wait()
	for _, u := range refused {
		e.o.Unseen = append(e.o.Unseen, u)
	}
}

func controlled(o metav1.Object, kind string) bool {
	owner := metav1.GetControllerOf(o)
	return owner != nil && (kind == "" || owner.Kind == kind)
}
