package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The kinds of source.
const (
	Kustomize = "kustomize"
	Helm      = "helm"
	Manifests = "manifests"
)

// Labels and annotations that a source's objects may carry.
const (
	// ComponentKey, a label or annotation, names the component that an object belongs to.
	ComponentKey = "dayfly.dev/component"
	// NeedsKey, an annotation of a workload, names the components that it needs, with commas between.
	NeedsKey = "dayfly.dev/needs"
)

// Shared is the name of the component of objects that belong to several components or to none. Every component needs it
// without saying so, and it needs none.
const Shared = ""

// Bounds of what is rendered.
const (
	maxObjects = 2000
	maxOutput  = 64 << 20 // bytes, as JSON
)

// Options say what to render of a folder, and how. The zero value of each means the source's own.
type Options struct {
	Kind string `json:"kind,omitempty"` // Kustomize, Helm, Manifests; "" finds out
	Path string `json:"path,omitempty"` // the subfolder to render, slash-separated; "" finds out

	Name      string `json:"name"`      // of the environment
	Namespace string `json:"namespace"` // that it is made in

	Parameters map[string]any    `json:"parameters,omitempty"` // JSON values
	Images     map[string]string `json:"images,omitempty"`     // by component, or by image name without tag: an image, or a tag or digest with its ":" or "@"
	Replicas   map[string]int32  `json:"replicas,omitempty"`   // by component
	Patches    []Patch           `json:"patches,omitempty"`
	Components []string          `json:"components,omitempty"` // these and all that they need; empty: all

	CronJobs bool `json:"cronJobs,omitempty"` // leaves CronJobs as they are; else they are suspended

	KubeVersion string   `json:"kubeVersion,omitempty"` // what charts are told of the cluster; "": v1.36.0
	APIVersions []string `json:"apiVersions,omitempty"` // likewise, such as "batch/v1" and "batch/v1/CronJob"; empty: the built-in ones
}

// Patch changes objects before anything else is done to them.
type Patch struct {
	// Patch is a strategic merge patch or a JSON patch (RFC 6902), as YAML or JSON.
	Patch string `json:"patch"`
	// Target says which objects; it may be left out of a strategic merge patch that names its object.
	Target *Target `json:"target,omitempty"`
}

// Target selects objects. Group, version, kind and name are anchored regular expressions; empty matches all.
type Target struct {
	Group         string `json:"group,omitempty"`
	Version       string `json:"version,omitempty"`
	Kind          string `json:"kind,omitempty"`
	Name          string `json:"name,omitempty"`
	LabelSelector string `json:"labelSelector,omitempty"`
}

// Rendered is what a source comes to.
type Rendered struct {
	Kind       string      `json:"kind"`       // of the source, as it was found out
	Path       string      `json:"path"`       // likewise; "." is the folder itself
	Components []Component `json:"components"` // by name; [Shared] comes first if there is one
	Warnings   []string    `json:"warnings,omitempty"`
}

// Component is a workload with what belongs to it.
type Component struct {
	Name    string                       `json:"name"`
	Objects []*unstructured.Unstructured `json:"objects"`          // in the order to apply them
	Needs   []string                     `json:"needs,omitempty"`  // names of components, sorted; free of cycles
	Said    bool                         `json:"said,omitempty"`   // the needs are declared; else they are inferred from configuration
	Health  *Health                      `json:"health,omitempty"` // as dayfly.yaml says; nil: it says nothing
	Data    string                       `json:"data,omitempty"`   // the class of what it keeps once its steps are done; "": dayfly.yaml says nothing
}

// Health is an HTTP request that a component answers with 2xx once it is ready.
type Health struct {
	Path string `json:"path"`           // with a query, if there is one; from /
	Port int32  `json:"port,omitempty"` // of its Service; 0: the first
}

