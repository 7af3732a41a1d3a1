package source

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// override replaces images and replicas.
func (r *rendering) override() error {
	for _, key := range sortedKeys(r.o.Images) {
		if err := r.image(key, r.o.Images[key]); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(r.o.Replicas) {
		if err := r.replicas(name, r.o.Replicas[name]); err != nil {
			return err
		}
	}
	return nil
}

// image replaces an image: of one component, or everywhere.
func (r *rendering) image(key, with string) error {
	if with == "" || with == ":" || with == "@" {
		return usererr.New(usererr.Usage, "", "the image of %s is empty", key)
	}
	if c := r.components[key]; key != Shared && c != nil && len(c.workloads) > 0 {
		old, err := c.image()
		if err != nil {
			return err
		}
		for _, name := range r.names() {
			for _, w := range r.components[name].workloads {
				if name == key || w.isStep() && told(w.object) == key {
					w.replace(old, with)
				}
			}
		}
		return nil
	}
	found := false
	known := r.names()
	for _, name := range r.names() {
		for _, w := range r.components[name].workloads {
			for _, i := range w.images() {
				known = append(known, imageName(i))
			}
			found = w.replace(key, with) || found
		}
	}
	if !found {
		slices.Sort(known)
		return usererr.New(usererr.Usage, "", "there is no component or image %s%s", key, nearest(key, slices.Compact(known)))
	}
	return nil
}

// image is the name of the one that stands for a component: its only one, or that of the container with the component's name.
func (c *component) image() (string, error) {
	var names []string
	for _, w := range c.workloads {
		if w.isStep() {
			continue
		}
		for _, container := range w.pod.Containers {
			if container.Name == c.name {
				return imageName(container.Image), nil
			}
			if n := imageName(container.Image); !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	if len(names) != 1 {
		return "", usererr.New(usererr.Usage, "name the image instead of the component", "%s has several images: %s", c.name, strings.Join(names, ", "))
	}
	return names[0], nil
}

func (w *workload) images() (out []string) {
	for _, c := range slices.Concat(w.pod.InitContainers, w.pod.Containers) {
		out = append(out, c.Image)
	}
	return out
}

// replace gives containers with an image of this name another.
func (w *workload) replace(name, with string) bool {
	found := false
	for _, list := range []string{"initContainers", "containers"} {
		v, _, _ := unstructured.NestedFieldNoCopy(w.Object, append(slices.Clone(templateOf(w.object)), "spec", list)...)
		containers, _ := v.([]any)
		for _, c := range containers {
			m, _ := c.(map[string]any)
			old, ok := m["image"].(string)
			if !ok || short(imageName(old)) != short(name) {
				continue
			}
			found = true
			m["image"] = with
			if with[0] == ':' || with[0] == '@' {
				m["image"] = imageName(old) + with
			}
		}
	}
	return found
}

// imageName is an image without tag and digest.
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image = image[:i]
	}
	return image
}

// short is an image's name as people write it: docker.io/library/nginx is nginx.
func short(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
}

func (r *rendering) replicas(name string, n int32) error {
	c := r.components[name]
	if c == nil || name == Shared {
		return usererr.New(usererr.Usage, "", "there is no component %s%s", name, nearest(name, r.names()))
	}
	if n < 0 {
		return usererr.New(usererr.Usage, "", "%s cannot have %d replicas", name, n)
	}
	found := false
	for _, w := range c.workloads {
		_, has, _ := unstructured.NestedFieldNoCopy(w.Object, "spec", "replicas")
		if has || slices.Contains([]string{"Deployment", "StatefulSet", "ReplicaSet"}, w.GetKind()) {
			found = true
			if err := unstructured.SetNestedField(w.Object, int64(n), "spec", "replicas"); err != nil {
				return usererr.New(usererr.Refused, "", "%s: %s has no spec", w.from, w).Because(err)
			}
		}
	}
	if !found {
		return usererr.New(usererr.Usage, "", "%s is made of kinds that have no replicas", name)
	}
	for _, o := range c.objects {
		if o.GetKind() == "HorizontalPodAutoscaler" || o.GetKind() == "ScaledObject" {
			r.warn("%s decides on the replicas of %s", o, name)
		}
	}
	return nil
}

// patch has Kustomize patch the objects.
func (r *rendering) patch() error {
	if len(r.o.Patches) == 0 {
		return nil
	}
	if err := r.targets(); err != nil {
		return err
	}
	fsys := filesys.MakeFsInMemory()
	var all strings.Builder
	from := map[string]string{}
	for _, o := range r.objects {
		from[o.GroupVersionKind().GroupKind().String()+"/"+o.GetNamespace()+"/"+o.GetName()] = o.from
		data, err := yaml.Marshal(o.Object)
		if err != nil {
			return fmt.Errorf("%s: %w", o.from, err)
		}
		all.WriteString("---\n")
		all.Write(data)
	}
	kustomization, err := json.Marshal(map[string]any{"resources": []string{"all.yaml"}, "patches": r.o.Patches})
	if err != nil {
		return fmt.Errorf("writing the patches: %w", err)
	}
	for name, data := range map[string][]byte{"/all.yaml": []byte(all.String()), "/kustomization.yaml": kustomization} {
		if err := fsys.WriteFile(name, data); err != nil {
			return fmt.Errorf("patching: %w", err)
		}
	}
	m, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fsys, "/")
	if err != nil {
		return usererr.New(usererr.Refused, "", "the patches do not apply: %s", inSource(err))
	}
	r.objects, err = fromResMap(m, "a patch")
	for i, o := range r.objects {
		if f, ok := from[o.GroupVersionKind().GroupKind().String()+"/"+o.GetNamespace()+"/"+o.GetName()]; ok {
			r.objects[i].from = f
		}
	}
	return err
}

// targets refuses patches that no object would notice: Kustomize passes over them.
func (r *rendering) targets() error {
	for i, p := range r.o.Patches {
		if strings.TrimSpace(p.Patch) == "" {
			return usererr.New(usererr.Usage, "", "patch %d is empty", i+1)
		}
		if p.Target == nil {
			continue
		}
		var res []*regexp.Regexp
		for _, text := range []string{p.Target.Group, p.Target.Version, p.Target.Kind, p.Target.Name} {
			re, err := regexp.Compile("^(?:" + text + ")$")
			if err != nil {
				return usererr.New(usererr.Usage, "", "patch %d: its target", i+1).Because(err)
			}
			if text == "" {
				re = regexp.MustCompile("")
			}
			res = append(res, re)
		}
		sel, err := labels.Parse(p.Target.LabelSelector)
		if err != nil {
			return usererr.New(usererr.Usage, "", "patch %d: its target", i+1).Because(err)
		}
		if !slices.ContainsFunc(r.objects, func(o object) bool {
			gvk := o.GroupVersionKind()
			return res[0].MatchString(gvk.Group) && res[1].MatchString(gvk.Version) && res[2].MatchString(gvk.Kind) && res[3].MatchString(o.GetName()) && sel.Matches(labels.Set(o.GetLabels()))
		}) {
			return usererr.New(usererr.Usage, "", "patch %d changes nothing: no object is its target", i+1)
		}
	}
	return nil
}
