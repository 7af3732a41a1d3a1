package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"sigs.k8s.io/yaml"
)

// BlueprintFile, at a source's root, says how to make environments of it. It may be absent.
const BlueprintFile = "dayfly.yaml"

// What BlueprintFile says of itself.
const (
	BlueprintVersion = "dayfly.dev/v1alpha1"
	BlueprintKind    = "Blueprint"
)

// Blueprint is what BlueprintFile holds.
type Blueprint struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name,omitempty"`
	} `json:"metadata,omitempty"`
	Spec BlueprintSpec `json:"spec"`
}

// BlueprintSpec is what there is to say.
type BlueprintSpec struct {
	Kind       string                   `json:"kind,omitempty"`       // of source; "" finds out
	Path       string                   `json:"path,omitempty"`       // the subfolder to render; "" finds out
	Parameters *Schema                  `json:"parameters,omitempty"` // nil: Helm takes any value of the chart's, others take none
	Components map[string]BlueprintPart `json:"components,omitempty"`
}

// BlueprintPart is what there is to say of one component.
type BlueprintPart struct {
	Needs  *[]string `json:"needs,omitempty"` // instead of what is inferred; an empty list: nothing
	Health *Health   `json:"health,omitempty"`
	Data   *Data     `json:"data,omitempty"`
}

// blueprint reads BlueprintFile.
func blueprint(f Folder) (*Blueprint, error) {
	b := &Blueprint{}
	data, ok := f[BlueprintFile]
	if !ok {
		return b, nil
	}
	js, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, invalid(BlueprintFile, document{line: 1}, err)
	}
	d := json.NewDecoder(bytes.NewReader(js))
	d.DisallowUnknownFields()
	if err := d.Decode(b); err != nil {
		return nil, usererr.New(usererr.Refused, "docs/decisions/0011-sources.md has an example", "%s: %s", BlueprintFile, strings.TrimPrefix(err.Error(), "json: "))
	}
	if b.APIVersion != BlueprintVersion || b.Kind != BlueprintKind {
		return nil, usererr.New(usererr.Refused, "", "%s has apiVersion %q and kind %q, not %s and %s", BlueprintFile, b.APIVersion, b.Kind, BlueprintVersion, BlueprintKind)
	}
	for _, name := range sortedKeys(b.Spec.Components) {
		if h := b.Spec.Components[name].Health; h != nil {
			if _, err := h.URL(""); err != nil {
				return nil, err
			}
		}
	}
	return b, nil
}

// URL is what a pod at host:port is asked. Whatever the path says, it is that pod which is.
func (h *Health) URL(at string) (string, error) {
	u, err := url.ParseRequestURI(h.Path)
	if err != nil || !strings.HasPrefix(h.Path, "/") {
		return "", usererr.New(usererr.Refused, "write, for example, /healthz", "%s: %q is no path of a health check", BlueprintFile, h.Path)
	}
	u.Scheme, u.Host = "http", at
	return u.String(), nil
}

// Schema is an OpenAPI schema of type object.
type Schema struct {
	raw map[string]any
}

func (s *Schema) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &s.raw) }
func (s Schema) MarshalJSON() ([]byte, error)     { return json.Marshal(s.raw) }

func (s *Schema) properties() map[string]any {
	p, _ := s.raw["properties"].(map[string]any)
	return p
}

// apply checks parameters and returns them with their defaults.
func (s *Schema) apply(given map[string]any) (map[string]any, error) {
	compiled, err := s.compile()
	if err != nil {
		return nil, err
	}
	if s.raw["additionalProperties"] == nil {
		for _, name := range sortedKeys(given) {
			if _, ok := s.properties()[name]; !ok {
				return nil, usererr.New(usererr.Usage, "", "there is no parameter %s%s", name, nearest(name, sortedKeys(s.properties())))
			}
		}
	}
	value, err := jsonValue(given)
	if err != nil {
		return nil, fmt.Errorf("reading the parameters: %w", err)
	}
	if value == nil {
		value = map[string]any{}
	}
	value = defaulted(s.raw, value)
	if err := compiled.Validate(value); err != nil {
		return nil, explain(err, "the parameter ")
	}
	return value.(map[string]any), nil
}

// defaulted fills in what is missing, at any depth.
func defaulted(schema map[string]any, value any) any {
	m, ok := value.(map[string]any)
	if !ok {
		return value
	}
	m = maps.Clone(m)
	properties, _ := schema["properties"].(map[string]any)
	for name, p := range properties {
		ps, _ := p.(map[string]any)
		if _, ok := m[name]; !ok {
			d, ok := ps["default"]
			if !ok {
				continue
			}
			m[name] = d
		}
		m[name] = defaulted(ps, m[name])
	}
	return m
}

func (s *Schema) compile() (*jsonschema.Schema, error) {
	refuse := func(err error) error {
		return usererr.New(usererr.Refused, "docs/decisions/0011-sources.md has an example", "%s: spec.parameters is no schema of an object", BlueprintFile).Because(err)
	}
	if t, ok := s.raw["type"]; ok && t != "object" {
		return nil, refuse(fmt.Errorf("its type is %v", t))
	}
	data, err := json.Marshal(withNullable(s.raw))
	if err != nil {
		return nil, refuse(err)
	}
	compiled, err := compile(data)
	if err != nil {
		return nil, refuse(err)
	}
	return compiled, nil
}

// compile reads a JSON schema. Nothing is fetched for it.
func compile(data []byte) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(nowhere{})
	const url = "source:schema"
	if err := c.AddResource(url, doc); err != nil {
		return nil, err
	}
	return c.Compile(url)
}

var errNotInSource = errors.New("it is not in the source, and nothing is fetched")

// nowhere loads no schema.
type nowhere struct{}

func (nowhere) Load(url string) (any, error) { return nil, fmt.Errorf("%s: %w", url, errNotInSource) }

// jsonValue is a value with JSON's types only, as schemas are checked against.
func jsonValue(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(data))
}

// withNullable says in JSON Schema what OpenAPI says with nullable.
func withNullable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = withNullable(e)
		}
		if t, ok := v["type"].(string); ok && v["nullable"] == true {
			out["type"] = []any{t, "null"}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = withNullable(e)
		}
		return out
	}
	return v
}

// explain says which value is wrong, and how.
func explain(err error, what string) error {
	v, ok := err.(*jsonschema.ValidationError)
	if !ok {
		return err
	}
	var problems []string
	var leaves func(v *jsonschema.ValidationError)
	leaves = func(v *jsonschema.ValidationError) {
		for _, c := range v.Causes {
			leaves(c)
		}
		if len(v.Causes) > 0 {
			return
		}
		at := strings.Join(v.InstanceLocation, ".")
		switch k := v.ErrorKind.(type) {
		case *kind.Required:
			problems = append(problems, fmt.Sprintf("%s%s is missing", what, strings.Join(prefixed(at, k.Missing), ", ")))
		case *kind.AdditionalProperties:
			problems = append(problems, fmt.Sprintf("%s%s does not exist", what, strings.Join(prefixed(at, k.Properties), ", ")))
		default:
			problems = append(problems, fmt.Sprintf("%s%s: %s", what, at, v.ErrorKind.LocalizedString(message.NewPrinter(language.English))))
		}
	}
	leaves(v)
	slices.Sort(problems)
	return usererr.New(usererr.Usage, "", "%s", strings.Join(slices.Compact(problems), "; "))
}

func prefixed(at string, names []string) []string {
	if at == "" {
		return names
	}
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = at + "." + n
	}
	return out
}
