package source

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"helm.sh/helm/v4/pkg/ignore"
)

// helm renders the chart as helm template does: dependencies must be in charts/, lookup finds nothing, and hooks are left out.
func (r *rendering) helm() error {
	caps, err := r.capabilities()
	if err != nil {
		return err
	}
	first, err := r.template(caps)
	if err != nil {
		return err
	}
	again, err := r.template(caps) // loaded anew: rendering changes a chart
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(first) {
		kept, err := r.takeRendered(name, first[name])
		if err != nil {
			return err
		}
		if kept && first[name] != again[name] {
			r.warn("%s renders differently each time (a random number, a certificate or the time), so every update changes it: set its value", name)
		}
	}
	return nil
}

// takeRendered takes the objects of one rendered template, and says whether there are any.
func (r *rendering) takeRendered(name, text string) (kept bool, err error) {
	if base := path.Base(name); base == "NOTES.txt" || strings.HasPrefix(base, "_") || strings.TrimSpace(text) == "" {
		return false, nil
	}
	objects, err := parse(name+" (as rendered)", []byte(text))
	if err != nil {
		return false, err
	}
	for _, o := range objects {
		o.from = name
		switch hook := o.GetAnnotations()["helm.sh/hook"]; {
		case hook == "":
			r.objects = append(r.objects, o)
			kept = true
		case !strings.HasPrefix(hook, "test"):
			r.warn("%s (%s) is left out: Helm runs it on %s, and an environment has no such moments", o, name, hook)
		}
	}
	return kept, nil
}

// template loads the chart and renders its templates, by path.
func (r *rendering) template(caps *common.Capabilities) (map[string]string, error) {
	c, err := r.chart()
	if err != nil {
		return nil, err
	}
	if want := c.Metadata.KubeVersion; want != "" && !chartutil.IsCompatibleRange(want, caps.KubeVersion.String()) {
		return nil, usererr.New(usererr.Refused, "", "the chart %s is for Kubernetes %s, and the cluster has %s", c.Name(), want, caps.KubeVersion.Version)
	}
	values, _ := plain(r.values).(map[string]any)
	if values == nil {
		values = map[string]any{}
	}
	if err := r.knownValues(c, values); err != nil {
		return nil, err
	}
	refuse := func(err error) error {
		return usererr.New(usererr.Refused, "helm template says the same", "the chart %s cannot be rendered: %s", c.Name(), strings.Join(strings.Fields(err.Error()), " "))
	}
	if err := chartutil.ProcessDependencies(c, values); err != nil {
		return nil, refuse(err)
	}
	// The release's name is the chart's, so that names are the same in every environment: each has a namespace of its own.
	release := common.ReleaseOptions{Name: c.Name(), Namespace: r.o.Namespace, Revision: 1, IsInstall: true}
	all, err := util.ToRenderValuesWithSchemaValidation(c, values, release, caps, true)
	if err != nil {
		return nil, refuse(err)
	}
	if err := r.validValues(c, all["Values"]); err != nil {
		return nil, err
	}
	if n := len(c.CRDObjects()); n > 0 {
		r.warn("the chart's crds/ (%d files) are left out: an administrator installs kinds once, for all environments", n)
	}
	out, err := engine.Engine{}.RenderWithContext(r.ctx, c, all)
	if err != nil {
		return nil, refuse(err)
	}
	size := 0
	for _, text := range out {
		if size += len(text); size > maxOutput {
			return nil, usererr.New(usererr.Refused, "", "the chart %s renders to more than %d MiB", c.Name(), maxOutput>>20)
		}
	}
	return out, nil
}

// chart loads the chart without what its .helmignore lists.
func (r *rendering) chart() (*chart.Chart, error) {
	rules := ignore.Empty()
	if data, ok := r.folder[path.Join(r.path, ignore.HelmIgnore)]; ok {
		var err error
		if rules, err = ignore.Parse(bytes.NewReader(data)); err != nil {
			return nil, usererr.New(usererr.Refused, "", "%s cannot be read", path.Join(r.path, ignore.HelmIgnore)).Because(err)
		}
	}
	rules.AddDefaults()
	var files []*archive.BufferedFile
	for _, name := range sortedKeys(r.folder) {
		below, ok := relative(r.path, name)
		if !ok || ignored(rules, below) {
			continue
		}
		files = append(files, &archive.BufferedFile{Name: below, Data: bytes.TrimPrefix(bytes.Clone(r.folder[name]), []byte("\ufeff"))})
	}
	c, err := loader.LoadFiles(files)
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return nil, usererr.New(usererr.Refused, "", "the chart in %s cannot be loaded", r.path).Because(err)
	}
	if c.Metadata.Type == "library" {
		return nil, usererr.New(usererr.Refused, "", "the chart %s is a library: it makes no objects", c.Name())
	}
	for _, d := range c.Metadata.Dependencies {
		if !slices.ContainsFunc(c.Dependencies(), func(have *chart.Chart) bool { return have.Name() == d.Name }) {
			return nil, usererr.New(usererr.Refused, "helm dependency build puts it there: dayfly fetches nothing", "the chart %s needs the chart %s, which is not in its charts/", c.Name(), d.Name)
		}
	}
	return c, nil
}

