package environment

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Trace is what of a live object tells whether it is still what was applied. It needs the object's metadata only.
func Trace(o metav1.Object) string {
	return fmt.Sprint(fieldsOf(o), " ", o.GetAnnotations()[annotationHash], " ", o.GetDeletionTimestamp() != nil)
}

// fieldsOf is a hash of the fields that are an environment's own in a live object; "" if that is not known. Whoever else gives
// one of them a value takes it over. How many replicas there are is left to whoever scales.
func fieldsOf(o metav1.Object) string {
	for _, m := range o.GetManagedFields() {
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

// Healing is an object that somebody has changed and that is put back.
type Healing struct {
	object key
	Says   string
}

// putBackAgain is how long an object that was put back is left as somebody changes it once more: whoever does so each time is no
// reason for a loop.
const putBackAgain = 10 * time.Second

// heal has what somebody changed of an object put back, unless that was done a moment ago.
func (d *decision) heal(u *unstructured.Unstructured) bool {
	k := keyOf(u)
	if at, ok := d.PutBack[k]; ok && d.Now.Sub(at) < putBackAgain {
		return false
	}
	d.healed = append(d.healed, Healing{k, fmt.Sprintf("%s: what %s has changed is put back", k, changedBy(u))})
	return true
}
