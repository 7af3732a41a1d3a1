package servicegraph

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what was made into the golden files")

// now is when the golden graphs were observed.
var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// observe reads objects as Observe would.
func observe(t *testing.T, namespace, manifests string) *Observed {
	t.Helper()
	o := &Observed{Now: now, Namespace: namespace, ConfigMaps: map[client.ObjectKey]*corev1.ConfigMap{}}
	for _, doc := range strings.Split("\n"+manifests, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		into := func(v any) {
			if err := yaml.UnmarshalStrict([]byte(doc), v); err != nil {
				t.Fatalf("%v\n%s", err, doc)
			}
		}
		switch u.GetKind() {
		case "Service":
			into(grow(&o.Services))
		case "Deployment":
			l := &appsv1.DeploymentList{}
			into(grow(&l.Items))
			o.Workloads = append(o.Workloads, ofDeployments(l)...)
		case "StatefulSet":
			l := &appsv1.StatefulSetList{}
			into(grow(&l.Items))
			o.Workloads = append(o.Workloads, ofStatefulSets(l)...)
		case "CronJob":
			l := &batchv1.CronJobList{}
			into(grow(&l.Items))
			o.Workloads = append(o.Workloads, ofCronJobs(l)...)
		case "Pod":
			into(grow(&o.Pods))
		case "ConfigMap":
			m := &corev1.ConfigMap{}
			into(m)
			o.ConfigMaps[client.ObjectKeyFromObject(m)] = m
		case "Ingress":
			into(grow(&o.Ingresses))
		case "NetworkPolicy":
			into(grow(&o.Policies))
		case "HTTPRoute":
			o.Routes = append(o.Routes, ofRoutes(&unstructured.UnstructuredList{Items: []unstructured.Unstructured{*u}})...)
		case "Session":
			into(grow(&o.Sessions))
		case "Alteration":
			into(grow(&o.Alterations))
		default:
			t.Fatalf("no kind that a graph is made of: %s", doc)
		}
	}
	o.Workloads = append(o.Workloads, ofPods(o.Pods, o.Workloads)...)
	return o
}

func grow[T any](s *[]T) *T {
	*s = append(*s, *new(T))
	return &(*s)[len(*s)-1]
}

// Each file of testdata is a cluster and the graph of it in every form.
func TestGraphsAreAsDrawn(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { golden(t, path) })
	}
}

