package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

type ownerRef = metav1.OwnerReference

func ownedBy(svc *corev1.Service) []ownerRef {
	return []ownerRef{{APIVersion: "v1", Kind: "Service", Name: svc.Name, UID: svc.UID}}
}

func mapsEqual(a, b map[string]string) bool { return maps.Equal(a, b) }

// shorten keeps a name within 63 characters; what is cut off is replaced by a digest of the whole.
func shorten(name string) string {
	if len(name) <= 63 {
		return name
	}
	return name[:54] + "-" + digest(name)[:8]
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func toMap(svc *corev1.Service) (map[string]any, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(svc)
	if err != nil {
		return nil, fmt.Errorf("encoding service %s: %w", svc.Name, err)
	}
	m["apiVersion"], m["kind"] = "v1", "Service"
	return m, nil
}

// HashOf is the hash of an object, as `kubectl get -o json` shows it, without what the API server keeps for itself:
// resourceVersion, managedFields, generation and status. It has the form sha256:<hex>.
func HashOf(object map[string]any) string {
	m := maps.Clone(object)
	delete(m, "status")
	if md, ok := m["metadata"].(map[string]any); ok {
		md = maps.Clone(md)
		for _, k := range []string{"resourceVersion", "managedFields", "generation"} {
			delete(md, k)
		}
		if md["creationTimestamp"] == nil {
			delete(md, "creationTimestamp")
		}
		m["metadata"] = md
	}
	data, err := json.Marshal(m) // sorts the keys
	if err != nil {
		return "" // not reached: the map came from JSON
	}
	return "sha256:" + digest(string(data))
}

// prove compares an alteration's target with its before-image.
func (e *Engine) prove(ctx context.Context, a *v1alpha1.Alteration) (v1alpha1.Proof, error) {
	p := v1alpha1.Proof{Object: "service/" + a.Spec.Target.Name, Before: a.Spec.BeforeHash}
	svc := &corev1.Service{}
	err := e.reader.Get(ctx, client.ObjectKey{Namespace: a.Namespace, Name: a.Spec.Target.Name}, svc)
	if apierrors.IsNotFound(err) || err == nil && svc.UID != a.Spec.Target.UID {
		p.Note = "deleted by somebody else meanwhile"
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("reading service %s: %w", a.Spec.Target.Name, err)
	}
	after, err := toMap(svc)
	if err != nil {
		return p, err
	}
	p.After = HashOf(after)
	if p.After != p.Before {
		var before map[string]any
		if err := json.Unmarshal(a.Spec.Before.Raw, &before); err != nil {
			return p, fmt.Errorf("reading the before-image of %s: %w", a.Name, err)
		}
		p.Note = "changed by somebody else meanwhile, kept: " + strings.Join(differences("", before, after), ", ")
	}
	return p, nil
}

// differences names the paths at which two objects differ, leaving out what HashOf leaves out.
func differences(path string, a, b any) []string {
	am, aok := a.(map[string]any)
	bm, bok := b.(map[string]any)
	if !aok || !bok {
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if bytes.Equal(x, y) {
			return nil
		}
		return []string{strings.TrimPrefix(path, ".")}
	}
	keys := slices.Sorted(maps.Keys(am))
	for k := range bm {
		if _, ok := am[k]; !ok {
			keys = append(keys, k)
		}
	}
	var out []string
	for _, k := range keys {
		switch p := path + "." + k; p {
		case ".status", ".metadata.resourceVersion", ".metadata.managedFields", ".metadata.generation":
		default:
			out = append(out, differences(p, am[k], bm[k])...)
		}
	}
	return out
}

// owned says whether dayfly's controller owns a field of the Service.
func owned(svc *corev1.Service) bool {
	return slices.ContainsFunc(svc.ManagedFields, func(m metav1.ManagedFieldsEntry) bool { return m.Manager == v1alpha1.FieldManager })
}

// giveBack returns the ownership of the restored targetPorts to the field managers that had it, and takes dayfly's own
// entry away: otherwise the next `kubectl apply --server-side` that changes the port would conflict with dayfly.
func (e *Engine) giveBack(ctx context.Context, s GiveBack) error {
	var before corev1.Service
	if err := json.Unmarshal(s.Alteration.Spec.Before.Raw, &before); err != nil {
		return fmt.Errorf("reading the before-image of %s: %w", s.Alteration.Name, err)
	}
	fields, err := mergeManagers(s.Service.ManagedFields, before.ManagedFields)
	if err != nil {
		return fmt.Errorf("reading who owns the fields of service %s: %w", s.Service.Name, err)
	}
	return client.IgnoreNotFound(e.patch(ctx, s.Service.DeepCopy(), []jsonOp{
		{"test", "/metadata/resourceVersion", s.Service.ResourceVersion},
		{"replace", "/metadata/managedFields", fields},
	}))
}

// mergeManagers returns live without dayfly's entries, with what dayfly owns given back to whoever owned it before.
func mergeManagers(live, before []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, error) {
	ours := fieldpath.NewSet()
	var out []metav1.ManagedFieldsEntry
	for _, m := range live {
		if m.Manager != v1alpha1.FieldManager {
			out = append(out, m)
			continue
		}
		set, err := fieldSet(m)
		if err != nil {
			return nil, err
		}
		ours = ours.Union(set)
	}
	for _, was := range before {
		had, err := fieldSet(was)
		if err != nil {
			return nil, err
		}
		back := had.Intersection(ours)
		if was.Manager == v1alpha1.FieldManager || back.Empty() {
			continue
		}
		if out, err = addFields(out, was, back); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// addFields adds paths to the entry of the same manager, or adds an entry if it has none any more.
func addFields(entries []metav1.ManagedFieldsEntry, was metav1.ManagedFieldsEntry, paths *fieldpath.Set) ([]metav1.ManagedFieldsEntry, error) {
	at := slices.IndexFunc(entries, func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == was.Manager && m.Operation == was.Operation && m.APIVersion == was.APIVersion && m.Subresource == was.Subresource
	})
	if at < 0 {
		at = len(entries)
		entries = append(entries, was)
		entries[at].FieldsV1 = nil
	}
	have, err := fieldSet(entries[at])
	if err != nil {
		return nil, err
	}
	raw, err := have.Union(paths).ToJSON()
	if err != nil {
		return nil, err
	}
	entries[at].FieldsV1 = &metav1.FieldsV1{Raw: raw}
	return entries, nil
}

func fieldSet(m metav1.ManagedFieldsEntry) (*fieldpath.Set, error) {
	s := fieldpath.NewSet()
	if m.FieldsV1 == nil {
		return s, nil
	}
	return s, s.FromJSON(bytes.NewReader(m.FieldsV1.Raw))
}

func targetPortPath(port Port) fieldpath.Path {
	key := value.FieldList{{Name: "port", Value: value.NewValueInterface(int64(port.Number))}, {Name: "protocol", Value: value.NewValueInterface(string(port.Protocol()))}}
	return fieldpath.MakePathOrDie("spec", "ports", &key, "targetPort")
}

// targetPortManager names the field manager that wrote a port's targetPort last, for people.
func targetPortManager(svc *corev1.Service, port Port) string {
	name := "somebody"
	var latest metav1.Time
	for _, m := range svc.ManagedFields {
		s, err := fieldSet(m)
		if err != nil || m.Manager == v1alpha1.FieldManager || !s.Has(targetPortPath(port)) {
			continue
		}
		if m.Time != nil && !m.Time.Before(&latest) {
			name, latest = m.Manager, *m.Time
		}
	}
	return name
}
