package source

import (
	"maps"
	"slices"

	"dayfly.dev/dayfly/internal/mention"
	"dayfly.dev/dayfly/internal/usererr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
)

// component is one while it is put together.
type component struct {
	name      string
	objects   []object
	workloads []*workload
	needs     []string
	said      bool // the needs are declared
}

// workload is an object that runs pods.
type workload struct {
	object
	component string
	pod       corev1.PodSpec
	labels    labels.Set // of its pods
}

// templateOf finds where a workload has the template of its pods: nil if it is no workload.
func templateOf(o object) []string {
	switch o.GetKind() {
	case "Pod":
		return []string{}
	case "CronJob":
		return []string{"spec", "jobTemplate", "spec", "template"}
	case "PodTemplate":
		return nil
	}
	t := []string{"spec", "template"}
	if _, ok, _ := unstructured.NestedSlice(o.Object, append(slices.Clone(t), "spec", "containers")...); ok {
		return t
	}
	return nil
}

// workloadOf reads a workload; nil if the object is none.
func workloadOf(o object) (*workload, error) {
	at := templateOf(o)
	if at == nil {
		return nil, nil
	}
	template := o.Object
	if len(at) > 0 {
		template, _, _ = unstructured.NestedMap(o.Object, at...)
	}
	var t corev1.PodTemplateSpec
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{"metadata": template["metadata"], "spec": template["spec"]}, &t); err != nil {
		if _, known := Scope(o.GroupVersionKind()); !known {
			return nil, nil // a kind of its own that only looks like one
		}
		return nil, usererr.New(usererr.Refused, "", "%s: the pods of %s are not described as Kubernetes has it", o.from, o).Because(err)
	}
	return &workload{object: o, component: named(o), pod: t.Spec, labels: t.Labels}, nil
}

// named is the component that an object says it belongs to; a workload's is its own name if it says none.
func named(o object) string {
	if n := told(o); n != "" {
		return n
	}
	return o.GetName()
}

func told(o object) string {
	if n := o.GetLabels()[ComponentKey]; n != "" {
		return n
	}
	return o.GetAnnotations()[ComponentKey]
}

// group tells the objects apart by component.
func (r *rendering) group() error {
	r.components = map[string]*component{}
	var workloads []*workload
	for _, o := range r.objects {
		w, err := workloadOf(o)
		if err != nil {
			return err
		}
		if w != nil {
			workloads = append(workloads, w)
			if s, ok := r.steps[w.GetName()]; ok && w.isStep() {
				w.component = s.component
			}
			c := r.component(w.component)
			c.workloads = append(c.workloads, w)
			c.objects = append(c.objects, o)
		}
	}
	own := ownership{workloads: workloads, service: map[string]string{}, account: map[string][]string{}, role: map[string][]string{}}
	for _, w := range workloads {
		name := w.pod.ServiceAccountName
		own.account[name] = append(own.account[name], w.component)
	}
	// Services come first, since routes lead to them, and bindings before the roles that they bind.
	rest := map[int][]object{}
	for _, o := range r.objects {
		if templateOf(o) == nil {
			phase := map[string]int{"Service": 0, "RoleBinding": 1}
			p, ok := phase[o.GetKind()]
			if !ok {
				p = 2
			}
			rest[p] = append(rest[p], o)
		} else if !slices.ContainsFunc(workloads, func(w *workload) bool { return w.Unstructured == o.Unstructured }) {
			rest[2] = append(rest[2], o)
		}
	}
	for p := range 3 {
		for _, o := range rest[p] {
			c := r.component(r.belongs(&own, o))
			c.objects = append(c.objects, o)
		}
	}
	return nil
}

func (r *rendering) component(name string) *component {
	c := r.components[name]
	if c == nil {
		c = &component{name: name}
		r.components[name] = c
	}
	return c
}

// belongs decides on an object that is no workload.
func (r *rendering) belongs(own *ownership, o object) string {
	name := told(o)
	if name == "" {
		owners := own.of(o)
		slices.Sort(owners)
		owners = slices.Compact(owners)
		c := r.components[o.GetName()]
		switch {
		case len(owners) == 1:
			name = owners[0]
		case len(owners) == 0 && c != nil && len(c.workloads) > 0:
			name = c.name // nothing refers to it, but it is called the same
		default:
			name = Shared
		}
	}
	own.note(o, name)
	return name
}

// ownership knows what refers to what.
type ownership struct {
	workloads []*workload
	service   map[string]string   // a Service's component
	account   map[string][]string // the components that run as a ServiceAccount
	role      map[string][]string // the components that a Role is bound to
}

