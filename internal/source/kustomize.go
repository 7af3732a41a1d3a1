package source

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// kustomize builds the kustomization in memory. Kustomize would clone repositories, fetch URLs and start programs: what asks
// for it is refused before.
func (r *rendering) kustomize() error {
	w := &kustomizations{r: r, seen: map[string]bool{}, been: map[[2]string]bool{}, files: map[string][]byte{}, places: map[string][]string{}}
	if err := w.visit(r.path); err != nil {
		return err
	}
	if err := w.again(); err != nil {
		return err
	}
	fsys := filesys.MakeFsInMemory()
	for _, name := range sortedKeys(r.folder) {
		data, ok := w.files[name]
		if !ok {
			data = r.folder[name]
		}
		if err := fsys.WriteFile("/"+name, data); err != nil {
			return fmt.Errorf("rendering %s: %w", name, err)
		}
	}
	m, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(fsys, path.Join("/", r.path))
	if err != nil {
		return usererr.New(usererr.Refused, "kustomize build says the same", "%s cannot be built: %s%s", r.folder.kustomization(r.path), inSource(err), w.both(err))
	}
	r.objects, err = fromResMap(m, r.folder.kustomization(r.path))
	return err
}

// inSource is Kustomize's error with paths as the source has them.
func inSource(err error) string {
	return strings.NewReplacer("'/", "'", "\"/", "\"", " /", " ").Replace(err.Error())
}

func fromResMap(m resmap.ResMap, from string) ([]object, error) {
	var out []object
	for _, res := range m.Resources() {
		js, err := res.MarshalJSON()
		if err != nil {
			return nil, usererr.New(usererr.Refused, "look for keys that are no texts, such as numbers: write them in quotes", "%s makes an object that JSON cannot hold", from).Because(err)
		}
		objects, err := decode(js, from)
		if err != nil {
			return nil, err
		}
		out = append(out, objects...)
	}
	return out, nil
}

// kustomizations walks the kustomizations that one reaches.
type kustomizations struct {
	r      *rendering
	seen   map[string]bool
	been   map[[2]string]bool  // files of configuration that were read, with the folder that they speak of
	files  map[string][]byte   // what they read, with parameters
	places map[string][]string // where an object's kind and name stand, for messages

	looked int // values, to bound them: aliases can make them without end

	configured bool // a kustomization makes generators or transformers: any file may be configuration
	urlsOnly   bool // looks for URLs and repositories, not for files that are missing
}

// mostValues are in the kustomizations of one folder, and how far their aliases lead.
const mostValues, deepest = 500_000, 1_000

// holding are the fields whose texts name files, folders or other sources: of kustomizations, and of what configures
// generators and transformers.
var holding = []string{
	"resources", "bases", "components", "crds", "configurations", "generators", "transformers", "validators", "patchesStrategicMerge",
	"openapi.path", "patches.path", "patchesJson6902.path", "replacements.path",
	"configMapGenerator.files", "configMapGenerator.envs", "configMapGenerator.env",
	"secretGenerator.files", "secretGenerator.envs", "secretGenerator.env",
	"files", "envs", "env", "path", "paths",
}

// configuring are the fields whose files configure generators and transformers.
var configuring = []string{"generators", "transformers", "validators"}

// programs are the fields that have Kustomize start a program.
var programs = []string{"helmCharts", "helmGlobals", "helmChartInflationGenerator"}

// elsewhere is what Kustomize takes for a URL or a repository.
var elsewhere = regexp.MustCompile(`(?i)^(git::)?([a-z][a-z0-9+.-]*:|[a-z][a-z0-9-]*@|github\.com[/:])`)

// among compares as Kustomize does: any case will do.
func among(fields []string, field string) bool {
	return slices.ContainsFunc(fields, func(f string) bool { return strings.EqualFold(f, field) })
}

// visit reads a folder's kustomization and what it names.
func (w *kustomizations) visit(dir string) error {
	name := w.r.folder.kustomization(dir)
	if w.seen[name] {
		return nil // Kustomize finds cycles itself
	}
	w.seen[name] = true
	return w.read(name, dir)
}

// read reads a file of configuration: a kustomization, or a generator or transformer that one names.
func (w *kustomizations) read(name, dir string) error {
	if at := [2]string{name, dir}; !w.urlsOnly {
		if w.been[at] {
			return nil // such as one that names itself
		}
		w.been[at] = true
	}
	data, err := w.take(name)
	if err != nil {
		return err
	}
	docs, err := nodes(data)
	if err != nil {
		return invalid(name, document{line: 1}, err)
	}
	for _, doc := range docs {
		if err := w.node(doc, name, dir, ""); err != nil {
			return err
		}
	}
	return nil
}

// take reads a file with its parameters, once.
func (w *kustomizations) take(name string) ([]byte, error) {
	if data, ok := w.files[name]; ok {
		return data, nil
	}
	data, err := w.r.substitute(name)
	if err == nil {
		w.files[name] = data
	}
	return data, err
}