func golden(t *testing.T, path string) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	namespace := strings.TrimSpace(string(archive.Comment))
	o := observe(t, strings.TrimPrefix(namespace, "all"), string(archive.Files[0].Data))
	for i := range o.Sessions {
		o.Sessions[i].Status.Connected = true
	}
	g := Build(o)
	for i := range archive.Files[1:] {
		f := &archive.Files[i+1]
		got := string(render(t, g, f.Name))
		if *update {
			f.Data = []byte(got)
		} else if diff := cmp.Diff(string(f.Data), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", f.Name, diff)
		}
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func render(t *testing.T, g *Graph, name string) []byte {
	t.Helper()
	var out bytes.Buffer
	var err error
	switch filepath.Ext(name) {
	case ".txt":
		err = Text(&out, g, TextOptions{})
	case ".narrow":
		err = Text(&out, g, TextOptions{Width: 60})
	case ".mmd":
		err = Mermaid(&out, g)
	case ".dot":
		err = Dot(&out, g)
	case ".svg":
		err = SVG(&out, g)
	case ".json":
		e := json.NewEncoder(&out)
		e.SetIndent("", "  ")
		err = e.Encode(g)
	default:
		t.Fatalf("no form of a graph: %s", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What a setting holds, and what a rule asks of a credential, is in no form of the graph.
func TestGraphShowsNoValues(t *testing.T) {
	t.Parallel()
	o := large(t, 3)
	o.Workloads[0].Pod.Containers[0].Env = append(o.Workloads[0].Pod.Containers[0].Env,
		corev1.EnvVar{Name: "DATABASE_URL", Value: "postgres://u:hunter2@service-002:80/x?token=hunter2"})
	s := v1alpha1.Session{}
	s.Namespace, s.Name = "big", "s"
	s.Spec.Intercepts = []v1alpha1.Intercept{{Service: "service-001", Port: 80, LaptopPort: 1, Rule: &v1alpha1.Rule{Headers: []v1alpha1.HeaderLine{{Name: "authorization", Value: "Bearer hunter2"}}}}}
	o.Sessions = append(o.Sessions, s)
	g := Build(o)
	for _, form := range []string{"x.txt", "x.mmd", "x.dot", "x.svg", "x.json"} {
		out := string(render(t, g, form))
		if strings.Contains(out, "hunter2") {
			t.Errorf("%s shows a value", form)
		}
		if form == "x.json" && !strings.Contains(out, "DATABASE_URL") {
			t.Error("the variable is not named")
		}
	}
}

func TestNoBoxOverlapsAnother(t *testing.T) {
	t.Parallel()
	g := Build(large(t, 200))
	p := newPicture(g)
	p.draw()
	for i := range p.l.boxes {
		for j := range i {
			a, b := &p.l.boxes[i], &p.l.boxes[j]
			if a.x < b.x+b.w && b.x < a.x+a.w && a.y+0.01 < b.y+b.h && b.y+0.01 < a.y+a.h {
				t.Fatalf("boxes %d and %d overlap: %+v %+v", i, j, a, b)
			}
		}
	}
}

// large is an application of n services in layers, each calling three of the next.
func large(t *testing.T, n int) *Observed {
	var out []string
	for i := range n {
		env := ""
		for k := range 3 {
			if to := i*2 + k + 1; to < n {
				env += fmt.Sprintf("\n        - {name: S%d_URL, value: 'http://service-%03d'}", k, to)
			}
		}
		if env != "" {
			env = "\n        env:" + env
		}
		out = append(out, fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: service-%03[1]d, namespace: big}
spec: {selector: {app: s%[1]d}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: service-%03[1]d, namespace: big}
spec:
  selector: {matchLabels: {app: s%[1]d}}
  template:
    metadata: {labels: {app: s%[1]d}}
    spec:
      containers:
      - name: app%[2]s
`, i, env))
	}
	return observe(t, "big", strings.Join(out, "---\n"))
}

func TestTwoHundredServicesStayLegible(t *testing.T) {
	t.Parallel()
	o := large(t, 200)
	begin := time.Now()
	g := Build(o)
	text := string(render(t, g, "x.txt"))
	svg := render(t, g, "x.svg")
	t.Logf("built and drawn in %s, %d lines, %d bytes of SVG", time.Since(begin), strings.Count(text, "\n"), len(svg))
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("building and drawing 200 services took %s", d)
	}
	if n := strings.Count(text, "\n"); n > 450 {
		t.Errorf("%d lines for 200 services", n)
	}
	for line := range strings.Lines(text) {
		if len([]rune(line)) > 140 {
			t.Errorf("a line of %d columns: %s", len([]rune(line)), line)
		}
	}
}

// What comes from others is text in every form, never markup, and moves no cursor.
func TestNamesOfOthersAreNeverMarkup(t *testing.T) {
	t.Parallel()
	evil := "<script>alert(1)</script>\"]\n  click n0 \"javascript:alert(1)\"\x1b[2J`**#quot;"
	o := large(t, 2)
	s := v1alpha1.Session{}
	s.Namespace, s.Name = "big", "s"
	s.Spec.Owner.Username, s.Spec.Host = evil, evil
	s.Spec.Intercepts = []v1alpha1.Intercept{{Service: "service-001", Port: 80, LaptopPort: 1, Rule: &v1alpha1.Rule{Headers: []v1alpha1.HeaderLine{{Name: "x", Value: evil}}}}}
	o.Sessions = append(o.Sessions, s)
	g := Build(o)
	for _, form := range []string{"x.txt", "x.mmd", "x.dot", "x.svg"} {
		out := string(render(t, g, form))
		if strings.ContainsRune(out, 0x1b) {
			t.Errorf("%s: an escape sequence came through", form)
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(strings.TrimSpace(line), "click ") {
				t.Errorf("%s: a line of its own: %s", form, line)
			}
		}
		if form != "x.txt" && form != "x.dot" && strings.Contains(out, "<script>") {
			t.Errorf("%s: a tag came through", form)
		}
	}
	if err := xml.Unmarshal(render(t, g, "x.svg"), new(struct{})); err != nil {
		t.Errorf("the SVG is no XML: %v", err)
	}
}
