package source

import (
	"os"
	"strings"
	"testing"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/google/go-cmp/cmp"
)

func folder(t *testing.T, dir string) Folder {
	t.Helper()
	f, err := ReadFolder(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// outline is what was rendered, a line an object, for comparison.
func outline(r *Rendered) []string {
	var out []string
	for _, c := range r.Components {
		name := c.Name
		if name == Shared {
			name = "(shared)"
		}
		line := name + ":"
		for _, o := range c.Objects {
			line += " " + o.GetKind() + "/" + o.GetName()
		}
		if len(c.Needs) > 0 {
			line += " needs " + strings.Join(c.Needs, ",")
		}
		out = append(out, line)
	}
	return out
}

// The example is found in its subfolder, and what needs what is read from its environment variables.
func TestShopIsFourComponentsThatNeedEachOther(t *testing.T) {
	t.Parallel()
	r, err := Render(t.Context(), folder(t, "../../examples/shop"), Options{Name: "pr-1", Namespace: "env-pr-1"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Kind != Kustomize || r.Path != "deploy" || len(r.Warnings) > 0 {
		t.Errorf("%s in %s, warnings %q", r.Kind, r.Path, r.Warnings)
	}
	want := []string{
		"catalog: Service/catalog Deployment/catalog needs stock",
		"orders: Service/orders Deployment/orders needs stock",
		"stock: Service/stock Deployment/stock",
		"storefront: Service/storefront Deployment/storefront needs catalog,orders",
	}
	if diff := cmp.Diff(want, outline(r)); diff != "" {
		t.Error(diff)
	}
	for _, c := range r.Components {
		for _, o := range c.Objects {
			if o.GetNamespace() != "env-pr-1" {
				t.Errorf("%s/%s is in namespace %q", o.GetKind(), o.GetName(), o.GetNamespace())
			}
			if o.GetLabels()["app.kubernetes.io/part-of"] != "shop" {
				t.Errorf("%s/%s lacks the kustomization's label", o.GetKind(), o.GetName())
			}
		}
	}
}

// files makes a folder of name, content, name, content…
func files(pairs ...string) Folder {
	f := Folder{}
	for i := 0; i < len(pairs); i += 2 {
		f[pairs[i]] = []byte(pairs[i+1])
	}
	return f
}

var here = Options{Name: "pr-1", Namespace: "env-pr-1"}

// refused renders what must not be, and returns the message with its fix.
func refused(t *testing.T, f Folder, o Options) string {
	t.Helper()
	_, err := Render(t.Context(), f, o)
	if err == nil {
		t.Fatal("it was rendered")
	}
	if usererr.CodeOf(err) == usererr.Failed {
		t.Errorf("no error for a person: %v", err)
	}
	return err.Error() + "\n" + usererr.FixOf(err)
}
