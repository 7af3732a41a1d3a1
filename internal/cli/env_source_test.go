package cli

import (
	"strings"
	"testing"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/google/go-cmp/cmp"
)

// What is named replaces, and what is not stays; what does not go together is refused, without repeating what may be a password.
func TestSourceFlags(t *testing.T) {
	t.Parallel()
	git := func(ref, path, secret string) *v1alpha1.Source {
		return &v1alpha1.Source{Git: &v1alpha1.GitSource{URL: "https://git.example.com/shop", Ref: ref, SourceFolder: v1alpha1.SourceFolder{Path: path, SecretName: secret}}}
	}
	oci := &v1alpha1.Source{OCI: &v1alpha1.OCISource{Ref: "registry.example.com/shop:v1"}}
	for name, c := range map[string]struct {
		before, after *v1alpha1.Source
		dir           string
		given         sourceOptions
		refused       string
	}{
		"nothing":               {before: git("main", "deploy", "s"), after: git("main", "deploy", "s")},
		"a source":              {given: sourceOptions{git: "https://git.example.com/shop", ref: "main", path: "/deploy/", gitSecret: "s"}, after: git("main", "deploy", "s")},
		"an artifact":           {before: git("main", "", ""), given: sourceOptions{oci: "oci://registry.example.com/shop:v1"}, after: oci},
		"another ref":           {before: git("main", "deploy", "s"), given: sourceOptions{ref: "v2"}, after: git("v2", "deploy", "s")},
		"another repository":    {before: oci, given: sourceOptions{git: "https://git.example.com/shop"}, after: git("", "", "")},
		"a folder and a source": {dir: "deploy", given: sourceOptions{git: "https://git.example.com/shop"}, refused: "one of -f, --git and --oci"},
		"two sources":           {given: sourceOptions{git: "https://git.example.com/shop", oci: "registry.example.com/shop:v1"}, refused: "one of --git and --oci"},
		"a ref of an artifact":  {before: oci, given: sourceOptions{ref: "v2"}, refused: "not made from such a source"},
		"a ref beside --oci":    {given: sourceOptions{oci: "registry.example.com/shop:v1", ref: "v2"}, refused: "one of --git and --oci"},
		"a ref of nothing":      {given: sourceOptions{ref: "v2"}, refused: "there is no source to change"},
		"a password":            {given: sourceOptions{git: "https://ada:s3cret@git.example.com/shop"}, refused: "the URL names a user"},
		"a user":                {given: sourceOptions{git: "git@git.example.com:shop"}, refused: "the URL names a user"},
		"http":                  {given: sourceOptions{git: "http://git.example.com/shop"}, refused: "by https only"},
	} {
		s := &v1alpha1.EnvironmentSpec{Source: c.before.DeepCopy()}
		err := c.given.into(s, c.dir)
		if c.refused != "" {
			if usererr.CodeOf(err) != usererr.Usage || !strings.Contains(err.Error(), c.refused) || strings.Contains(err.Error()+usererr.FixOf(err), "s3cret") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if diff := cmp.Diff(c.after, s.Source); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}
