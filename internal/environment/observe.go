package environment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Observed is everything that a decision about one environment rests on.
type Observed struct {
	Now time.Time
	Env *v1alpha1.Environment

	Source *Sourcing                   // nil: it is made from a Blueprint that somebody else has made
	Policy *v1alpha1.EnvironmentPolicy // that holds for the home; nil: none

	Size *size // what the requested revision asks for; nil: nobody knows
	Wait *Turn // in line, as it has no place among those that are awake; nil: it has one, or needs none

	Domain string // under which components have addresses; "": they have none

	Away bool // nobody has looked at the environment for so long that a lease may have been renewed in vain

	Namespace *corev1.Namespace // nil: there is none
	Guarded   bool              // every guard stands
	Outdated  bool              // they are not what the policy says now
	Guards    string            // a hash of what it says

	Clones map[string]cloning // what goes on with its databases elsewhere, by name

	Content    []source.Component // what the requested revision consists of, ready to be applied; nil: not asked for, or Trouble
	ContentErr error              // why there is no content
	Refused    map[key]refusal    // objects that the API server did not take lately
	PutBack    map[key]time.Time  // objects that were put back lately, as somebody had changed them

	Live   map[key]*unstructured.Unstructured // objects of the kinds in the inventory and the content; while ending, of all kinds
	Pods   []corev1.Pod                       // where a component is not ready, or was not before
	Events []corev1.Event                     // likewise, the last ones
	Health map[string]string                  // by component, what is wrong with the answer to its health check; absent: nothing
}

func (o *Observed) rules() rules { return rules{o.Policy} }

// errNoBlueprint is a Blueprint that is not there, which may still come.
var errNoBlueprint = errors.New("there is no such blueprint")

// errRendering is content that is not there yet: whoever renders wakes the environment.
var errRendering = errors.New("its objects are being rendered")

// refusal is why an object was not taken.
type refusal struct {
	hash, why string
	when      time.Time
}

// observe reads what there is, live.
func (e *Engine) observe(ctx context.Context, env *v1alpha1.Environment) (*Observed, error) {
	o := &Observed{Now: e.now(), Env: env, Policy: e.policy(env.Namespace).EnvironmentPolicy, Domain: e.domain, Refused: e.refusals(env), PutBack: e.putBacks(env), Health: map[string]string{},
		Clones: e.clones.look(client.ObjectKeyFromObject(env))}
	o.Away, o.Guards = e.looked(env, o.Now), guardsHash(o.rules().guards(), e.system)
	if over(o) {
		return o, nil
	}
	ns := &corev1.Namespace{}
	err := e.reader.Get(ctx, client.ObjectKey{Name: NamespaceOf(env)}, ns)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return nil, fmt.Errorf("reading namespace %s: %w", NamespaceOf(env), err)
	case err == nil:
		o.Namespace = ns
	}
	if o.Namespace != nil && owns(env, ns) && ns.DeletionTimestamp.IsZero() {
		err := e.reader.Get(ctx, client.ObjectKey{Namespace: ns.Name, Name: guardName}, &rbacv1.RoleBinding{})
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading the guards of namespace %s: %w", ns.Name, err)
		}
		o.Guarded = err == nil
		o.Outdated = o.Guarded && ns.Annotations[v1alpha1.AnnotationGuards] != o.Guards
	}
	if !env.DeletionTimestamp.IsZero() {
		e.queue.put(entryOf(env, nil))
		return o, e.observeEnd(ctx, o)
	}
	if o.Source, err = e.observeSource(ctx, env); err != nil || held(o) {
		return o, err
	}
	if s, ok := measured(env); ok && inLine(env) { // nothing of it is made or rendered before its turn
		o.Size, o.Wait = &s, e.queue.put(entryOf(env, &s))
		if o.Wait != nil {
			return o, nil
		}
	}
	if o.Guarded {
		if err := e.observeObjects(ctx, o); err != nil {
			return nil, err
		}
	}
	if settled(o) && !o.unmeasured() {
		e.known.drop(contentID(env))
	} else if err := e.observeContent(ctx, o); err != nil {
		return nil, err
	}
	o.Size = sizeOfContent(o)
	o.Wait = e.queue.put(entryOf(env, o.Size))
	return o, nil
}

// observeContent finds out what the environment is to consist of, and how that stands.
func (e *Engine) observeContent(ctx context.Context, o *Observed) error {
	o.Content, o.ContentErr = e.content(ctx, o.Env)
	if err, ok := errors.AsType[unavailable](o.ContentErr); ok {
		return err.error
	}
	if o.ContentErr != nil || !o.Guarded {
		return nil
	}
	if err := e.observeObjects(ctx, o); err != nil { // kinds may have come
		return err
	}
	return e.observeHealth(ctx, o)
}

// unmeasured says whether a policy asks how much the environment takes, and nobody has looked.
func (o *Observed) unmeasured() bool {
	_, ok := measured(o.Env)
	return !ok && o.rules().measures()
}