// node looks at one value of a kustomization; field is the keys that it stands under, with dots between.
func (w *kustomizations) node(n *yaml.Node, name, dir, field string) error {
	if w.looked++; w.looked > mostValues || strings.Count(field, ".") > deepest {
		return usererr.New(usererr.Refused, "write out what its aliases (*name) stand for", "%s:%d: its aliases make more of it than can be looked at", name, n.Line)
	}
	switch n.Kind {
	case yaml.AliasNode:
		return w.node(n.Alias, name, dir, field)
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if field == "" && among(programs, key) {
				return usererr.New(usererr.Refused, "make the chart a source of its own, or render it into the folder", "%s:%d asks for %s, which would start Helm", name, n.Content[i].Line, key)
			}
			below := strings.TrimPrefix(field+"."+key, ".")
			if key == "<<" {
				below = field
			}
			if err := w.node(n.Content[i+1], name, dir, below); err != nil {
				return err
			}
		}
		return nil
	case yaml.ScalarNode:
		if among(holding, field) {
			return w.named(n, name, dir, field)
		}
		return nil
	}
	for _, c := range n.Content {
		if err := w.node(c, name, dir, field); err != nil {
			return err
		}
	}
	return nil
}

// named looks at a text that names a file or folder.
func (w *kustomizations) named(n *yaml.Node, name, dir, field string) error {
	text := n.Value
	inline := strings.Contains(text, "\n")
	if inline || text == "" {
		if among(configuring, field) {
			return w.inline(text, n, name, dir)
		}
		return nil
	}
	if data(field) {
		if _, file, ok := strings.Cut(text, "="); ok {
			text = file
		}
	}
	if elsewhere.MatchString(text) {
		return usererr.New(usererr.Refused, "copy it into the folder: dayfly renders what the source holds, and fetches nothing",
			"%s:%d names %s under %s, which is not in the source", name, n.Line, text, field)
	}
	if w.urlsOnly {
		return nil
	}
	p, ok := inFolder(dir, text)
	if !ok {
		return usererr.New(usererr.Refused, "give the folder that holds all of it, and the path in it", "%s:%d names %s under %s, which leads out of the source", name, n.Line, text, field)
	}
	switch _, file := w.r.folder[p]; {
	case file:
		return w.file(p, dir, field)
	case w.r.folder.kustomization(p) != "":
		if among(configuring, field) {
			w.configured = true
		}
		return w.visit(p)
	case w.r.folder.has(p) && p != ".":
		return usererr.New(usererr.Refused, "", "%s:%d names the folder %s under %s, which has no kustomization.yaml", name, n.Line, text, field)
	case strings.EqualFold(field, "patchesStrategicMerge"):
		return nil // a patch of one line
	}
	return usererr.New(usererr.NotFound, "", "%s:%d names %s under %s, which does not exist", name, n.Line, text, field)
}

// again looks at all files that were read, if any may be configuration.
func (w *kustomizations) again() error {
	w.urlsOnly = true
	for _, file := range sortedKeys(w.files) {
		if w.configured {
			if err := w.read(file, path.Dir(file)); err != nil {
				return err
			}
		}
	}
	return nil
}

// data says whether a field's files are carried as they are.
func data(field string) bool {
	field = strings.ToLower(field)
	return strings.HasSuffix(field, "files") || strings.HasSuffix(field, "envs") || strings.HasSuffix(field, "env")
}

// file takes a file that a kustomization names.
func (w *kustomizations) file(p, dir, field string) error {
	switch {
	case data(field):
		return nil
	case among(configuring, field):
		return w.read(p, dir)
	}
	text, err := w.take(p)
	if err != nil || !strings.EqualFold(field, "resources") {
		return err
	}
	objects, err := parse(p, text) // for a message with the line
	for _, o := range objects {
		w.places[o.GetKind()+" "+o.GetName()] = append(w.places[o.GetKind()+" "+o.GetName()], o.from)
	}
	return err
}

// inline looks at configuration that stands in the kustomization itself.
func (w *kustomizations) inline(text string, n *yaml.Node, name, dir string) error {
	docs, err := nodes([]byte(text))
	if err != nil {
		return invalid(name, document{line: n.Line}, err)
	}
	for _, doc := range docs {
		if err := w.node(doc, name, dir, ""); err != nil {
			return err
		}
	}
	return nil
}

var twice = regexp.MustCompile(`already registered id: ([A-Za-z0-9]+)(?:\.[^/\s]*)?/([^.\s]+)`)

// both adds to Kustomize's message on a duplicate the two places.
func (w *kustomizations) both(err error) string {
	m := twice.FindStringSubmatch(err.Error())
	if m == nil {
		return ""
	}
	if places := w.places[m[1]+" "+m[2]]; len(places) > 1 {
		return " (" + strings.Join(places, " and ") + ")"
	}
	return ""
}
