package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// do does one step. Whatever it finds done already is well.
func (e *Engine) do(ctx context.Context, env *v1alpha1.Environment, s Step) error {
	switch s := s.(type) {
	case Expire:
		err := client.IgnoreNotFound(e.client.Delete(ctx, env, client.Preconditions{UID: &env.UID, ResourceVersion: &env.ResourceVersion}))
		if apierrors.IsConflict(err) {
			return nil // somebody has extended it meanwhile, or changed it
		}
		return named("deleting", env, err)
	case Sleep:
		scale := &autoscalingv1.Scale{}
		patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"resourceVersion":%q},"spec":{"replicas":0}}`, env.ResourceVersion))
		err := client.IgnoreNotFound(e.client.SubResource("scale").Patch(ctx, env.DeepCopy(), patch, client.WithSubResourceBody(scale)))
		if apierrors.IsConflict(err) {
			return nil // somebody has asked meanwhile, or changed it
		}
		return named("putting to sleep", env, err)
	case Hold, Release:
		before := env.DeepCopy()
		if _, hold := s.(Hold); hold {
			controllerutil.AddFinalizer(env, v1alpha1.EnvironmentFinalizer)
		} else {
			controllerutil.RemoveFinalizer(env, v1alpha1.EnvironmentFinalizer)
		}
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}) // finalizers of others are in the same list
		err := client.IgnoreNotFound(e.client.Patch(ctx, env, patch))
		if apierrors.IsConflict(err) {
			return nil
		}
		return named("marking", env, err)
	case Keep:
		return e.keep(ctx, env, s.Blueprint)
	case MakeNamespace:
		return named("making the namespace of", env, existing(e.client.Create(ctx, namespaceFor(env, s.Guards, e.system))))
	case Guard:
		err := e.guard(ctx, env, s.Guards)
		if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) { // a policy may say what makes no sense to Kubernetes
			e.refuse(env, guardsKey, refusal{guardsHash(s.Guards, e.system), err.Error(), e.now()})
			e.log.Warn("guards", "environment", env.Namespace+"/"+env.Name, "error", err)
			return nil
		}
		return named("guarding the namespace of", env, err)
	case Apply:
		return e.apply(ctx, env, s.Objects)
	case Remove:
		return e.remove(ctx, env, s.Objects)
	case Clone:
		for _, c := range s.Databases {
			e.clones.begin(client.ObjectKeyFromObject(env), c, false, e.now())
		}
		return nil
	case Drop:
		for _, c := range s.Databases {
			e.clones.begin(client.ObjectKeyFromObject(env), c, true, e.now())
		}
		return nil
	case RemoveNamespace:
		return named("deleting the namespace of", env, client.IgnoreNotFound(e.client.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: NamespaceOf(env)}})))
	}
	panic(fmt.Sprintf("no such step: %T", s))
}

func existing(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// guard makes what guards an environment's namespace what it is to be. The namespace says at last that it is.
func (e *Engine) guard(ctx context.Context, env *v1alpha1.Environment, g v1alpha1.PolicyGuards) error {
	all := guards(env, g, e.system)
	most, last := all[:len(all)-1], all[len(all)-1]
	put := func(o client.Object) error {
		err := e.client.Create(ctx, o)
		if apierrors.IsAlreadyExists(err) {
			err = e.guardAnew(ctx, o)
		}
		return err
	}
	if err := each(most, put); err != nil {
		return err
	}
	if err := put(last); err != nil {
		return err
	}
	want, ns := namespaceFor(env, g, e.system), &corev1.Namespace{}
	if err := e.reader.Get(ctx, client.ObjectKeyFromObject(want), ns); err != nil {
		return err
	}
	if !owns(env, ns) || guarded(ns, g, e.system) {
		return nil
	}
	before := ns.DeepCopy()
	ns.Labels[labelEnforce], ns.Annotations[v1alpha1.AnnotationGuards] = want.Labels[labelEnforce], want.Annotations[v1alpha1.AnnotationGuards]
	return client.IgnoreNotFound(e.client.Patch(ctx, ns, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})))
}

// guardAnew writes what a policy may change of a guard, unless it is that already. Whose account and whose rights never change.
func (e *Engine) guardAnew(ctx context.Context, o client.Object) error {
	var live client.Object
	switch o.(type) {
	case *networkingv1.NetworkPolicy:
		live = &networkingv1.NetworkPolicy{}
	case *corev1.ResourceQuota:
		live = &corev1.ResourceQuota{}
	case *corev1.LimitRange:
		live = &corev1.LimitRange{}
	default:
		return nil
	}
	if err := e.reader.Get(ctx, client.ObjectKeyFromObject(o), live); err != nil {
		return err
	}
	if live.GetAnnotations()[v1alpha1.AnnotationGuards] == o.GetAnnotations()[v1alpha1.AnnotationGuards] {
		return nil
	}
	return e.client.Update(ctx, o)
}

func named(what string, env *v1alpha1.Environment, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s environment %s/%s: %w", what, env.Namespace, env.Name, err)
}

// settling is how long after a namespace was made its account's rights and its quota may not be known everywhere.
const settling = 10 * time.Second

// apply brings objects into the environment's namespace, as its account. What the API server will not have is remembered, so
// that the status can tell; the others do not wait for it.
func (e *Engine) apply(ctx context.Context, env *v1alpha1.Environment, objects []*unstructured.Unstructured) error {
	a, err := e.accounts.of(NamespaceOf(env))
	if err != nil {
		return err
	}
	young := e.now().Sub(env.CreationTimestamp.Time) < settling
	return each(objects, func(o *unstructured.Unstructured) error {
		err := a.apply(ctx, o)
		if err == nil {
			return nil
		}
		if young && apierrors.IsForbidden(err) || ctx.Err() != nil || !final(err) {
			return fmt.Errorf("applying %s of environment %s/%s: %w", keyOf(o), env.Namespace, env.Name, err)
		}
		e.refuse(env, keyOf(o), refusal{hashOf(o), err.Error(), e.now()})
		return nil
	})
}

// final says whether an error is about the object, so that trying again at once would give the same.
func final(err error) bool {
	return meta.IsNoMatchError(err) || errors.Is(err, errScope) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err) || apierrors.IsConflict(err) ||
		apierrors.IsMethodNotSupported(err) || apierrors.IsRequestEntityTooLargeError(err) || apierrors.IsUnsupportedMediaType(err)
}

func (a *account) apply(ctx context.Context, o *unstructured.Unstructured) error {
	r, err := a.at(o.GroupVersionKind())
	if err != nil {
		return err
	}
	o, sum := o.DeepCopy(), hashOf(o)
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[annotationHash] = sum
	o.SetAnnotations(annotations)
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, err = r.Patch(ctx, o.GetName(), types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: v1alpha1.EnvironmentManager, Force: new(true)})
	return err
}

// remove deletes objects as the environment's account, and with each what it made, in the foreground: what is gone has ended.
func (e *Engine) remove(ctx context.Context, env *v1alpha1.Environment, objects []*unstructured.Unstructured) error {
	a, err := e.accounts.of(NamespaceOf(env))
	if err != nil {
		return err
	}
	return each(objects, func(o *unstructured.Unstructured) error {
		r, err := a.at(o.GroupVersionKind())
		if err != nil {
			return err
		}
		uid := o.GetUID()
		err = r.Delete(ctx, o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: new(metav1.DeletePropagationForeground)})
		if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) { // a conflict: another one of that name
			return fmt.Errorf("deleting %s of environment %s/%s: %w", keyOf(o), env.Namespace, env.Name, err)
		}
		return nil
	})
}