// settled says whether all of the requested revision is in the cluster and known to be ready, as far as it is there.
func settled(o *Observed) bool {
	st := &o.Env.Status
	if rev := RevisionOf(&o.Env.Spec); st.Revisions.Ready != rev || st.Revisions.Applied != rev || !o.Guarded {
		return false
	}
	for _, i := range st.Inventory {
		if o.Live[itemKey(i)] == nil || drifted(o, itemKey(i)) {
			return false
		}
	}
	return !slices.ContainsFunc(parts(o), func(p part) bool {
		return slices.ContainsFunc(p.members, func(m member) bool { return m.of != "" && !applied(o, m) }) // its data are others
	})
}

func (e *Engine) observeObjects(ctx context.Context, o *Observed) error {
	var want []schema.GroupVersionKind
	add := func(gvk schema.GroupVersionKind) {
		if !slices.ContainsFunc(want, func(w schema.GroupVersionKind) bool { return w.GroupKind() == gvk.GroupKind() }) {
			want = append(want, gvk)
		}
	}
	for _, c := range o.Content {
		for _, obj := range c.Objects {
			add(obj.GroupVersionKind())
		}
	}
	for _, i := range o.Env.Status.Inventory {
		add(schema.FromAPIVersionAndKind(i.APIVersion, i.Kind))
	}
	if keeps(o) {
		add(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim")) // those of StatefulSets are nobody's content
	}
	a, err := e.accounts.of(NamespaceOf(o.Env))
	if err != nil {
		return err
	}
	applied := func(gvk schema.GroupVersionKind) bool {
		return slices.ContainsFunc(o.Env.Status.Inventory, func(i v1alpha1.InventoryItem) bool {
			return schema.FromAPIVersionAndKind(i.APIVersion, i.Kind).GroupKind() == gvk.GroupKind()
		})
	}
	may := func(gvk schema.GroupVersionKind) bool { return !applied(gvk) } // applying it will say so
	if o.Live, err = a.list(ctx, want, reading{func(gvk schema.GroupVersionKind) bool { return wholly(gvk) || gvk.Kind == "Secret" && hasClones(o) }, may}); err != nil {
		return err
	}
	if len(o.Env.Status.Inventory) == 0 || o.Content == nil && !keeps(o) && allReady(o) {
		return nil
	}
	if o.Pods, err = listOf[corev1.Pod](ctx, a, "Pod"); err != nil {
		return err
	}
	if allReady(o) {
		return nil
	}
	o.Events, err = listOf[corev1.Event](ctx, a, "Event")
	return err
}

// listOf reads all objects of a core kind with their types.
func listOf[T any](ctx context.Context, a *account, kind string) ([]T, error) {
	r, err := a.at(corev1.SchemeGroupVersion.WithKind(kind))
	if err != nil {
		return nil, err
	}
	l, err := r.List(ctx, metav1.ListOptions{Limit: 500})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", kind, err)
	}
	out := make([]T, len(l.Items))
	for i := range l.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(l.Items[i].Object, &out[i]); err != nil {
			return nil, fmt.Errorf("reading %s %s: %w", kind, l.Items[i].GetName(), err)
		}
	}
	return out, nil
}

// observeEnd reads every object in the namespace, of every kind that the account may list. Once the namespace itself is ending the
// account may have no rights any more: then its conditions tell.
func (e *Engine) observeEnd(ctx context.Context, o *Observed) error {
	if !o.Guarded {
		return nil
	}
	a, err := e.accounts.of(NamespaceOf(o.Env))
	if err != nil {
		return err
	}
	kinds, err := a.kinds(ctx)
	if err != nil {
		return err
	}
	kinds = slices.DeleteFunc(kinds, func(k schema.GroupVersionKind) bool { return k.Kind == "Event" })                                      // no state, and many
	o.Live, err = a.list(ctx, kinds, reading{whole: func(gvk schema.GroupVersionKind) bool { return gvk.Group == "" && gvk.Kind == "Pod" }}) // whose node is named
	return err
}

// content is what the environment's revision consists of, or errRendering.
func (e *Engine) content(ctx context.Context, env *v1alpha1.Environment) ([]source.Component, error) {
	if known, ok := e.known.get(contentID(env)); ok {
		return known.components, known.err
	}
	if _, err := e.blueprint(ctx, env); err != nil {
		return nil, err
	}
	e.renders.ask(env)
	return nil, errRendering
}

// blueprint is what an environment is made from.
func (e *Engine) blueprint(ctx context.Context, env *v1alpha1.Environment) (*v1alpha1.Blueprint, error) {
	b := &v1alpha1.Blueprint{}
	err := e.reader.Get(ctx, client.ObjectKey{Namespace: env.Namespace, Name: env.Spec.Blueprint}, b)
	if apierrors.IsNotFound(err) {
		return nil, errNoBlueprint
	}
	if err != nil {
		return nil, unavailable{fmt.Errorf("reading blueprint %s: %w", env.Spec.Blueprint, err)}
	}
	return b, nil
}

func contentID(env *v1alpha1.Environment) string {
	return string(env.UID) + " " + RevisionOf(&env.Spec)
}

// unavailable is an error that says nothing about the content: it is asked for again.
type unavailable struct{ error }