func (own *ownership) note(o object, component string) {
	switch o.GetKind() {
	case "Service":
		own.service[o.GetName()] = component
	case "RoleBinding":
		name, _, _ := unstructured.NestedString(o.Object, "roleRef", "name")
		own.role[name] = append(own.role[name], component)
	}
}

// of names the components that an object serves, with repeats.
func (own *ownership) of(o object) []string {
	switch o.GetKind() {
	case "Service":
		sel, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector")
		if len(sel) == 0 {
			return nil
		}
		return own.selected(labels.SelectorFromSet(sel))
	case "PodDisruptionBudget":
		return own.selected(selectorAt(o, "spec", "selector"))
	case "NetworkPolicy":
		return own.selected(selectorAt(o, "spec", "podSelector"))
	case "ServiceAccount":
		return own.account[o.GetName()]
	case "Role":
		return own.role[o.GetName()]
	case "RoleBinding":
		return own.bound(o)
	case "ConfigMap", "Secret", "PersistentVolumeClaim":
		return own.using(o.GetKind(), o.GetName())
	case "Ingress", "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "IngressRoute", "VirtualService":
		return own.behind(o.Object["spec"])
	}
	for _, field := range []string{"scaleTargetRef", "targetRef"} { // HorizontalPodAutoscaler, ScaledObject, VerticalPodAutoscaler
		kind, _, _ := unstructured.NestedString(o.Object, "spec", field, "kind")
		name, ok, _ := unstructured.NestedString(o.Object, "spec", field, "name")
		if !ok {
			continue
		}
		for _, w := range own.workloads {
			if w.GetName() == name && (kind == "" || kind == w.GetKind()) {
				return []string{w.component}
			}
		}
	}
	return nil
}

func (own *ownership) selected(s labels.Selector) (out []string) {
	for _, w := range own.workloads {
		if s.Matches(w.labels) {
			out = append(out, w.component)
		}
	}
	return out
}

func selectorAt(o object, fields ...string) labels.Selector {
	m, ok, _ := unstructured.NestedMap(o.Object, fields...)
	var ls metav1.LabelSelector
	if !ok || runtime.DefaultUnstructuredConverter.FromUnstructured(m, &ls) != nil {
		return labels.Nothing()
	}
	s, err := metav1.LabelSelectorAsSelector(&ls)
	if err != nil {
		return labels.Nothing()
	}
	return s
}

func (own *ownership) bound(o object) (out []string) {
	subjects, _, _ := unstructured.NestedSlice(o.Object, "subjects")
	for _, s := range subjects {
		m, _ := s.(map[string]any)
		if name, _ := m["name"].(string); m["kind"] == "ServiceAccount" {
			out = append(out, own.account[name]...)
		}
	}
	return out
}

// behind finds the Services that a route of any kind names: as {service: {name}}, {serviceName}, {name} in backends, or {host}.
func (own *ownership) behind(v any) (out []string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			out = append(out, own.behind(e)...)
		}
	case map[string]any:
		for k, e := range v {
			s, ok := e.(string)
			if !ok {
				out = append(out, own.behind(e)...)
				continue
			}
			if c, ok := own.service[s]; ok && (k == "name" || k == "serviceName" || k == "host") {
				out = append(out, c)
			}
		}
	}
	return out
}

func (own *ownership) using(kind, name string) (out []string) {
	for _, w := range own.workloads {
		if slices.Contains(uses(&w.pod, kind), name) {
			out = append(out, w.component)
		}
	}
	return out
}

// uses names the objects of a kind that a pod refers to, with repeats.
func uses(p *corev1.PodSpec, kind string) []string {
	switch kind {
	case "ConfigMap":
		return mention.ConfigMaps(p)
	case "PersistentVolumeClaim":
		var out []string
		for _, v := range p.Volumes {
			if v.PersistentVolumeClaim != nil {
				out = append(out, v.PersistentVolumeClaim.ClaimName)
			}
		}
		return out
	}
	var out []string
	for _, s := range p.ImagePullSecrets {
		out = append(out, s.Name)
	}
	for _, v := range p.Volumes {
		if v.Secret != nil {
			out = append(out, v.Secret.SecretName)
		}
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.Secret != nil {
					out = append(out, s.Secret.Name)
				}
			}
		}
	}
	for _, c := range slices.Concat(p.InitContainers, p.Containers) {
		for _, f := range c.EnvFrom {
			if f.SecretRef != nil {
				out = append(out, f.SecretRef.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				out = append(out, e.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	return out
}

// names are the components' that workloads make.
func (r *rendering) names() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(r.components)), func(n string) bool { return n == Shared })
}
