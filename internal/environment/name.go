package environment

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const longestName = 63

// NamespaceOf is the name of the namespace in which an environment's objects are.
func NamespaceOf(e *v1alpha1.Environment) string {
	name := "env-" + e.Namespace + "-" + e.Name
	if len(name) <= longestName {
		return name
	}
	sum := sha256.Sum256([]byte(e.Namespace + "/" + e.Name))
	tail := "-" + hex.EncodeToString(sum[:4]) // whose the namespace is, it says itself
	return strings.TrimRight(name[:longestName-len(tail)], "-") + tail
}

// hostOf is the name in DNS, under the domain, of a component of an environment. No two have the same.
func hostOf(e *v1alpha1.Environment, component string) string {
	parts := []string{component, e.Name, e.Namespace}
	name := strings.Join(parts, "--")
	label := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)
	if label == name && !strings.HasPrefix(name, "xn--") && len(name) <= longestName && strings.Count(name, "--") == 2 && !strings.Contains(name, "---") {
		return name
	}
	// Whoever finds two that have the same has the address of another: the hash is long.
	sum := sha256.Sum256([]byte(strings.Join(parts, "/")))
	tail := "-" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:15]))
	label = "x" + strings.TrimLeft(label, "-")
	return strings.TrimRight(label[:min(len(label), longestName-len(tail))], "-") + tail
}

// RevisionOf is a hash of everything that decides what an environment consists of. The name of a Blueprint stands for its
// content, since it ends in the content's digest.
func RevisionOf(s *v1alpha1.EnvironmentSpec) string {
	r := hash(map[string]any{"blueprint": s.Blueprint, "parameters": parametersOf(s), "components": s.Components, "only": s.Only})
	if s.Asleep() {
		r += v1alpha1.SuffixAsleep
	}
	return r
}

func parametersOf(s *v1alpha1.EnvironmentSpec) map[string]any {
	var out map[string]any
	if s.Parameters != nil {
		_ = json.Unmarshal(s.Parameters.Raw, &out) // the API server takes nothing but an object
	}
	return out
}

// hashOf is a hash of an object as it is to be applied.
func hashOf(o *unstructured.Unstructured) string { return hash(o.Object) }

func hash(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // of maps and strings only
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])[:12]
}
