package source

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The test is the program that renders apart, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "serve-apart" {
		if err := ServeApart(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

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
func TestShopIsFiveComponentsThatNeedEachOther(t *testing.T) {
	t.Parallel()
	r, err := Render(t.Context(), folder(t, "../../examples/shop"), Options{Name: "pr-1", Namespace: "env-pr-1"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Kind != Kustomize || r.Path != "with-database" || len(r.Warnings) > 0 {
		t.Errorf("%s in %s, warnings %q", r.Kind, r.Path, r.Warnings)
	}
	want := []string{
		"(shared): Secret/orders-database",
		"catalog: Service/catalog Deployment/catalog needs stock",
		"orders: Service/orders Deployment/orders needs orders-database,stock",
		"orders-database: ConfigMap/orders-database-seed Service/orders-database StatefulSet/orders-database Job/orders-database-seed Job/orders-migrate",
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
			if o.GetLabels()["app.kubernetes.io/part-of"] != "shop" && !strings.HasSuffix(o.GetName(), "-seed") {
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

// must renders what can be.
func must(t *testing.T, f Folder, o Options) *Rendered {
	t.Helper()
	r, err := Render(t.Context(), f, o)
	if err != nil {
		t.Fatalf("%v\n%s", err, usererr.FixOf(err))
	}
	return r
}

// only finds the object of a kind.
func only(t *testing.T, r *Rendered, kind string) *unstructured.Unstructured {
	t.Helper()
	var found *unstructured.Unstructured
	for _, c := range r.Components {
		for _, o := range c.Objects {
			if o.GetKind() == kind {
				if found != nil {
					t.Fatalf("several %ss", kind)
				}
				found = o
			}
		}
	}
	if found == nil {
		t.Fatalf("no %s", kind)
	}
	return found
}

// moduleDir is where a module of test/sources, or of dayfly's own, has its files.
func moduleDir(t *testing.T, in, module string) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = in
	out, err := cmd.Output()
	var m struct{ Dir string }
	if err != nil || json.Unmarshal(out, &m) != nil || m.Dir == "" {
		t.Fatalf("where is the module %s: %v %s", module, err, out)
	}
	return m.Dir
}

func podinfo(t *testing.T) string {
	return moduleDir(t, "../../test/sources", "github.com/stefanprodan/podinfo")
}

// Applications that nobody here wrote, as they are.
func TestPodinfoInAllItsForms(t *testing.T) {
	t.Parallel()
	dir := podinfo(t)
	all := map[string]any{"redis": map[string]any{"enabled": true}, "hpa": map[string]any{"enabled": true}, "ingress": map[string]any{"enabled": true}, "serviceAccount": map[string]any{"enabled": true}}
	for _, c := range []struct {
		why, dir string
		o        Options
		kind     string
		warnings []string
		want     []string
	}{
		{"a kustomization", "kustomize", here, Kustomize, nil, []string{"podinfo: Service/podinfo Deployment/podinfo HorizontalPodAutoscaler/podinfo"}},
		{"a chart; its tests draw random numbers, and are left out without a word", "charts/podinfo", here, Helm, nil, []string{"podinfo: Service/podinfo Deployment/podinfo"}},
		{"a chart with all that it can do", "charts/podinfo", Options{Name: "pr-1", Namespace: "env-pr-1", Parameters: all}, Helm, nil, []string{
			"(shared): ServiceAccount/podinfo", // of both
			"podinfo: Service/podinfo Deployment/podinfo HorizontalPodAutoscaler/podinfo Ingress/podinfo needs podinfo-redis",
			"podinfo-redis: ConfigMap/podinfo-redis Service/podinfo-redis Deployment/podinfo-redis",
		}},
		{"an overlay with a namespace of its own, of bases beside it", "deploy", Options{Name: "pr-1", Namespace: "env-pr-1", Path: "overlays/dev"}, Kustomize,
			[]string{"Namespace/dev is left out: dayfly makes the environment's namespace"}, []string{
				"backend: Service/backend Deployment/backend HorizontalPodAutoscaler/backend needs cache",
				"cache: ConfigMap/redis-config-bd2fcfgt6k Service/cache Deployment/cache",
				"frontend: Service/frontend Deployment/frontend HorizontalPodAutoscaler/frontend needs backend,cache",
			}},
		{"manifests in folders", "deploy", Options{Name: "pr-1", Namespace: "env-pr-1", Path: "webapp", Kind: Manifests, Components: []string{"frontend"}}, Manifests,
			[]string{"Namespace/webapp is left out: dayfly makes the environment's namespace"}, []string{
				"(shared): ServiceAccount/reconciler ServiceAccount/webapp Role/reconciler RoleBinding/reconciler",
				"backend: Service/backend Deployment/backend HorizontalPodAutoscaler/backend HorizontalPodAutoscaler/frontend",
				"frontend: Service/frontend Deployment/frontend needs backend",
			}},
	} {
		r, err := Render(t.Context(), folder(t, filepath.Join(dir, c.dir)), c.o)
		if err != nil {
			t.Errorf("%s: %v", c.why, err)
			continue
		}
		if r.Kind != c.kind {
			t.Errorf("%s is a source of kind %s", c.why, r.Kind)
		}
		if diff := cmp.Diff(c.want, outline(r)); diff != "" {
			t.Errorf("%s:\n%s", c.why, diff)
		}
		if diff := cmp.Diff(c.warnings, r.Warnings); diff != "" {
			t.Errorf("%s:\n%s", c.why, diff)
		}
	}
}

// Helm's own test data: charts in charts, libraries, hooks, schemas.
func TestHelmsOwnCharts(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(moduleDir(t, ".", "helm.sh/helm/v4"), "pkg/cmd/testdata/testcharts")
	r := must(t, folder(t, filepath.Join(dir, "subchart")), here)
	want := []string{"(shared): ServiceAccount/subchart-sa Role/subchart-role RoleBinding/subchart-binding Service/subchart Service/subcharta Service/subchartb"}
	if diff := cmp.Diff(want, outline(r)); diff != "" {
		t.Error(diff)
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "crds/ (1 files) are left out") {
		t.Errorf("warnings %q", r.Warnings)
	}
	r = must(t, folder(t, filepath.Join(dir, "object-order")), here)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "NetworkPolicy/sixth (object-order/templates/02-b.yml) is left out: Helm runs it on pre-install") {
		t.Errorf("warnings %q", r.Warnings)
	}
	must(t, folder(t, filepath.Join(dir, "chart-with-template-lib-archive-dep")), here)
	for name, says := range map[string]string{
		"chart-missing-deps":                             "needs the chart reqsubchart2, which is not in its charts/",
		"chart-with-schema-and-subchart":                 "the value lastname is missing",
		"chart-with-schema-negative":                     "the value age: minimum: got -5, want 0",
		"chart-bad-type":                                 "chart.metadata.type must be application or library",
		"alpine":                                         "alpine/templates/alpine-pod.yaml (as rendered):1 is no Kubernetes object: its metadata.labels.app.kubernetes.io/version is no text",
		"chart-with-template-with-invalid-yaml":          "templates/alpine-pod.yaml (as rendered):11 is no valid YAML",
		"chart-with-template-with-invalid-template-expr": "templates/alpine-pod.yaml:7:38",
	} {
		if got := refused(t, folder(t, filepath.Join(dir, name)), Options{Name: "a", Namespace: "b", Kind: Helm}); !strings.Contains(got, says) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      containers:
      - name: main
        image: registry.example/NAME:v1
---
apiVersion: v1
kind: Service
metadata: {name: NAME}
spec: {selector: {app: NAME}, ports: [{port: 80}]}
`

func workloadNamed(name string) string { return strings.ReplaceAll(deployment, "NAME", name) }

// calling is a Deployment with its Service that has the URLs of others in its environment.
func calling(name string, others ...string) string {
	env := "        env:\n"
	for i, o := range others {
		env += fmt.Sprintf("        - {name: URL_%d, value: 'http://%s'}\n", i, o)
	}
	if len(others) == 0 {
		env = ""
	}
	return strings.Replace(workloadNamed(name), ":v1\n", ":v1\n"+env, 1)
}

// Every mistake has its message, with the file and line where there is one.
func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	parameterised := `apiVersion: dayfly.dev/v1alpha1
kind: Blueprint
spec:
  parameters:
    properties:
      TAG: {type: string, default: v1}
      COPIES: {type: integer, maximum: 3}
    required: [COPIES]
`
	with := func(change func(*Options)) Options {
		o := here
		change(&o)
		return o
	}
	for _, c := range []struct {
		why  string
		f    Folder
		o    Options
		says string
	}{
		{"a tab", files("a/web.yaml", workloadNamed("web")+"---\n# a comment\napiVersion: v1\nkind: ConfigMap\nmetadata:\n\tname: x\n"), with(func(o *Options) { o.Path = "a" }), "a/web.yaml:22 is no valid YAML: found character that cannot start any token"},
		{"a key twice", files("web.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\ndata:\n  a: b\n  a: c\n"), here, `web.yaml:7 is no valid YAML: key "a" already set in map`},
		{"no kind", files("web.yaml", workloadNamed("web"), "x.yaml", "\n\nversion: 3\nservices: {}\n"), here, "x.yaml:3 is no Kubernetes object: it has no apiVersion"},
		{"no name", files("web.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: x-}\n"), here, "web.yaml:1: the ConfigMap has no name"},
		{"a label that is a number", files("web.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, labels: {version: 1.0}}\n"), here, "web.yaml:1 is no Kubernetes object: its metadata.labels.version is no text: put it in quotes"},
		{"twice", files("a.yaml", workloadNamed("web"), "b.yaml", workloadNamed("web")), here, "Deployment/web is there twice: in a.yaml:1 and in b.yaml:1"},
		{"twice in a kustomization", files("kustomization.yaml", "resources: [a.yaml, b.yaml]\n", "a.yaml", workloadNamed("web"), "b.yaml", "\n"+workloadNamed("web")), here, "(a.yaml:1 and b.yaml:2)"},
		{"of the cluster", files("a.yaml", workloadNamed("web")+"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: all}\n"), here, "may not change that: ClusterRole/all (a.yaml:18)\nuse a Role"},
		{"two namespaces", files("a.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: one}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: z, namespace: two}\n"), here, "the source names 2: ConfigMap/x in one (a.yaml:1), ConfigMap/z in two (a.yaml:5)"},
		{"nothing", files("main.go", "package main"), here, "nothing in the folder can be rendered"},
		{"only comments", files("a.yaml", "# apiVersion: v1\n# kind: X\n"), with(func(o *Options) { o.Kind, o.Path = Manifests, "." }), "the source renders to no object"},
		{"several", files("a/kustomization.yaml", "", "b/Chart.yaml", "name: b"), here, "several folders in the folder can be rendered: a, b"},
		{"no such path", files("a/web.yaml", workloadNamed("web")), with(func(o *Options) { o.Path = "b" }), "the source has no folder b"},
		{"a path out of it", files("a/web.yaml", workloadNamed("web")), with(func(o *Options) { o.Path = "../b" }), "leads out of the source"},

		{"an unknown parameter in a manifest", files("dayfly.yaml", parameterised, "web.yaml", strings.Replace(workloadNamed("web"), ":v1", ":${TGA}", 1)), with(func(o *Options) { o.Parameters = map[string]any{"COPIES": 1} }), "web.yaml:11 names the parameter TGA, which does not exist: is it TAG? There are COPIES, TAG, DAYFLY_ENVIRONMENT, DAYFLY_NAMESPACE"},
		{"an unknown parameter", files("dayfly.yaml", parameterised, "web.yaml", workloadNamed("web")), with(func(o *Options) { o.Parameters = map[string]any{"COPYS": 1} }), "there is no parameter COPYS: is it COPIES? There are COPIES, TAG"},
		{"the same in a later document, after one that has parameters", files("dayfly.yaml", parameterised, "web.yaml", "# a comment\n"+strings.Replace(workloadNamed("web"), ":v1", ":${TAG}", 1)+"---\n"+strings.Replace(workloadNamed("api"), ":v1", ":${TGA}", 1)), with(func(o *Options) { o.Parameters = map[string]any{"COPIES": 1} }), "web.yaml:29 names the parameter TGA"},
		{"a URL beside a parameter", files("kustomization.yaml", "images:\n- {name: x, newTag: \"${TAG}\"}\nresources:\n- https://example.com/x.yaml\n"), with(func(o *Options) { o.Parameters = map[string]any{"TAG": "v1"} }), "kustomization.yaml:4 names https://example.com/x.yaml"},
		{"a missing parameter", files("dayfly.yaml", parameterised, "web.yaml", workloadNamed("web")), here, "the parameter COPIES is missing"},
		{"a parameter of the wrong type", files("dayfly.yaml", parameterised, "web.yaml", workloadNamed("web")), with(func(o *Options) { o.Parameters = map[string]any{"COPIES": "two"} }), "the parameter COPIES: got string, want integer"},
		{"a parameter out of bounds", files("dayfly.yaml", parameterised, "web.yaml", workloadNamed("web")), with(func(o *Options) { o.Parameters = map[string]any{"COPIES": 4} }), "the parameter COPIES: maximum: got 4, want 3"},
		{"a schema from elsewhere", files("dayfly.yaml", "apiVersion: dayfly.dev/v1alpha1\nkind: Blueprint\nspec: {parameters: {$ref: 'http://127.0.0.1:1/x'}}\n", "web.yaml", workloadNamed("web")), here, "nothing is fetched"},
		{"a slip in dayfly.yaml", files("dayfly.yaml", "apiVersion: dayfly.dev/v1alpha1\nkind: Blueprint\nspec: {paht: x}\n", "web.yaml", workloadNamed("web")), here, `dayfly.yaml: unknown field "paht"`},
		{"another kind in dayfly.yaml", files("dayfly.yaml", "apiVersion: v1\nkind: Blueprint\n", "web.yaml", workloadNamed("web")), here, `dayfly.yaml has apiVersion "v1"`},
		{"a chart's unknown value", files("Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n", "values.yaml", "replicas: 1\n", "templates/x.yaml", workloadNamed("x")), with(func(o *Options) { o.Parameters = map[string]any{"replica": 2} }), "the chart c has no value replica: is it replicas?"},
		{"a chart for another Kubernetes", files("Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\nkubeVersion: '>=1.99.0-0'\n", "templates/x.yaml", workloadNamed("x")), here, "the chart c is for Kubernetes >=1.99.0-0, and the cluster has v1.36.0"},
		{"a chart that refers to itself for ever", files("Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n", "templates/x.yaml", `{{define "a"}}{{include "a" .}}{{end}}{{include "a" .}}`), here, "the chart c cannot be rendered"},

		{"a repository", files("kustomization.yaml", "resources:\n- web.yaml\n- github.com/acme/base?ref=v1\n", "web.yaml", workloadNamed("web")), here, "kustomization.yaml:3 names github.com/acme/base?ref=v1 under resources, which is not in the source"},
		{"a URL", files("kustomization.yaml", "resources:\n- https://example.com/x.yaml\n"), here, "kustomization.yaml:2 names https://example.com/x.yaml"},
		{"a URL of a base's", files("o/kustomization.yaml", "resources: [../b]\n", "b/kustomization.yaml", "\n\ncomponents: ['git@example.com:acme/x.git']\n"), with(func(o *Options) { o.Path = "o" }), "b/kustomization.yaml:3 names git@example.com:acme/x.git"},
		{"a URL that a file holds", files("kustomization.yaml", "configMapGenerator:\n- name: x\n  files: ['a=http://169.254.169.254/latest']\n"), here, "kustomization.yaml:3 names http://169.254.169.254/latest"},
		{"a URL that a transformer loads", files("kustomization.yaml", "resources: [web.yaml]\ntransformers: [t.yaml]\n", "web.yaml", workloadNamed("web"), "t.yaml", "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: x}\npath: http://127.0.0.1:1/p.yaml\n"), here, "t.yaml:4 names http://127.0.0.1:1/p.yaml"},
		{"a URL that a generator in the kustomization loads", files("kustomization.yaml", "generators:\n- |\n  apiVersion: builtin\n  kind: ConfigMapGenerator\n  metadata: {name: x}\n  envs: ['https://example.com/x']\n"), here, "names https://example.com/x under envs"},
		{"a URL in capitals", files("kustomization.yaml", "RESOURCES: ['HTTPS://example.com/x.yaml']\n"), here, "names HTTPS://example.com/x.yaml"},
		{"a URL that is merged in", files("kustomization.yaml", "resources: [web.yaml]\nconfigMapGenerator:\n- name: x\n  <<: &a {envs: ['https://example.com/x']}\n", "web.yaml", workloadNamed("web")), here, "kustomization.yaml:4 names https://example.com/x"},
		{"a URL of a generator that another kustomization makes", files("kustomization.yaml", "generators: [gen]\n", "gen/kustomization.yaml", "resources: [../far]\n", "far/kustomization.yaml", "resources: [t.yaml]\n", "far/t.yaml", "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: x}\nfiles: ['a=https://example.com/x']\n"), here, "far/t.yaml:4 names https://example.com/x"},
		{"a chart in a kustomization", files("kustomization.yaml", "helmCharts:\n- name: x\n"), here, "kustomization.yaml:1 asks for helmCharts, which would start Helm"},
		{"a path out of the source", files("kustomization.yaml", "resources: [../../etc/passwd]\n"), here, "which leads out of the source"},
		{"a file of another kustomization", files("o/kustomization.yaml", "resources: [../b/web.yaml]\n", "b/web.yaml", workloadNamed("web")), with(func(o *Options) { o.Path = "o" }), "is not in or below"},
		{"a missing file", files("kustomization.yaml", "resources:\n- wbe.yaml\n"), here, "kustomization.yaml:2 names wbe.yaml under resources, which does not exist"},
		{"YAML of a kustomization's", files("kustomization.yaml", "resources: [web.yaml]\n", "web.yaml", "a: b: c\n"), here, "web.yaml:1 is no valid YAML: mapping values are not allowed"},
		{"a cycle of kustomizations", files("a/kustomization.yaml", "resources: [../b]\n", "b/kustomization.yaml", "resources: [../a]\n"), with(func(o *Options) { o.Path = "a" }), "cycle detected"},
		{"a program", files("kustomization.yaml", "resources: [web.yaml]\ntransformers: [t.yaml]\n", "web.yaml", workloadNamed("web"), "t.yaml", "apiVersion: example.com/v1\nkind: Evil\nmetadata:\n  name: x\n  annotations: {config.kubernetes.io/function: 'exec: {path: /bin/sh}'}\n"), here, "external plugins disabled"},

		{"declared needs in a circle", files("a.yaml", workloadNamed("a")+"---\n"+workloadNamed("b")+"---\n"+workloadNamed("c"), "dayfly.yaml", "apiVersion: dayfly.dev/v1alpha1\nkind: Blueprint\nspec: {components: {a: {needs: [b]}, b: {needs: [c]}, c: {needs: [a]}}}\n"), here, "components need each other: a needs b needs c needs a"},
		{"a need of nothing", files("a.yaml", strings.Replace(workloadNamed("web"), "{name: web}", "{name: web, annotations: {dayfly.dev/needs: wbe}}", 1)), here, "names the component wbe, which does not exist: is it web?"},
		{"an unknown component in dayfly.yaml", files("a.yaml", workloadNamed("web"), "dayfly.yaml", "apiVersion: dayfly.dev/v1alpha1\nkind: Blueprint\nspec: {components: {wbe: {}}}\n"), here, "dayfly.yaml names the component wbe"},
		{"an unknown component", files("a.yaml", workloadNamed("web")), with(func(o *Options) { o.Components = []string{"wbe"} }), "there is no component wbe: is it web?"},
		{"replicas of nothing", files("a.yaml", workloadNamed("web")), with(func(o *Options) { o.Replicas = map[string]int32{"wbe": 1} }), "there is no component wbe"},
		{"an unknown image", files("a.yaml", workloadNamed("web")), with(func(o *Options) { o.Images = map[string]string{"registry.example/wbe": ":v2"} }), "there is no component or image registry.example/wbe: is it registry.example/web?"},
		{"a patch of nothing", files("a.yaml", workloadNamed("web")), with(func(o *Options) {
			o.Patches = []Patch{{Patch: "[]", Target: &Target{Kind: "StatefulSet"}}}
		}), "patch 1 changes nothing"},
		{"a patch that does not apply", files("a.yaml", workloadNamed("web")), with(func(o *Options) {
			o.Patches = []Patch{{Patch: `[{"op":"remove","path":"/spec/nothing"}]`, Target: &Target{Kind: "Deployment"}}}
		}), "the patches do not apply"},
		{"pods of another shape", files("a.yaml", strings.Replace(workloadNamed("web"), "name: main", "ports: 80", 1)), here, "a.yaml:1: the pods of Deployment/web are not described as Kubernetes has it"},
	} {
		if got := refused(t, c.f, c.o); !strings.Contains(got, c.says) {
			t.Errorf("%s:\n got %s\nwant %s", c.why, got, c.says)
		}
	}
}
