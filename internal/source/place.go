package source

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// clusterScoped are the built-in kinds that belong to no namespace, by group and kind.
var clusterScoped = map[string]string{
	"Namespace": "", "Node": "", "PersistentVolume": "", "ComponentStatus": "",
	"ClusterRole": "rbac.authorization.k8s.io", "ClusterRoleBinding": "rbac.authorization.k8s.io",
	"CustomResourceDefinition": "apiextensions.k8s.io", "APIService": "apiregistration.k8s.io",
	"MutatingWebhookConfiguration": "admissionregistration.k8s.io", "ValidatingWebhookConfiguration": "admissionregistration.k8s.io",
	"ValidatingAdmissionPolicy": "admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding": "admissionregistration.k8s.io",
	"MutatingAdmissionPolicy": "admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding": "admissionregistration.k8s.io",
	"StorageClass": "storage.k8s.io", "CSIDriver": "storage.k8s.io", "CSINode": "storage.k8s.io", "VolumeAttachment": "storage.k8s.io", "VolumeAttributesClass": "storage.k8s.io",
	"PriorityClass": "scheduling.k8s.io", "RuntimeClass": "node.k8s.io", "IngressClass": "networking.k8s.io",
	"ServiceCIDR": "networking.k8s.io", "IPAddress": "networking.k8s.io",
	"CertificateSigningRequest": "certificates.k8s.io", "ClusterTrustBundle": "certificates.k8s.io",
	"FlowSchema": "flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration": "flowcontrol.apiserver.k8s.io",
	"DeviceClass": "resource.k8s.io", "ResourceSlice": "resource.k8s.io", "DeviceTaintRule": "resource.k8s.io", "ResourcePoolStatusRequest": "resource.k8s.io",
	"StorageVersion": "internal.apiserver.k8s.io", "StorageVersionMigration": "storagemigration.k8s.io",
	"TokenReview": "authentication.k8s.io", "SelfSubjectReview": "authentication.k8s.io",
	"SubjectAccessReview": "authorization.k8s.io", "SelfSubjectAccessReview": "authorization.k8s.io", "SelfSubjectRulesReview": "authorization.k8s.io",
	"PodSecurityPolicy": "policy", "ImageReview": "imagepolicy.k8s.io",
}

// namespacedGroups are the groups whose other kinds are all built in and namespaced.
var namespacedGroups = []string{
	"", "apps", "batch", "autoscaling", "policy", "networking.k8s.io", "rbac.authorization.k8s.io", "coordination.k8s.io", "discovery.k8s.io",
	"events.k8s.io", "extensions", "storage.k8s.io", "authorization.k8s.io", "resource.k8s.io", "certificates.k8s.io",
	"scheduling.k8s.io", "lifecycle.k8s.io",
}

// Scope says whether a kind belongs to namespaces, and whether it is known here, because it is built in. Of others only the
// cluster knows.
func Scope(gvk schema.GroupVersionKind) (namespaced, known bool) {
	if group, ok := clusterScoped[gvk.Kind]; ok && group == gvk.Group {
		return false, true
	}
	return true, slices.Contains(namespacedGroups, gvk.Group)
}

// reasonOf says what to do about a cluster-scoped kind.
func reasonOf(kind string) string {
	switch kind {
	case "ClusterRole", "ClusterRoleBinding":
		return "use a Role and a RoleBinding"
	case "CustomResourceDefinition":
		return "an administrator installs kinds once, for all environments"
	case "Namespace":
		return "an environment has one namespace, which dayfly makes"
	case "PersistentVolume":
		return "use a PersistentVolumeClaim"
	}
	return "an administrator installs it once, or it is left out of the source"
}

