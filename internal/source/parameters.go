package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
	"go.yaml.in/yaml/v3"
)

// The parameters that every source has.
const (
	environmentParameter = "DAYFLY_ENVIRONMENT"
	namespaceParameter   = "DAYFLY_NAMESPACE"
)

// parameters checks those given against the schema and fills in the defaults.
func (r *rendering) parameters() error {
	schema := r.blueprint.Spec.Parameters
	if schema == nil && len(r.o.Parameters) == 0 {
		return nil
	}
	r.values = map[string]any{}
	if schema == nil {
		r.values = maps.Clone(r.o.Parameters)
		return nil // Helm knows its values, and what others do not use is found by substitution
	}
	values, err := schema.apply(r.o.Parameters)
	if err != nil {
		return err
	}
	r.values = values
	return nil
}

// reference is ${NAME}, or $${NAME}, which stands for ${NAME} itself.
var reference = regexp.MustCompile(`\$?\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// substitute returns a file's text with parameters in place of ${NAME}. A scalar that is nothing but ${NAME}, without quotes,
// becomes the parameter's value, of any type; within a longer text or quotes it becomes text. Whatever a value holds, it
// stays within its scalar.
func (r *rendering) substitute(name string) ([]byte, error) {
	data := r.folder[name]
	if r.values == nil || !bytes.Contains(data, []byte("${")) {
		return data, nil
	}
	var out bytes.Buffer
	next := 1
	for _, d := range documents(data) {
		for ; next < d.line; next++ {
			out.WriteByte('\n') // objects keep about their lines
		}
		text := d.text
		if d.marked {
			out.WriteString("---")
			text = text[3:]
		}
		if bytes.Contains(text, []byte("${")) {
			var doc yaml.Node
			if err := yaml.Unmarshal(d.text, &doc); err != nil {
				return nil, invalid(name, d, err)
			}
			s := substitution{name: name, first: d.line, values: r.values, builtin: map[string]any{environmentParameter: r.o.Name, namespaceParameter: r.o.Namespace}}
			if err := s.node(&doc); err != nil {
				return nil, err
			}
			var err error
			if text, err = yaml.Marshal(&doc); err != nil {
				return nil, fmt.Errorf("writing %s: %w", name, err)
			}
			if d.marked {
				out.WriteByte('\n')
			}
		}
		out.Write(text)
		if !bytes.HasSuffix(text, []byte("\n")) {
			out.WriteByte('\n')
		}
		next = d.line + bytes.Count(text, []byte("\n"))
	}
	return out.Bytes(), nil
}

// substitution replaces references in one document.
type substitution struct {
	name            string
	first           int // the document's first line
	values, builtin map[string]any
}

func (s *substitution) node(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return s.scalar(n)
	}
	for _, c := range n.Content {
		if err := s.node(c); err != nil {
			return err
		}
	}
	return nil
}

func (s *substitution) scalar(n *yaml.Node) error {
	if !strings.Contains(n.Value, "${") {
		return nil
	}
	if m := reference.FindStringSubmatch(n.Value); m != nil && m[0] == n.Value && !strings.HasPrefix(m[0], "$$") && n.Style == 0 {
		v, err := s.value(m[1], n.Line)
		if err != nil {
			return err
		}
		var typed yaml.Node
		if err := typed.Encode(plain(v)); err != nil {
			return fmt.Errorf("%s:%d: %w", s.name, s.first+n.Line-1, err)
		}
		typed.Line, typed.HeadComment, typed.LineComment, typed.FootComment = n.Line, n.HeadComment, n.LineComment, n.FootComment
		*n = typed
		return nil
	}
	var problem error
	text := reference.ReplaceAllStringFunc(n.Value, func(ref string) string {
		if strings.HasPrefix(ref, "$$") {
			return ref[1:]
		}
		v, err := s.value(ref[2:len(ref)-1], n.Line)
		if err != nil && problem == nil {
			problem = err
		}
		return textOf(v)
	})
	if problem != nil || text == n.Value {
		return problem
	}
	n.Value, n.Tag = text, "!!str"
	return nil
}

func (s *substitution) value(name string, line int) (any, error) {
	if v, ok := s.values[name]; ok {
		return v, nil
	}
	if v, ok := s.builtin[name]; ok {
		return v, nil
	}
	known := slices.Concat(sortedKeys(s.values), sortedKeys(s.builtin))
	return nil, usererr.New(usererr.Refused, "declare it in "+BlueprintFile+"; to have ${"+name+"} itself, write $${"+name+"}",
		"%s:%d names the parameter %s, which does not exist%s", s.name, s.first+line-1, name, nearest(name, known))
}

// plain turns JSON numbers into what YAML writes as numbers.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[k] = plain(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = plain(e)
		}
		return out
	}
	return v
}

// textOf is a value within a text.
func textOf(v any) string {
	switch v := plain(v).(type) {
	case nil:
		return ""
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	case map[string]any, []any:
		data, _ := json.Marshal(v)
		return string(data)
	default:
		return fmt.Sprint(v)
	}
}

// nearest adds to a message what exists, and what is likely meant.
func nearest(name string, known []string) string {
	if len(known) == 0 {
		return ": there are none"
	}
	best, least := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	shown := known
	if len(shown) > 20 {
		shown = append(slices.Clone(shown[:20]), "…")
	}
	if best != "" {
		return fmt.Sprintf(": is it %s? There are %s", best, strings.Join(shown, ", "))
	}
	return ": there are " + strings.Join(shown, ", ")
}

// distance is how many letters differ (Levenshtein).
func distance(a, b string) int {
	if len(a) > 100 || len(b) > 100 {
		return 100
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// nodes reads all documents of a YAML text.
func nodes(data []byte) ([]*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var out []*yaml.Node
	for {
		var n yaml.Node
		err := d.Decode(&n)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, &n)
	}
}