func ignored(rules *ignore.Rules, name string) bool {
	for at := name; at != "."; at = path.Dir(at) {
		if rules.Ignore(at, entry{path.Base(at), at != name}) {
			return true
		}
	}
	return false
}

// entry is a file or folder as Helm's rules ask of it.
type entry struct {
	name string
	dir  bool
}

func (e entry) Name() string     { return e.name }
func (entry) Size() int64        { return 0 }
func (entry) ModTime() time.Time { return time.Time{} }
func (e entry) IsDir() bool      { return e.dir }
func (entry) Sys() any           { return nil }
func (e entry) Mode() fs.FileMode {
	if e.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

func (r *rendering) capabilities() (*common.Capabilities, error) {
	caps := common.DefaultCapabilities.Copy()
	v, err := common.ParseKubeVersion(cmp.Or(r.o.KubeVersion, "v1.36.0"))
	if err != nil {
		return nil, fmt.Errorf("reading the version of Kubernetes %q: %w", r.o.KubeVersion, err)
	}
	caps.KubeVersion = *v
	if len(r.o.APIVersions) > 0 {
		caps.APIVersions = r.o.APIVersions
	}
	return caps, nil
}

var valuesName = regexp.MustCompile(`\.Values\.([A-Za-z_][A-Za-z0-9_]*)`)

// knownValues refuses a parameter that the chart has no use for, which is a slip of the pen. Only the first level is looked at.
func (r *rendering) knownValues(c *chart.Chart, values map[string]any) error {
	known := map[string]bool{"global": true, "tags": true}
	for name := range c.Values {
		known[name] = true
	}
	var schema struct{ Properties map[string]any }
	if len(c.Schema) > 0 {
		if v, err := jsonschema.UnmarshalJSON(bytes.NewReader(c.Schema)); err == nil {
			m, _ := v.(map[string]any)
			schema.Properties, _ = m["properties"].(map[string]any)
		}
	}
	for name := range schema.Properties {
		known[name] = true
	}
	for _, d := range c.Metadata.Dependencies {
		known[cmp.Or(d.Alias, d.Name)] = true
		for condition := range strings.SplitSeq(d.Condition, ",") {
			first, _, _ := strings.Cut(strings.TrimSpace(condition), ".")
			known[first] = true
		}
	}
	for _, d := range c.Dependencies() {
		known[d.Name()] = true
	}
	for _, t := range c.Templates {
		for _, m := range valuesName.FindAllSubmatch(t.Data, -1) {
			known[string(m[1])] = true
		}
	}
	delete(known, "")
	for _, name := range sortedKeys(values) {
		if !known[name] {
			return usererr.New(usererr.Usage, "", "the chart %s has no value %s%s", c.Name(), name, nearest(name, slices.Sorted(maps.Keys(known))))
		}
	}
	return nil
}

// validValues checks a chart's values, and those of the charts in it, against their schemas.
func (r *rendering) validValues(c *chart.Chart, values any) error {
	m, _ := values.(map[string]any)
	if v, ok := values.(common.Values); ok {
		m = v
	}
	if len(c.Schema) > 0 {
		if err := r.validChart(c, m); err != nil {
			return err
		}
	}
	for _, d := range c.Dependencies() {
		if v, ok := m[d.Name()]; ok && v != nil {
			if err := r.validValues(d, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *rendering) validChart(c *chart.Chart, values map[string]any) error {
	compiled, err := compile(c.Schema)
	if err != nil {
		if errors.Is(err, errNotInSource) {
			r.warn("the values of the chart %s are not checked: its schema refers to another", c.Name())
			return nil
		}
		return usererr.New(usererr.Refused, "", "the chart %s has a values.schema.json that is no schema", c.Name()).Because(err)
	}
	v, err := jsonValue(values)
	if err != nil {
		return fmt.Errorf("reading the values of the chart %s: %w", c.Name(), err)
	}
	if err := compiled.Validate(v); err != nil {
		return explain(err, "the value ")
	}
	return nil
}
