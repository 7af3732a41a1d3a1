package e2e

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/servicegraph"
	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The shop is drawn as its manifests say it is, with an intercept on it, in every form; who may see less is told so.
func TestGraphShowsTheShopAndWhoAltersIt(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	kubectl(t, "apply", "-n", ns, "-k", "../../examples/shop/deploy")
	awaitDeployment(t, ns, "catalog")
	l := newLaptop(t, ns)
	port := l.answer("laptop")
	l.dayfly("intercept", "service", "catalog", "--service-port", "80", "--port", fmt.Sprint(port), "--detach")

	var g servicegraph.Graph
	must(t, json.Unmarshal([]byte(l.dayfly("graph", "-o", "json")), &g))
	calls := func(g servicegraph.Graph) (out []string) {
		for _, c := range g.Calls {
			out = append(out, fmt.Sprintf("%s > %s %v %s", strings.TrimPrefix(c.From, ns+"/"), strings.TrimPrefix(c.To, ns+"/"), c.Ports, c.Known[0].Detail))
		}
		return out
	}
	want := []string{"catalog > stock [80] STOCK_URL", "orders > stock [80] STOCK_URL", "storefront > catalog [80] CATALOG_URL", "storefront > orders [80] ORDERS_URL"}
	var configured servicegraph.Graph
	for _, c := range g.Calls {
		if i := slices.IndexFunc(c.Known, func(k servicegraph.Known) bool { return k.By == servicegraph.ByConfiguration }); i >= 0 {
			c.Known = c.Known[i:]
			configured.Calls = append(configured.Calls, c)
		}
	}
	if diff := cmp.Diff(want, calls(configured)); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	roles := map[string]servicegraph.Role{}
	for _, n := range g.Nodes {
		roles[n.Name] = n.Role
		if n.Name == "catalog" && (len(n.Alterations) != 1 || n.Alterations[0].State != "Armed" || n.Alterations[0].LaptopPort != int32(port)) {
			t.Errorf("the intercept is not drawn as it is: %+v", n.Alterations)
		}
	}
	if diff := cmp.Diff(map[string]servicegraph.Role{"storefront": "edge", "catalog": "core", "orders": "core", "stock": "leaf"}, roles); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
	deployClient(t, ns)
	inPod(t, ns, "get", "http://catalog/healthz") // the client's configuration names nobody: only a router can know of this call
	await(t, promise(5*time.Second), "the call to be seen", func() error {
		var g servicegraph.Graph
		if err := json.Unmarshal([]byte(l.dayfly("graph", "-o", "json")), &g); err != nil {
			return err
		}
		seen := slices.ContainsFunc(g.Calls, func(c servicegraph.Call) bool {
			return c.From == ns+"/deployment/client" && c.To == ns+"/catalog" && c.Known[0].By == servicegraph.BySight
		})
		if !seen {
			return fmt.Errorf("%+v", g.Calls)
		}
		return nil
	})
	text := l.dayfly("graph")
	for _, part := range []string{"◆ storefront", "● catalog:80", "⇄ ", "routing key", "Armed", "○ stock:80"} {
		if !strings.Contains(text, part) {
			t.Errorf("the text lacks %q:\n%s", part, text)
		}
	}
	t.Logf("\n%s", text)
	if out := l.dayfly("graph", "-o", "svg"); xml.Unmarshal([]byte(out), new(struct{})) != nil || !strings.Contains(out, "catalog") {
		t.Errorf("no picture:\n%s", out)
	}
	for _, form := range []string{"mermaid", "dot"} {
		if out := l.dayfly("graph", "-o", form); !strings.Contains(out, "storefront") {
			t.Errorf("-o %s:\n%s", form, out)
		}
	}
	if _, errOut, code := l.try("graph", "-o", "png"); code != 2 || !strings.Contains(errOut, "mermaid") {
		t.Errorf("a form that there is not: exit code %d: %s", code, errOut)
	}
}

func TestGraphSaysWhatItMayNotSee(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	kubectl(t, "apply", "-n", ns, "-k", "../../examples/shop/deploy")
	u := newUser(t, "looker")
	l := newLaptop(t, ns).as(u.kubeconfig)
	if _, errOut, code := l.try("graph"); code != 5 || !strings.Contains(errOut, "fix:") {
		t.Errorf("without any right: exit code %d: %s", code, errOut)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "looker"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"", "apps"}, Resources: []string{"services", "deployments"}, Verbs: []string{"list"}},
	}}
	must(t, cluster.Create(t.Context(), role))
	must(t, cluster.Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "looker"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "looker"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: u.name}}}))
	var g servicegraph.Graph
	await(t, promise(time.Second), "the role", func() error {
		out, errOut, code := l.try("graph", "-o", "json")
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, errOut)
		}
		return json.Unmarshal([]byte(out), &g)
	})
	if len(g.Calls) != 4 {
		t.Errorf("%d calls of 4 were seen: %+v", len(g.Calls), g.Calls)
	}
	unseen := map[string]bool{}
	for _, u := range g.Unseen {
		unseen[u.What] = true
	}
	for _, what := range []string{"sessions", "alterations", "networkpolicies", "ingresses", "pods", "statefulsets"} {
		if !unseen[what] {
			t.Errorf("the graph does not say that it could not see %s: %+v", what, g.Unseen)
		}
	}
}

// An application of 200 services, read from a real API server, drawn and written, does not keep anybody waiting.
func TestGraphOfTwoHundredServicesIsQuick(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	var all strings.Builder
	for i := range 200 {
		fmt.Fprintf(&all, `---
apiVersion: v1
kind: ConfigMap
metadata: {name: s%03[1]d}
data: {NEXT_URL: "http://s%03[2]d", OTHER_HOST: "s%03[3]d"}
---
apiVersion: v1
kind: Service
metadata: {name: s%03[1]d}
spec: {selector: {app: s%03[1]d}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: s%03[1]d}
spec:
  replicas: 0
  selector: {matchLabels: {app: s%03[1]d}}
  template:
    metadata: {labels: {app: s%03[1]d}}
    spec: {containers: [{name: app, image: %[4]s, envFrom: [{configMapRef: {name: s%03[1]d}}]}]}
`, i, i+1+i%3, (i+40)/2*2, testappImage)
	}
	path := filepath.Join(t.TempDir(), "all.yaml")
	must(t, os.WriteFile(path, []byte(all.String()), 0o600))
	kubectl(t, "apply", "-n", ns, "-f", path)
	l := newLaptop(t, ns)
	begin := time.Now()
	out := l.dayfly("graph", "-o", "json")
	took := time.Since(begin)
	var g servicegraph.Graph
	must(t, json.Unmarshal([]byte(out), &g))
	t.Logf("%d nodes and %d calls in %s", len(g.Nodes), len(g.Calls), took)
	if len(g.Nodes) != 200 || len(g.Calls) < 300 || took > promise(2*time.Second) {
		t.Errorf("%d nodes, %d calls, %s; not seen: %v", len(g.Nodes), len(g.Calls), took, g.Unseen)
	}
}
