package environment

import (
	"encoding/json"
	"fmt"
	"slices"

	"dayfly.dev/dayfly/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// fieldsOf is a hash of the fields that are an environment's own in a live object; "" if that is not known. Whoever else gives
// one of them a value takes it over. How many replicas there are is left to whoever scales.
func fieldsOf(u *unstructured.Unstructured) string {
	for _, m := range u.GetManagedFields() {
		if m.Manager != v1alpha1.EnvironmentManager || m.Operation != metav1.ManagedFieldsOperationApply || m.FieldsV1 == nil {
			continue
		}
		var set map[string]any
		if json.Unmarshal(m.FieldsV1.Raw, &set) != nil {
			return ""
		}
		unstructured.RemoveNestedField(set, "f:spec", "f:replicas")
		return hash(set)
	}
	return ""
}

// drifted says whether somebody has changed by hand what was applied of an object. What an intercept alters is dayfly's own doing.
func drifted(o *Observed, k key) bool {
	live := o.Live[k]
	if live == nil || slices.ContainsFunc(live.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool { return m.Manager == v1alpha1.FieldManager }) {
		return false
	}
	i := slices.IndexFunc(o.Env.Status.Inventory, func(i v1alpha1.InventoryItem) bool { return itemKey(i) == k })
	return i >= 0 && o.Env.Status.Inventory[i].Fields != "" && o.Env.Status.Inventory[i].Fields != fieldsOf(live)
}

// changedBy says who changed an object last, besides its environment.
func changedBy(u *unstructured.Unstructured) string {
	who := "somebody"
	var last metav1.Time
	for _, m := range u.GetManagedFields() {
		if m.Manager != v1alpha1.EnvironmentManager && m.Subresource == "" && m.Time != nil && !m.Time.Before(&last) {
			who, last = m.Manager, *m.Time
		}
	}
	return clean(who)
}

// note remembers which fields of an object are the environment's own, once it is applied.
func (d *decision) note(k key) {
	for i := range d.st.Inventory {
		if item := &d.st.Inventory[i]; itemKey(*item) == k && item.Fields == "" && d.Live[k] != nil {
			item.Fields = fieldsOf(d.Live[k])
		}
	}
}

// healed says in a few words that what somebody changed is put back.
func healed(u *unstructured.Unstructured) string {
	return fmt.Sprintf("%s: what %s has changed is put back", keyOf(u), changedBy(u))
}