// place puts every object into the environment's namespace.
func (r *rendering) place() error {
	own, err := r.ownNamespace()
	if err != nil {
		return err
	}
	r.own = own
	var refused []string
	fix := ""
	kept := r.objects[:0:0]
	places := map[string]string{}
	for _, o := range r.objects {
		gvk := o.GroupVersionKind()
		if namespaced, known := Scope(gvk); known && !namespaced {
			if gvk.Kind == "Namespace" && (o.GetName() == own || o.GetName() == r.o.Namespace || own == "" && r.namespaces() == 1) {
				r.warn("%s is left out: dayfly makes the environment's namespace", o)
				continue
			}
			refused = append(refused, fmt.Sprintf("%s (%s)", o, o.from))
			fix = reasonOf(gvk.Kind)
			continue
		}
		key := gvk.GroupKind().String() + "/" + o.GetName()
		if first, ok := places[key]; ok {
			return usererr.New(usererr.Refused, "leave one out", "%s is there twice: in %s and in %s", o, first, o.from)
		}
		places[key] = o.from
		o.SetNamespace(r.o.Namespace)
		exported(o)
		r.subjects(o, own)
		if gvk.Group == "batch" && gvk.Kind == "CronJob" && !r.o.CronJobs {
			if err := unstructured.SetNestedField(o.Object, true, "spec", "suspend"); err != nil {
				return usererr.New(usererr.Refused, "", "%s: %s has no spec", o.from, o).Because(err)
			}
		}
		kept = append(kept, o)
	}
	if len(refused) > 0 {
		return usererr.New(usererr.Refused, fix, "belongs to the whole cluster, and an environment may not change that: %s", strings.Join(refused, ", "))
	}
	r.objects = kept
	return r.bound()
}

// ownNamespace is the one that the objects were made for: "" if they name none.
func (r *rendering) ownNamespace() (string, error) {
	named := map[string]object{}
	for _, o := range r.objects {
		if namespaced, known := Scope(o.GroupVersionKind()); namespaced || !known {
			if ns := o.GetNamespace(); ns != "" {
				if _, ok := named[ns]; !ok {
					named[ns] = o
				}
			}
		}
	}
	delete(named, r.o.Namespace)
	if len(named) > 1 {
		var where []string
		for _, ns := range sortedKeys(named) {
			where = append(where, fmt.Sprintf("%s in %s (%s)", named[ns], ns, named[ns].from))
		}
		return "", usererr.New(usererr.Refused, "make each an environment of its own, or put all into one", "an environment is one namespace, and the source names %d: %s", len(named), strings.Join(where, ", "))
	}
	for ns := range maps.Keys(named) {
		return ns, nil
	}
	return "", nil
}

// namespaces counts the Namespaces among the objects.
func (r *rendering) namespaces() (n int) {
	for _, o := range r.objects {
		if gvk := o.GroupVersionKind(); gvk.Kind == "Namespace" && gvk.Group == "" {
			n++
		}
	}
	return n
}

// exported removes what a cluster wrote into an object that was read from it.
func exported(o object) {
	delete(o.Object, "status")
	md, _ := o.Object["metadata"].(map[string]any)
	for _, key := range []string{"creationTimestamp", "deletionTimestamp", "generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid"} {
		delete(md, key)
	}
}

// subjects moves the accounts that a RoleBinding names along with them.
func (r *rendering) subjects(o object, own string) {
	if o.GetKind() != "RoleBinding" {
		return
	}
	list, _, _ := unstructured.NestedFieldNoCopy(o.Object, "subjects")
	subjects, _ := list.([]any)
	for _, s := range subjects {
		m, _ := s.(map[string]any)
		if ns, _ := m["namespace"].(string); m["kind"] == "ServiceAccount" && (ns == "" || ns == own) {
			m["namespace"] = r.o.Namespace
		}
	}
}

// order is that in which kinds are applied: what others refer to first. Kinds that are not listed come before workloads.
var order = func() map[string]int {
	out := map[string]int{}
	for i, k := range []string{
		"ResourceQuota", "LimitRange", "NetworkPolicy", "ServiceAccount", "Role", "RoleBinding", "Secret", "ConfigMap", "PersistentVolumeClaim", "Service", "PodDisruptionBudget", "",
		"Pod", "ReplicaSet", "ReplicationController", "StatefulSet", "Deployment", "DaemonSet", "Job", "CronJob", "HorizontalPodAutoscaler", "Ingress", "HTTPRoute", "GRPCRoute",
	} {
		out[k] = i
	}
	return out
}()

func rank(o object) int {
	if n, ok := order[o.GetKind()]; ok {
		return n
	}
	return order[""]
}

// inOrder sorts a component's objects.
func inOrder(objects []object) {
	slices.SortStableFunc(objects, func(a, b object) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a.GroupVersionKind().GroupKind().String()+"/"+a.GetName(), b.GroupVersionKind().GroupKind().String()+"/"+b.GetName())
	})
}
