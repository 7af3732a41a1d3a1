package source

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/usererr"
)

// Folders that lead back to themselves, or that grow with every step, end in an error for a person, and soon.
func TestKustomizationsThatNeverEnd(t *testing.T) {
	laughs := "a0: &a0 [web.yaml, web.yaml]\n"
	for i := range 40 {
		laughs += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	many := Folder{"kustomization.yaml": []byte("transformers: [t0.yaml]\n"), "web.yaml": []byte(workloadNamed("web"))}
	for i := range 40 {
		many[fmt.Sprintf("t%d.yaml", i)] = fmt.Appendf(nil, "transformers: [t%d.yaml, t%d.yaml]\n", (i+1)%40, (i+1)%40)
	}
	one := func(kustomization, data string) Folder {
		return Folder{"kustomization.yaml": []byte(kustomization), "t.yaml": []byte(data), "web.yaml": []byte(workloadNamed("web"))}
	}
	for name, folder := range map[string]Folder{
		"a transformer that names itself":    one("resources: [web.yaml]\ntransformers: [t.yaml]\n", "transformers: [t.yaml]\n"),
		"one that names it under two paths":  one("transformers: [t.yaml]\n", "transformers: [./t.yaml, ././t.yaml]\n"),
		"each names the next twice":          many,
		"a list that holds itself":           one("resources: &a [*a]\n", ""),
		"a map that holds itself":            one("patches: &a [{path: *a}]\n", ""),
		"a map that is merged with itself":   one("x: &a {<<: *a, resources: [web.yaml]}\n", ""),
		"lists of lists of lists":            one(laughs+"resources: *a40\n", ""),
		"lists of lists, in a transformer":   one("transformers: [t.yaml]\n", laughs),
		"a kustomization that names itself":  one("resources: [., web.yaml]\n", ""),
		"maps in maps in maps, without end ": one("a: "+strings.Repeat("{a: ", 9000)+strings.Repeat("}", 9000)+"\n", ""),
	} {
		done := make(chan error, 1)
		go func() {
			_, err := render(t.Context(), folder, here)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || usererr.CodeOf(err) == usererr.Failed {
				t.Errorf("%s: no error for a person: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it goes on", name)
		}
	}
}
