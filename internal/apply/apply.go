// Package apply brings sets of objects into a cluster and takes them out again: server-side apply in stages, waiting until
// they are ready, deletion that is verified.
package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/cli-utils/pkg/object"
	"github.com/fluxcd/pkg/ssa"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Set applies and deletes objects.
type Set struct {
	client  client.Client
	manager *ssa.ResourceManager
}

// Open asks the cluster which kinds it knows.
func Open(config *rest.Config) (*Set, error) {
	dc, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(dc))
	c, err := client.New(config, client.Options{Mapper: mapper})
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	poller := polling.NewStatusPoller(c, mapper, polling.Options{})
	return &Set{c, ssa.NewResourceManager(c, poller, ssa.Owner{Field: v1alpha1.FieldManager, Group: "dayfly.dev"})}, nil
}

// Apply brings the objects into the cluster, definitions first, and reports each that changed.
func (s *Set) Apply(ctx context.Context, objects []*unstructured.Unstructured, changed func(string)) error {
	set, err := s.manager.ApplyAllStaged(ctx, objects, ssa.DefaultApplyOptions())
	if err != nil {
		return err
	}
	for _, e := range set.Entries {
		if e.Action != ssa.UnchangedAction {
			changed(e.String())
		}
	}
	return nil
}

// Knows says whether the cluster has an object's kind.
func (s *Set) Knows(o *unstructured.Unstructured) (bool, error) {
	kind := o.GroupVersionKind()
	_, err := s.client.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		return false, nil
	}
	return err == nil, err
}

// Wait returns once the objects are ready, as kstatus reads them.
func (s *Set) Wait(ctx context.Context, objects []*unstructured.Unstructured, timeout time.Duration) error {
	opts := ssa.DefaultWaitOptions()
	opts.Interval, opts.Timeout = 200*time.Millisecond, timeout
	return s.manager.WaitForSetWithContext(ctx, object.UnstructuredSetToObjMetadataSet(objects), opts)
}

// Delete takes the objects out of the cluster in the reverse of their order and returns when they are gone. What blocks
// the deletion when time runs out is named.
func (s *Set) Delete(ctx context.Context, objects []*unstructured.Unstructured, gone func(string)) error {
	for _, o := range slices.Backward(objects) {
		err := s.client.Delete(ctx, o.DeepCopy(), client.PropagationPolicy("Background"))
		if err != nil && !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err) {
			return fmt.Errorf("deleting %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		if err == nil {
			gone(strings.ToLower(o.GetKind()) + "/" + o.GetName())
		}
	}
	return s.awaitGone(ctx, objects)
}

func (s *Set) awaitGone(ctx context.Context, objects []*unstructured.Unstructured) error {
	for {
		left, err := s.present(ctx, objects)
		if err == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("still there: %s", strings.Join(left, ", ")))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *Set) present(ctx context.Context, objects []*unstructured.Unstructured) ([]string, error) {
	var left []string
	for _, o := range objects {
		have := o.DeepCopy()
		err := s.client.Get(ctx, client.ObjectKeyFromObject(o), have)
		switch {
		case apierrors.IsNotFound(err) || meta.IsNoMatchError(err):
		case err != nil:
			return left, err
		default:
			text := strings.ToLower(o.GetKind()) + "/" + o.GetName()
			if f := have.GetFinalizers(); len(f) > 0 {
				text += fmt.Sprintf(" (finalizers %s)", strings.Join(f, ", "))
			}
			left = append(left, text)
		}
	}
	return left, nil
}