// Digest identifies what was rendered: sha256:… of its components.
func (r *Rendered) Digest() string {
	data, err := json.Marshal(r.Components)
	if err != nil {
		panic(err) // objects are JSON values
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// object is one object and where it was read: a file, with a line if that is known.
type object struct {
	*unstructured.Unstructured
	from string
}

func (o object) String() string { return o.GetKind() + "/" + o.GetName() }

// Render makes the objects of an environment from a folder. It returns when ctx ends; a Helm template that loops goes on in
// the background until the process ends, so render what is not trusted with [RenderApart].
func Render(ctx context.Context, f Folder, o Options) (*Rendered, error) {
	type result struct {
		r   *Rendered
		err error
	}
	done := make(chan result, 1)
	go func() {
		r, err := render(ctx, f, o)
		done <- result{r, err}
	}()
	select {
	case got := <-done:
		return got.r, got.err
	case <-ctx.Done():
		return nil, apartWork.Late(ctx.Err())
	}
}

func render(ctx context.Context, f Folder, o Options) (out *Rendered, err error) {
	defer func() {
		if p := recover(); p != nil { // Kustomize and Helm were not made for what strangers write
			out, err = nil, usererr.New(usererr.Refused, "", "the source cannot be rendered: %v", p)
		}
	}()
	if o.Name == "" || o.Namespace == "" {
		return nil, fmt.Errorf("rendering a source: the environment's name and namespace are not given")
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	b, err := blueprint(f)
	if err != nil {
		return nil, err
	}
	r := &rendering{ctx: ctx, folder: f, o: o, blueprint: b}
	if err := r.find(); err != nil {
		return nil, err
	}
	if err := r.parameters(); err != nil {
		return nil, err
	}
	for _, step := range []func() error{r.objectsOf, r.bound, r.patch, r.bound, r.data, r.place, r.group, r.override, r.connect} {
		if err := step(); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return r.rendered()
}

// rendering is one call of Render, step by step.
type rendering struct {
	ctx       context.Context // of this call
	folder    Folder
	o         Options
	blueprint *Blueprint

	kind, path string         // as found
	values     map[string]any // parameters with their defaults; nil: nothing is to be replaced
	objects    []object
	own        string          // the namespace that they were made for; "": they named none
	steps      map[string]step // by the name of the Job
	components map[string]*component
	warnings   []string
}

func (r *rendering) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !slices.Contains(r.warnings, w) {
		r.warnings = append(r.warnings, w)
	}
}

func (r *rendering) objectsOf() error {
	switch r.kind {
	case Kustomize:
		return r.kustomize()
	case Helm:
		return r.helm()
	}
	return r.manifests()
}

// bound holds what was rendered to its bounds.
func (r *rendering) bound() error {
	if n := len(r.objects); n > maxObjects {
		return usererr.New(usererr.Refused, "divide it into several environments", "the source renders to %d objects, and %d are allowed", n, maxObjects)
	}
	if len(r.objects) == 0 {
		return usererr.New(usererr.Refused, "name the folder that holds the manifests, the kustomization or the chart", "the source renders to no object")
	}
	size := 0
	for _, o := range r.objects {
		data, err := o.MarshalJSON()
		if err != nil {
			return usererr.New(usererr.Refused, "", "%s: %s is no object", o.from, o).Because(err)
		}
		if size += len(data); size > maxOutput {
			return usererr.New(usererr.Refused, "divide it into several environments", "the source renders to more than %d MiB", maxOutput>>20)
		}
	}
	return nil
}

// find decides what to render: as told, as dayfly.yaml says, or what is there.
func (r *rendering) find() error {
	r.kind, r.path = r.o.Kind, r.o.Path
	if r.kind == "" {
		r.kind = r.blueprint.Spec.Kind
	}
	if r.path == "" {
		r.path = r.blueprint.Spec.Path
	}
	told := r.path != ""
	r.path = path.Clean("./" + r.path)
	if strings.HasPrefix(r.path, "..") || path.IsAbs(r.path) {
		return usererr.New(usererr.Usage, "", "the path %s leads out of the source", r.path)
	}
	switch r.kind {
	case "", Kustomize, Helm, Manifests:
	default:
		return usererr.New(usererr.Usage, "kinds are kustomize, helm and manifests", "there is no kind of source %q", r.kind)
	}
	if !r.folder.has(r.path) {
		return usererr.New(usererr.NotFound, "", "the source has no folder %s", r.path)
	}
	found := r.folder.kindAt(r.path)
	switch {
	case r.kind != "" && (told || r.kind == found):
	case found != "":
		if r.kind == "" {
			r.kind = found
		}
	default:
		return r.search(told)
	}
	if r.kind == Kustomize && r.folder.kustomization(r.path) == "" || r.kind == Helm && r.folder[path.Join(r.path, "Chart.yaml")] == nil {
		return usererr.New(usererr.NotFound, "", "%s is no %s source: it has no %s", r.path, r.kind, map[string]string{Kustomize: "kustomization.yaml", Helm: "Chart.yaml"}[r.kind])
	}
	return nil
}

// search finds the one subfolder that can be rendered, where the folder itself cannot. Manifests below a folder that was
// named are rendered all together.
func (r *rendering) search(told bool) error {
	candidates := map[string]string{}
	for name := range r.folder {
		below, ok := relative(r.path, path.Dir(name))
		if !ok || below == "." || strings.Count(below, "/") > 1 || hidden(below) {
			continue
		}
		if k := r.folder.kindAt(path.Dir(name)); k != "" && (r.kind == "" || k == r.kind) {
			candidates[path.Dir(name)] = k
		}
	}
	built := func(k string) bool { return k != Manifests }
	if slices.ContainsFunc(slices.Collect(maps.Values(candidates)), built) {
		maps.DeleteFunc(candidates, func(_, k string) bool { return !built(k) })
	} else if told && len(candidates) > 0 {
		r.kind = Manifests
		return nil
	}
	outer := slices.DeleteFunc(sortedKeys(candidates), func(dir string) bool { // a chart's own charts, a base below its overlay
		for up := path.Dir(dir); up != "."; up = path.Dir(up) {
			if candidates[up] != "" {
				return true
			}
		}
		return false
	})
	switch len(outer) {
	case 0:
		return usererr.New(usererr.NotFound, "a source is a kustomization, a Helm chart, or manifests in YAML or JSON", "nothing in %s can be rendered", shownPath(r.path))
	case 1:
		r.path, r.kind = outer[0], candidates[outer[0]]
		return nil
	}
	return usererr.New(usererr.Usage, "say which, as the path", "several folders in %s can be rendered: %s", shownPath(r.path), strings.Join(outer, ", "))
}

func shownPath(p string) string {
	if p == "." {
		return "the folder"
	}
	return p
}

// kindAt says what a subfolder is: "" if nothing that can be rendered.
func (f Folder) kindAt(dir string) string {
	if f[path.Join(dir, "Chart.yaml")] != nil {
		return Helm
	}
	if f.kustomization(dir) != "" {
		return Kustomize
	}
	for name, data := range f {
		if path.Dir(name) == dir && isYAML(name) && name != BlueprintFile && looksLikeObject(data) {
			return Manifests
		}
	}
	return ""
}

// kustomization finds a subfolder's kustomization file: "" if it has none.
func (f Folder) kustomization(dir string) string {
	for _, name := range []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} {
		if p := path.Join(dir, name); f[p] != nil {
			return p
		}
	}
	return ""
}

func isYAML(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(path.Ext(name)))
}

// hidden says whether a part of a path starts with a dot.
func hidden(name string) bool {
	return slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool { return strings.HasPrefix(part, ".") && part != "." })
}

func (r *rendering) rendered() (*Rendered, error) {
	out := &Rendered{Kind: r.kind, Path: r.path, Warnings: r.warnings}
	for _, name := range sortedKeys(r.components) {
		c := r.components[name]
		done := Component{Name: name, Needs: c.needs, Said: c.said, Health: r.blueprint.Spec.Components[name].Health, Data: r.blueprint.Spec.Components[name].Data.class()}
		inOrder(c.objects)
		for _, o := range c.objects {
			done.Objects = append(done.Objects, o.Unstructured)
		}
		out.Components = append(out.Components, done)
	}
	return out, nil
}
