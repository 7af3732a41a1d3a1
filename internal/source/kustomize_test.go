package source

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"dayfly.dev/dayfly/internal/usererr"
)

// watched is a transport that counts what would be fetched.
type watched struct{ asked *atomic.Int64 }

func (w watched) RoundTrip(*http.Request) (*http.Response, error) {
	w.asked.Add(1)
	return nil, errors.New("fetched")
}

// Whatever a kustomization says, nothing is fetched, cloned or started, and what is refused is refused for a person.
func FuzzKustomization(f *testing.F) {
	f.Add([]byte("resources: [web.yaml]\nnamespace: x\nlabels: [{pairs: {a: b}}]\n"), []byte("data"))
	f.Add([]byte("resources:\n- web.yaml\n- http://a.example/x\nbases: ['git::https://x/y']\n"), []byte("a=b"))
	f.Add([]byte("generators: [t.yaml]\n"), []byte("apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: x}\nfiles: ['a=https://a.example/x']\n"))
	f.Add([]byte("resources: [web.yaml]\ntransformers: [t.yaml]\n"), []byte("apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: x}\npath: github.com/a/b\n"))
	f.Add([]byte("configMapGenerator: [{name: x, envs: [t.yaml], literals: ['A=http://b']}]\nreplacements: [{path: t.yaml}]\n"), []byte("A=b"))
	f.Add([]byte("configMapGenerator: [{name: a, envs: [t.yaml]}]"), []byte("00=0"))
	var asked atomic.Int64
	was := http.DefaultTransport
	http.DefaultTransport = watched{&asked}
	f.Cleanup(func() { http.DefaultTransport = was })
	f.Setenv("PATH", "")
	f.Fuzz(func(t *testing.T, kustomization, data []byte) {
		_, err := render(t.Context(), Folder{"kustomization.yaml": kustomization, "t.yaml": data, "web.yaml": []byte(workloadNamed("web"))}, here)
		switch {
		case asked.Load() > 0:
			t.Fatal("something was fetched")
		case err == nil:
		case strings.Contains(err.Error(), "program on path"):
			t.Fatalf("something was to be cloned: %v", err)
		case usererr.CodeOf(err) == usererr.Failed:
			t.Fatalf("no error for a person: %v", err)
		}
	})
}
