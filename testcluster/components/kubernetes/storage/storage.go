// Package storage provisions volumes: folders of one disk that all nodes share.
package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// Provisioner is what a StorageClass names to have its volumes from here.
const Provisioner = "testcluster.dayfly.dev/shared"

// Options say how to reach the API server, and the folder that is the same on all machines.
type Options struct{ Kubeconfig, Folder string }

// Run provides claims with volumes, and removes volumes whose claims are gone, until ctx ends.
func Run(ctx context.Context, o Options) error {
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return fmt.Errorf("reading --kubeconfig %s: %w", o.Kubeconfig, err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[any]())
	factory := informers.NewSharedInformerFactory(client, 0)
	handler := cache.ResourceEventHandlerFuncs{AddFunc: queue.Add, UpdateFunc: func(_, now any) { queue.Add(now) }}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Core().V1().PersistentVolumeClaims().Informer(), factory.Core().V1().PersistentVolumes().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	context.AfterFunc(ctx, queue.ShutDown)
	p := provisioner{client, o.Folder}
	for {
		item, closed := queue.Get()
		if closed {
			return nil
		}
		if err := p.handle(ctx, item); err != nil {
			klog.ErrorS(err, "trying again")
			queue.AddRateLimited(item)
		} else {
			queue.Forget(item)
		}
		queue.Done(item)
	}
}

type provisioner struct {
	client kubernetes.Interface
	folder string
}

func (p provisioner) handle(ctx context.Context, item any) error {
	switch item := item.(type) {
	case *corev1.PersistentVolumeClaim:
		return p.provide(ctx, item)
	case *corev1.PersistentVolume:
		return p.reclaim(ctx, item)
	}
	return nil
}

// provide makes a volume for a claim that waits for one of ours.
func (p provisioner) provide(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	const asks = "volume.kubernetes.io/storage-provisioner" // set by the controller manager
	if claim.Annotations[asks] != Provisioner || claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.folder, name)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o777); err != nil { // despite the umask
		return err
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, volume(name, path, claim), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// volume is of the kind "local", which unlike "hostPath" honours fsGroup. Since the disk is shared, any node will do.
func volume(name, path string, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": Provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      claim.Spec.Resources.Requests,
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			StorageClassName:              *claim.Spec.StorageClassName,
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpExists}},
			}}}},
		},
	}
}

// reclaim removes a volume of ours whose claim is gone.
func (p provisioner) reclaim(ctx context.Context, v *corev1.PersistentVolume) error {
	ours := v.Annotations["pv.kubernetes.io/provisioned-by"] == Provisioner && v.Spec.Local != nil &&
		filepath.Dir(v.Spec.Local.Path) == p.folder
	if !ours || v.Status.Phase != corev1.VolumeReleased || v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return nil
	}
	if err := os.RemoveAll(v.Spec.Local.Path); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
