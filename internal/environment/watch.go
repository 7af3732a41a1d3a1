package environment

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Watched are the kinds of which one watch of the cluster, for all environments together, shows what somebody changes or deletes. They
// tell little to who reads them in the whole cluster: no Secrets, no ConfigMaps, and no roles.
var Watched = []schema.GroupVersionKind{
	corev1.SchemeGroupVersion.WithKind("Service"),
	corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
	corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"),
	appsv1.SchemeGroupVersion.WithKind("Deployment"),
	appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
	appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
	batchv1.SchemeGroupVersion.WithKind("Job"),
	batchv1.SchemeGroupVersion.WithKind("CronJob"),
	autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"),
	policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"),
}

// watched says whether a watch shows what becomes of an object: what was applied by an older dayfly lacks the label.
func watched(u *unstructured.Unstructured) bool {
	return u.GetLabels()[v1alpha1.LabelEnvironment] != "" && slices.ContainsFunc(Watched, func(w schema.GroupVersionKind) bool { return w.GroupKind() == u.GroupVersionKind().GroupKind() })
}

// patrol looks, as the environments' accounts, at what no watch shows: Secrets, roles, and kinds that somebody has let
// environments have. It has an environment looked at whole when one of these is no longer what it was.
type patrol struct {
	accounts *Accounts
	wake     func(at client.ObjectKey, after time.Duration)
	log      *slog.Logger
	now      func() time.Time

	mu    sync.Mutex
	beats map[client.ObjectKey]beat
}

// beat is what the patrol looks at in one environment.
type beat struct {
	namespace string
	kinds     []schema.GroupVersionKind
	traces    map[key]string
	due       time.Time
}

// patrolEvery is how long a change that no watch shows may go unnoticed.
const patrolEvery = 10 * time.Minute

func newPatrol(accounts *Accounts, wake func(client.ObjectKey, time.Duration), log *slog.Logger, now func() time.Time) *patrol {
	return &patrol{accounts: accounts, wake: wake, log: log, now: now, beats: map[client.ObjectKey]beat{}}
}

// put notes what was seen in an environment just now.
func (p *patrol) put(at client.ObjectKey, o *Observed) {
	b := beatOf(o)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(b.kinds) == 0 {
		delete(p.beats, at)
		return
	}
	b.due = p.now().Add(patrolEvery)
	p.beats[at] = b
}

func (p *patrol) drop(at client.ObjectKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.beats, at)
}

// beatOf is what of an environment no watch shows, as it is now.
func beatOf(o *Observed) beat {
	b := beat{namespace: NamespaceOf(o.Env), traces: map[key]string{}}
	for _, i := range o.Env.Status.Inventory {
		live := o.Live[itemKey(i)]
		if live == nil || watched(live) {
			continue // what is not there is waited for, and looked at soon
		}
		if gvk := live.GroupVersionKind(); !slices.Contains(b.kinds, gvk) {
			b.kinds = append(b.kinds, gvk)
		}
		b.traces[itemKey(i)] = Trace(live)
	}
	return b
}

// run looks until ctx ends.
func (p *patrol) run(ctx context.Context) {
	tick := time.NewTicker(patrolEvery / 100)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_ = each(p.take(), func(at client.ObjectKey) error {
			p.look(ctx, at)
			return nil
		})
	}
}

// take returns the environments that are due, and when they are again.
func (p *patrol) take() (due []client.ObjectKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for at, b := range p.beats {
		if now.After(b.due) {
			due = append(due, at)
			b.due = now.Add(patrolEvery)
			p.beats[at] = b
		}
	}
	return due
}

// look compares what there is with what there was.
func (p *patrol) look(ctx context.Context, at client.ObjectKey) {
	p.mu.Lock()
	b := p.beats[at]
	p.mu.Unlock()
	a, err := p.accounts.of(b.namespace)
	if err != nil {
		p.log.Warn("patrol", "environment", at, "error", err)
		return
	}
	live, err := a.list(ctx, b.kinds, reading{whole: func(schema.GroupVersionKind) bool { return false }})
	if err != nil || b.changed(live) { // an error may be that its rights are gone, which a look at the whole finds out
		p.wake(at, 0)
	}
}

func (b beat) changed(live map[key]*unstructured.Unstructured) bool {
	for k, trace := range b.traces {
		if live[k] == nil || Trace(live[k]) != trace {
			return true
		}
	}
	return false
}
