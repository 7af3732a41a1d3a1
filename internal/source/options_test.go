package source

import (
	"bufio"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func containerOf(t *testing.T, o *unstructured.Unstructured) map[string]any {
	t.Helper()
	list, _, err := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
	if err != nil || len(list) == 0 {
		t.Fatalf("%s has no containers: %v", o.GetName(), err)
	}
	return list[0].(map[string]any)
}

// A value stays within its scalar, whatever it holds, and keeps its type where it stands alone.
func TestParametersTakeThePlaceOfTheirNames(t *testing.T) {
	t.Parallel()
	manifest := `apiVersion: v1
kind: ConfigMap
metadata:
  name: cm
  labels: {env: "${DAYFLY_ENVIRONMENT}", ns: '${DAYFLY_NAMESPACE}', version: "${VERSION}"}
data:
  alone: "${TEXT}"
  plain: ${TEXT}
  within: before ${TEXT} after
  block: |
    first ${TEXT}
    $${KEPT} ${lower:-kept} $KEPT
  number: "${COUNT}"
  ${VERSION}: key
---
apiVersion: example.com/v1
kind: Thing
metadata: {name: thing}
spec:
  count: ${COUNT}
  list: ${LIST}
  really: ${ON}
  text: ${VERSION}
  nothing: ${COUNT}${COUNT}
`
	evil := "a: b\n# \"c\" 'd' - {e: [f\n---\nkind: Secret"
	for _, kind := range []string{Manifests, Kustomize} {
		f := files("cm.yaml", manifest)
		if kind == Kustomize {
			f["kustomization.yaml"] = []byte("resources: [cm.yaml]\n")
		}
		o := here
		o.Parameters = map[string]any{"TEXT": evil, "COUNT": 3, "LIST": []any{"x", 1.5}, "ON": true, "VERSION": "1.10"}
		r := must(t, f, o)
		data, _, _ := unstructured.NestedStringMap(only(t, r, "ConfigMap").Object, "data")
		want := map[string]string{
			"alone": evil, "plain": evil, "within": "before " + evil + " after", "block": "first " + evil + "\n${KEPT} ${lower:-kept} $KEPT\n", "number": "3", "1.10": "key",
		}
		if diff := cmp.Diff(want, data); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
		if diff := cmp.Diff(map[string]string{"env": "pr-1", "ns": "env-pr-1", "version": "1.10"}, only(t, r, "ConfigMap").GetLabels()); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
		spec, _, _ := unstructured.NestedMap(only(t, r, "Thing").Object, "spec")
		if diff := cmp.Diff(map[string]any{"count": int64(3), "list": []any{"x", 1.5}, "really": true, "text": "1.10", "nothing": "33"}, spec); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
	}
}

// A source without parameters is not touched: shell scripts in ConfigMaps are full of ${NAME}.
func TestWithoutParametersNothingIsReplaced(t *testing.T) {
	t.Parallel()
	r := must(t, files("cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {run: 'echo ${HOME}'}\n"), here)
	if got, _, _ := unstructured.NestedString(only(t, r, "ConfigMap").Object, "data", "run"); got != "echo ${HOME}" {
		t.Error(got)
	}
}

// What a kustomization carries as data is not read as a manifest.
func TestDataOfAKustomizationIsKept(t *testing.T) {
	t.Parallel()
	o := here
	o.Parameters = map[string]any{"TAG": "v2"}
	f := files("kustomization.yaml", "resources: [web.yaml]\nlabels: [{pairs: {env: prod, path: here}}]\nconfigMapGenerator: [{name: cm, files: [script.yaml], options: {disableNameSuffixHash: true}}]\nimages: [{name: registry.example/web, newTag: \"${TAG}\"}]\n",
		"web.yaml", workloadNamed("web"), "script.yaml", "echo ${TAG} ${HOME}: : :\n")
	r := must(t, f, o)
	if got, _, _ := unstructured.NestedString(only(t, r, "ConfigMap").Object, "data", "script.yaml"); got != "echo ${TAG} ${HOME}: : :\n" {
		t.Error(got)
	}
	if got := containerOf(t, only(t, r, "Deployment"))["image"]; got != "registry.example/web:v2" {
		t.Error(got)
	}
}

func TestDefaultsOfParameters(t *testing.T) {
	t.Parallel()
	f := files("dayfly.yaml", `apiVersion: dayfly.dev/v1alpha1
kind: Blueprint
metadata: {name: x}
spec:
  path: .
  kind: manifests
  parameters:
    type: object
    properties:
      TAG: {type: string, default: v7, pattern: '^v'}
      EXTRA: {type: object, nullable: true, properties: {port: {type: integer, default: 8080}}, default: {}}
  components:
    web: {health: {path: /readyz, port: 80}, needs: []}
`, "web.yaml", strings.Replace(workloadNamed("web"), ":v1", ":${TAG}", 1)+"---\napiVersion: example.com/v1\nkind: Thing\nmetadata: {name: t}\nspec: ${EXTRA}\n")
	r := must(t, f, here)
	if got := containerOf(t, only(t, r, "Deployment"))["image"]; got != "registry.example/web:v7" {
		t.Error(got)
	}
	if port, _, _ := unstructured.NestedInt64(only(t, r, "Thing").Object, "spec", "port"); port != 8080 {
		t.Errorf("port %d", port)
	}
	web := r.Components[1]
	if web.Name != "web" || web.Health == nil || *web.Health != (Health{"/readyz", 80}) {
		t.Errorf("%s has health %v", web.Name, web.Health)
	}
}

func TestOverrides(t *testing.T) {
	t.Parallel()
	f := files("a.yaml", workloadNamed("web")+"---\n"+workloadNamed("api")+"---\n"+strings.ReplaceAll(workloadNamed("db"), "registry.example/db:v1", "docker.io/library/postgres:16@sha256:00"))
	o := here
	o.Images = map[string]string{"web": "registry.example/web@sha256:11", "registry.example/api": ":v2", "postgres": "postgres:17"}
	o.Replicas = map[string]int32{"api": 0}
	o.Patches = []Patch{
		{Patch: `[{"op":"add","path":"/metadata/labels","value":{"patched":"yes"}}]`, Target: &Target{Kind: "Deployment", Name: "a.*"}},
		{Patch: "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: api}\nspec: {template: {spec: {containers: [{name: main, env: [{name: A, value: b}]}]}}}\n"},
	}
	r := must(t, f, o)
	got := map[string]string{}
	for _, c := range r.Components {
		for _, d := range c.Objects {
			if d.GetKind() == "Deployment" {
				got[c.Name] = containerOf(t, d)["image"].(string) + " " + d.GetLabels()["patched"]
			}
			if d.GetKind() == "Deployment" && c.Name == "api" {
				if n, ok, _ := unstructured.NestedInt64(d.Object, "spec", "replicas"); !ok || n != 0 {
					t.Errorf("api has %d replicas", n)
				}
				if env, _ := containerOf(t, d)["env"].([]any); len(env) != 1 {
					t.Errorf("api has the environment %v", env)
				}
			}
		}
	}
	want := map[string]string{"web": "registry.example/web@sha256:11 ", "api": "registry.example/api:v2 yes", "db": "postgres:17 "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Declared needs are kept, inferred ones that would close a cycle wait for nobody, and a subset takes all along that it calls.
func TestNeeds(t *testing.T) {
	t.Parallel()
	f := files("a.yaml", calling("web", "api:80")+"---\n"+calling("api", "web", "db.env-pr-1.svc:80", "elsewhere")+"---\n"+calling("db")+"---\n"+calling("lone")+
		"---\n"+strings.Replace(calling("job", "lone"), "{name: job}", "{name: job, annotations: {dayfly.dev/needs: 'db, web'}}", 1))
	r := must(t, f, here)
	want := []string{
		"api: Service/api Deployment/api needs db,web", "db: Service/db Deployment/db", "job: Service/job Deployment/job needs db,web",
		"lone: Service/lone Deployment/lone", "web: Service/web Deployment/web",
	}
	if diff := cmp.Diff(want, outline(r)); diff != "" {
		t.Error(diff)
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "web calls api calls web: web is started without waiting for api") {
		t.Errorf("warnings %q", r.Warnings)
	}
	o := here
	o.Components = []string{"web"}
	if diff := cmp.Diff([]string{want[0], want[1], want[4]}, outline(must(t, f, o))); diff != "" {
		t.Error(diff)
	}
}

// An application that was made for a namespace moves into the environment's, and what would still call the old one is told.
func TestNamespaceMovesAlong(t *testing.T) {
	t.Parallel()
	text := "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n" + strings.ReplaceAll(calling("web", "api.shop.svc.cluster.local", "api.shop:80", "api.other.svc")+"---\n"+calling("api"), "metadata: {name: ", "metadata: {namespace: shop, name: ") +
		"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: rb, namespace: shop, uid: '1', resourceVersion: '7'}\nroleRef: {kind: Role, name: r}\nsubjects: [{kind: ServiceAccount, name: a, namespace: shop}, {kind: ServiceAccount, name: b, namespace: other}]\nstatus: {}\n"
	r := must(t, files("a.yaml", text), here)
	rb := only(t, r, "RoleBinding")
	subjects, _, _ := unstructured.NestedSlice(rb.Object, "subjects")
	if subjects[0].(map[string]any)["namespace"] != "env-pr-1" || subjects[1].(map[string]any)["namespace"] != "other" {
		t.Errorf("subjects %v", subjects)
	}
	if rb.GetNamespace() != "env-pr-1" || rb.GetUID() != "" || rb.GetResourceVersion() != "" || rb.Object["status"] != nil {
		t.Errorf("%v", rb.Object)
	}
	want := []string{
		"Namespace/shop is left out: dayfly makes the environment's namespace",
		"Deployment/web (URL_0) calls api.shop.svc.cluster.local in the namespace shop, not the environment's own: leave the namespace out, or write ${DAYFLY_NAMESPACE}",
		"Deployment/web (URL_1) calls api.shop in the namespace shop, not the environment's own: leave the namespace out, or write ${DAYFLY_NAMESPACE}",
	}
	if diff := cmp.Diff(want, r.Warnings); diff != "" {
		t.Error(diff)
	}
}

func TestCronJobsAreSuspendedUnlessAskedFor(t *testing.T) {
	t.Parallel()
	f := files("a.yaml", "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: nightly}\nspec:\n  schedule: '0 0 * * *'\n  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: x, image: x}]}}}}\n")
	for _, asked := range []bool{false, true} {
		o := here
		o.CronJobs = asked
		r := must(t, f, o)
		if suspended, _, _ := unstructured.NestedBool(only(t, r, "CronJob").Object, "spec", "suspend"); suspended == asked {
			t.Errorf("asked for: %v, suspended: %v", asked, suspended)
		}
		if r.Components[0].Name != "nightly" {
			t.Errorf("components %v", outline(r))
		}
	}
}

// Objects go with the workload that they serve, by whatever they name it.
func TestObjectsBelongToTheirComponent(t *testing.T) {
	t.Parallel()
	text := calling("web") + "---\n" + calling("api", "web") + `---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, labels: {dayfly.dev/component: api}}
---
apiVersion: v1
kind: Secret
metadata: {name: unused}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: in}
spec: {rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all}
spec: {podSelector: {}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: pdb}
spec: {minAvailable: 1, selector: {matchLabels: {app: api}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: worker, labels: {dayfly.dev/component: api}}
spec:
  selector: {matchLabels: {app: worker}}
  template:
    metadata: {labels: {app: worker}}
    spec:
      serviceAccountName: worker-account
      imagePullSecrets: [{name: pull}]
      containers: [{name: main, image: x, envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: keys}}]}]
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {TO: 'http://web'}}
- {apiVersion: v1, kind: Secret, metadata: {name: keys}}
- {apiVersion: v1, kind: Secret, metadata: {name: pull}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: worker-account}}
- {apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: role}}
- {apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: bind}, roleRef: {kind: Role, name: role}, subjects: [{kind: ServiceAccount, name: worker-account}]}
- {apiVersion: monitoring.coreos.com/v1, kind: ServiceMonitor, metadata: {name: web}}
`
	want := []string{
		"(shared): NetworkPolicy/all Secret/unused",
		"api: ServiceAccount/worker-account Role/role RoleBinding/bind Secret/keys Secret/pull ConfigMap/settings PersistentVolumeClaim/data Service/api PodDisruptionBudget/pdb StatefulSet/worker Deployment/api needs web",
		"web: Service/web ServiceMonitor/web Deployment/web Ingress/in",
	}
	if diff := cmp.Diff(want, outline(must(t, files("a.yaml", text), here))); diff != "" {
		t.Error(diff)
	}
}

// The same folder gives the same objects, in the same order.
func TestRenderingIsReproducible(t *testing.T) {
	t.Parallel()
	f := folder(t, "../../examples/shop")
	first := must(t, f, here).Digest()
	for range 5 {
		if again := must(t, f, here).Digest(); again != first {
			t.Fatalf("%s, then %s", first, again)
		}
	}
}

// Kubernetes' own types say which of them are of the whole cluster.
func TestScopesAreKubernetes(t *testing.T) {
	t.Parallel()
	dir := moduleDir(t, ".", "k8s.io/api")
	group := regexp.MustCompile(`\+groupName=(\S*)`)
	kinds := regexp.MustCompile(`^type (\w+) struct`)
	sources, err := filepath.Glob(dir + "/*/*/types.go")
	if err != nil || len(sources) < 30 {
		t.Fatalf("%d sources in %s: %v", len(sources), dir, err)
	}
	fromGo := map[string]bool{} // group/kind: is of the cluster
	for _, file := range sources {
		doc, err := os.ReadFile(filepath.Join(filepath.Dir(file), "doc.go"))
		if err != nil {
			t.Fatal(err)
		}
		name := ""
		if m := group.FindSubmatch(doc); m != nil {
			name = string(m[1])
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		client, cluster := false, false
		for s := bufio.NewScanner(f); s.Scan(); {
			line := s.Text()
			switch m := kinds.FindStringSubmatch(line); {
			case strings.HasPrefix(line, "// +genclient:nonNamespaced"):
				cluster = true
			case line == "// +genclient":
				client = true
			case m != nil && client:
				fromGo[name+"/"+m[1]] = cluster
				client, cluster = false, false
			case line == "}":
				client, cluster = false, false
			}
		}
		f.Close()
	}
	for key, cluster := range fromGo {
		g, k, _ := strings.Cut(key, "/")
		namespaced, known := Scope(schema.GroupVersionKind{Group: g, Version: "v1", Kind: k})
		if !known {
			t.Errorf("%s is not known", key)
		}
		if namespaced == cluster {
			t.Errorf("%s: of the cluster: %v, taken for namespaced: %v", key, cluster, namespaced)
		}
	}
	if n := len(fromGo); n < 60 {
		t.Errorf("%d kinds: %v", n, slices.Sorted(maps.Keys(fromGo)))
	}
}
