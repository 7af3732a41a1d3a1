package source

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/mention"
	"dayfly.dev/dayfly/internal/usererr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// connect finds what needs what, and leaves out what nobody asked for.
func (r *rendering) connect() error {
	declared, err := r.declared()
	if err != nil {
		return err
	}
	inferred := r.inferred()
	all := map[string][]string{}
	for _, name := range r.names() {
		if needs, ok := declared[name]; ok {
			all[name] = needs
		} else {
			all[name] = inferred[name]
		}
	}
	if err := acyclic(declared); err != nil {
		return err
	}
	r.order(all, declared)
	return r.subset(all)
}

// declared is what dayfly.yaml says, else what annotations say.
func (r *rendering) declared() (map[string][]string, error) {
	out := map[string][]string{}
	names := r.names()
	known := func(where, name string) error {
		if slices.Contains(names, name) {
			return nil
		}
		return usererr.New(usererr.Refused, "", "%s names the component %s, which does not exist%s", where, name, nearest(name, names))
	}
	for _, c := range r.components {
		for _, w := range c.workloads {
			text, ok := w.GetAnnotations()[NeedsKey]
			if !ok {
				continue
			}
			out[c.name] = append(out[c.name], []string{}...)
			for _, n := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }) {
				if err := known(fmt.Sprintf("%s: %s's annotation %s", w.from, w, NeedsKey), n); err != nil {
					return nil, err
				}
				out[c.name] = append(out[c.name], n)
			}
			if out[c.name] == nil {
				out[c.name] = []string{}
			}
		}
	}
	for _, name := range sortedKeys(r.blueprint.Spec.Components) {
		if err := known(BlueprintFile, name); err != nil {
			return nil, err
		}
		if needs := r.blueprint.Spec.Components[name].Needs; needs != nil {
			for _, n := range *needs {
				if err := known(BlueprintFile, n); err != nil {
					return nil, err
				}
			}
			out[name] = slices.Clone(*needs)
		}
	}
	for name, needs := range out {
		slices.Sort(needs)
		out[name] = slices.Compact(needs)
	}
	return out, nil
}

// inferred are the components whose Services a component's configuration names, or whose clones it opens.
func (r *rendering) inferred() map[string][]string {
	services, owner := map[string]*corev1.Service{}, map[string]string{}
	configMaps, clones := map[string]*corev1.ConfigMap{}, map[string]string{}
	for _, c := range r.components {
		for _, o := range c.objects {
			switch o.GetKind() {
			case "Service":
				s := &corev1.Service{}
				if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, s) == nil {
					services[s.Name], owner[s.Name] = s, c.name
				}
			case "ConfigMap":
				m := &corev1.ConfigMap{}
				if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, m) == nil {
					configMaps[m.Name] = m
				}
			case "Secret":
				if CloneOf(o.Unstructured) != nil {
					clones[o.GetName()] = c.name
				}
			}
		}
	}
	out := map[string][]string{}
	for _, name := range r.names() {
		for _, w := range r.components[name].workloads {
			if w.isStep() { // it belongs to what it asks
				continue
			}
			for _, secret := range uses(&w.pod, "Secret") {
				if to := clones[secret]; to != "" && to != name {
					out[name] = append(out[name], to)
				}
			}
			for _, f := range mention.OfPod(&w.pod, func(n string) *corev1.ConfigMap { return configMaps[n] }) {
				away := ""
				s, _ := f.Resolve(r.o.Namespace, func(key types.NamespacedName) *corev1.Service {
					if key.Namespace == r.o.Namespace {
						return services[key.Name]
					}
					if key.Namespace == r.own && services[key.Name] != nil {
						away = key.Namespace
						return services[key.Name]
					}
					return nil
				})
				if s == nil {
					continue
				}
				if away != "" {
					r.warn("%s (%s) calls %s in the namespace %s, not the environment's own: leave the namespace out, or write ${%s}", w, f.Where, f.Host, away, namespaceParameter)
				}
				if to := owner[s.Name]; to != Shared && to != name {
					out[name] = append(out[name], to)
				}
			}
		}
		slices.Sort(out[name])
		out[name] = slices.Compact(out[name])
	}
	return out
}

// acyclic returns an error that shows a cycle, if there is one.
func acyclic(needs map[string][]string) error {
	for _, from := range sortedKeys(needs) {
		for _, to := range needs[from] {
			if found := way(needs, to, from); found != nil {
				return usererr.New(usererr.Refused, "leave out one of these needs", "components need each other: %s", strings.Join(append([]string{from}, found...), " needs "))
			}
		}
	}
	return nil
}

// way is the shortest way from one component to another, both included; nil if there is none.
func way(needs map[string][]string, from, to string) []string {
	before := map[string]string{from: from}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at == to {
			way := []string{at}
			for at != from {
				at = before[at]
				way = append(way, at)
			}
			slices.Reverse(way)
			return way
		}
		for _, n := range needs[at] {
			if _, ok := before[n]; !ok {
				before[n] = at
				queue = append(queue, n)
			}
		}
	}
	return nil
}

// order gives every component its needs, but for inferred ones that would close a cycle.
func (r *rendering) order(all, declared map[string][]string) {
	needs := map[string][]string{}
	maps.Copy(needs, declared)
	for _, from := range sortedKeys(all) {
		if _, ok := declared[from]; ok {
			continue
		}
		for _, to := range all[from] {
			if found := way(needs, to, from); found != nil {
				r.warn("%s: %s is started without waiting for %s (say what needs what with %s)", strings.Join(append([]string{from}, found...), " calls "), from, to, NeedsKey)
				continue
			}
			needs[from] = append(needs[from], to)
		}
	}
	for name, c := range r.components {
		c.needs = needs[name]
		_, c.said = declared[name]
	}
}

// subset leaves out the components that neither are asked for nor needed by one that is.
func (r *rendering) subset(all map[string][]string) error {
	if len(r.o.Components) == 0 {
		return nil
	}
	kept := map[string]bool{Shared: true}
	var keep func(name string)
	keep = func(name string) {
		if kept[name] {
			return
		}
		kept[name] = true
		for _, n := range all[name] {
			keep(n)
		}
	}
	for _, name := range r.o.Components {
		if name == Shared || r.components[name] == nil {
			return usererr.New(usererr.Usage, "", "there is no component %s%s", name, nearest(name, r.names()))
		}
		keep(name)
	}
	maps.DeleteFunc(r.components, func(name string, _ *component) bool { return !kept[name] })
	return nil
}
