package source

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// manifests reads every YAML and JSON file of the path, but for hidden ones.
func (r *rendering) manifests() error {
	for _, name := range sortedKeys(r.folder) {
		below, ok := relative(r.path, name)
		if !ok || !isYAML(name) || hidden(below) || name == BlueprintFile {
			continue
		}
		data, err := r.substitute(name)
		if err != nil {
			return err
		}
		objects, err := parse(name, data)
		if err != nil {
			return err
		}
		r.objects = append(r.objects, objects...)
		if err := r.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// relative is a file's path from a folder that holds it.
func relative(dir, name string) (string, bool) {
	if dir == "." {
		return name, true
	}
	return strings.CutPrefix(name, dir+"/")
}

// document is one YAML document of a file.
type document struct {
	line   int // of the file, where its text starts; from 1
	text   []byte
	marked bool // a line of "---" starts it; three spaces stand for that
}

// documents divides a file at its lines of "---" and "...".
func documents(data []byte) []document {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	var out []document
	cur := document{line: 1}
	n := 0
	end := func(next int) {
		if len(bytes.TrimSpace(cur.text)) > 0 {
			out = append(out, cur)
		}
		cur = document{line: next}
	}
	for line := range bytes.Lines(data) {
		n++
		rest, starts := bytes.CutPrefix(line, []byte("---"))
		switch {
		case starts && (len(rest) == 0 || bytes.ContainsAny(rest[:1], " \t\r\n")):
			end(n)
			cur.marked = true
			cur.text = append(cur.text, "   "...) // what stands behind the marker belongs to the document, in its column
			cur.text = append(cur.text, rest...)
		case bytes.HasPrefix(line, []byte("...")) && len(bytes.TrimSpace(line)) == 3:
			end(n + 1)
		case bytes.HasPrefix(line, []byte("%")) && len(bytes.TrimSpace(cur.text)) == 0:
			cur.text = append(cur.text, '\n') // a directive; its line counts
		default:
			cur.text = append(cur.text, line...)
		}
	}
	end(n)
	return out
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

// invalid says where in a file a document is no YAML.
func invalid(name string, d document, err error) error {
	line, problem := d.line, strings.TrimPrefix(strings.TrimPrefix(err.Error(), "error converting YAML to JSON: "), "yaml: ")
	if m := yamlLine.FindStringSubmatchIndex(problem); m != nil {
		n, _ := strconv.Atoi(problem[m[2]:m[3]])
		line += max(n, 1) - 1
		problem = strings.TrimPrefix(problem[:m[0]]+problem[m[1]:], ": ")
	}
	problem = strings.Join(strings.Fields(strings.ReplaceAll(problem, "unmarshal errors:\n  : ", "")), " ")
	return usererr.New(usererr.Refused, "", "%s:%d is no valid YAML: %s", name, line, problem)
}

// parse reads the objects of one file.
func parse(name string, data []byte) ([]object, error) {
	var out []object
	for _, d := range documents(data) {
		js, err := yaml.YAMLToJSONStrict(d.text)
		if err != nil {
			return nil, invalid(name, d, err)
		}
		if bytes.Equal(js, []byte("null")) {
			continue // comments only
		}
		from := fmt.Sprintf("%s:%d", name, d.firstLine())
		objects, err := decode(js, from)
		if err != nil {
			return nil, err
		}
		if out = append(out, objects...); len(out) > maxObjects {
			return nil, usererr.New(usererr.Refused, "divide it into several environments", "%s alone has more than %d objects", name, maxObjects)
		}
	}
	return out, nil
}

// firstLine is where the document's own text starts, after comments.
func (d document) firstLine() int {
	n := d.line
	for line := range bytes.Lines(d.text) {
		if t := bytes.TrimSpace(line); len(t) > 0 && t[0] != '#' {
			return n
		}
		n++
	}
	return d.line
}

// decode reads an object, or those of a List.
func decode(js []byte, from string) ([]object, error) {
	var m map[string]any
	if err := json.Unmarshal(js, &m); err != nil {
		return nil, usererr.New(usererr.Refused, notManifest, "%s is no Kubernetes object", from)
	}
	return objectOf(m, from)
}

const notManifest = "a manifest has apiVersion, kind and metadata.name; name the folder that holds manifests only, or list the file in " + IgnoreFile

func objectOf(m map[string]any, from string) ([]object, error) {
	u := &unstructured.Unstructured{Object: m}
	if err := shaped(u); err != nil {
		return nil, usererr.New(usererr.Refused, notManifest, "%s is no Kubernetes object: %v", from, err)
	}
	if items, ok := m["items"].([]any); ok && strings.HasSuffix(u.GetKind(), "List") {
		var out []object
		for _, item := range items {
			im, _ := item.(map[string]any)
			objects, err := objectOf(im, from)
			if err != nil {
				return nil, err
			}
			out = append(out, objects...)
		}
		return out, nil
	}
	if u.GetName() == "" {
		return nil, usererr.New(usererr.Refused, notManifest, "%s: the %s has no name", from, u.GetKind())
	}
	return []object{{u, from}}, nil
}

// shaped says what is wrong with what every object has. Later steps rely on it.
func shaped(u *unstructured.Unstructured) error {
	for _, key := range []string{"apiVersion", "kind"} {
		s, ok := u.Object[key].(string)
		if !ok || s == "" {
			return fmt.Errorf("it has no %s", key)
		}
	}
	md, ok := u.Object["metadata"]
	if !ok || md == nil {
		return nil
	}
	m, ok := md.(map[string]any)
	if !ok {
		return errors.New("its metadata is no map")
	}
	for _, key := range []string{"name", "namespace"} {
		if v, ok := m[key]; ok && v != nil {
			if _, ok := v.(string); !ok {
				return fmt.Errorf("its metadata.%s is no text: put it in quotes", key)
			}
		}
	}
	for _, key := range []string{"labels", "annotations"} {
		v, ok := m[key]
		if !ok {
			continue
		}
		if v == nil {
			delete(m, key)
			continue
		}
		values, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("its metadata.%s is no map", key)
		}
		for k, v := range values {
			if _, ok := v.(string); !ok {
				return fmt.Errorf("its metadata.%s.%s is no text: put it in quotes", key, k)
			}
		}
	}
	return nil
}

// looksLikeObject says whether a file has a document with apiVersion and kind, or is YAML that cannot be read but should.
func looksLikeObject(data []byte) bool {
	return objectLine.Match(data) && kindLine.Match(data)
}

var (
	objectLine = regexp.MustCompile(`(?m)^[{ \t]*"?apiVersion"?\s*:`)
	kindLine   = regexp.MustCompile(`(?m)(^|,)[{ \t]*"?kind"?\s*:`)
)

// inFolder joins a path that a file names, as seen from that file's folder; false if it leads out of the source.
func inFolder(dir, name string) (string, bool) {
	p := path.Join(dir, name)
	return p, !path.IsAbs(name) && p != ".." && !strings.HasPrefix(p, "../")
}
