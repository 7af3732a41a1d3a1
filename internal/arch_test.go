// Package internal_test holds dayfly's packages to docs/architecture.md, and its promises to docs/guarantees.md.
package internal_test

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const module = "dayfly.dev/dayfly/"

// layers reads the table of layers: the number of a package's layer.
func layers(t *testing.T) map[string]int {
	t.Helper()
	data, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d) [^|]*\| ([^|]+) \|`).FindAllStringSubmatch(string(data), -1) {
		n, _ := strconv.Atoi(row[1])
		for _, p := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			out[p[1]] = n
		}
	}
	if len(out) < 10 {
		t.Fatalf("docs/architecture.md has no table of layers that can be read: %v", out)
	}
	return out
}

func packageName(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "internal/")
}

func TestImportsPointDownOnly(t *testing.T) {
	layer := layers(t)
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "../api/...", "../cmd/dayfly", "../deploy", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		from := packageName(fields[0])
		if from == "internal" {
			continue
		}
		own, ok := layer[from]
		if !ok {
			t.Errorf("package %s is in no layer of docs/architecture.md", from)
			continue
		}
		seen[from] = true
		for _, path := range fields[1:] {
			if !strings.HasPrefix(path, module) {
				continue
			}
			to := packageName(path)
			if n, ok := layer[to]; !ok || n > own || n == own && n == 4 {
				t.Errorf("%s (layer %d) imports %s (layer %d): imports point down, and faces do not know each other", from, own, to, n)
			}
		}
	}
	for p := range layer {
		if !seen[p] {
			t.Errorf("docs/architecture.md names package %s, which does not exist", p)
		}
	}
}

// What knows nothing of Kubernetes must not come to know it.
func TestMechanismsKnowNothingOfKubernetes(t *testing.T) {
	for p, n := range layers(t) {
		if n > 1 || p == "api/v1alpha1" {
			continue
		}
		out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, "./"+p).Output()
		if err != nil {
			t.Fatal(err)
		}
		for imp := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(imp, "k8s.io/") || strings.HasPrefix(imp, "sigs.k8s.io/") {
				t.Errorf("%s imports %s", p, imp)
			}
		}
	}
}

// What reads objects from files asks no cluster, on nobody's behalf.
func TestSourcesAskNoCluster(t *testing.T) {
	for _, p := range []string{"source", "fetch", "mention"} {
		if n := layers(t)[p]; n != 2 {
			t.Errorf("package %s is in layer %d of docs/architecture.md", p, n)
		}
		out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, "./"+p).Output()
		if err != nil {
			t.Fatal(err)
		}
		for imp := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(imp, "k8s.io/client-go") || strings.HasPrefix(imp, "sigs.k8s.io/controller-runtime") {
				t.Errorf("%s imports %s", p, imp)
			}
		}
	}
}

func TestEveryPackageOpensWithASentence(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); strings.HasPrefix(name, ".") && name != ".." || name == "testdata" || name == "bin" || name == "testcluster" || name == "tools" || name == "shop" {
			return filepath.SkipDir
		}
		files, _ := filepath.Glob(filepath.Join(path, "*.go"))
		doc := len(files) == 0
		for _, f := range files {
			src, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				return err
			}
			doc = doc || src.Doc != nil && len(src.Doc.Text()) > 20
		}
		if !doc {
			t.Errorf("%s: no file says what the package is for", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every promise names tests, and every named test exists.
func TestEveryGuaranteeHasItsTest(t *testing.T) {
	checkRows(t, "../docs/guarantees.md", regexp.MustCompile(`(?m)^\| (\d+) \|[^|]+\| ([^|]+) \|`), 7)
}

// Every threat, too.
func TestEveryThreatHasItsTest(t *testing.T) {
	checkRows(t, "../docs/threat-model.md", regexp.MustCompile(`(?m)^\| ([^|`+"`"+`]+) \| [^|]+ \| ([^|\n]*) \|$`), 20)
}

// checkRows reads a table whose rows are named by the first group and name tests in the second.
func checkRows(t *testing.T, file string, row *regexp.Regexp, least int) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if file == "../docs/threat-model.md" { // another table stands before the one of threats
		_, after, ok := strings.Cut(string(data), "## Threats")
		if !ok {
			t.Fatal("docs/threat-model.md has no threats")
		}
		data = []byte(after)
	}
	tests := map[string]bool{}
	out, err := exec.Command("git", "grep", "-hoE", `^func (Test|Fuzz)[A-Za-z0-9_]+`, "--", "..").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		tests[name] = true
	}
	rows := row.FindAllStringSubmatch(string(data), -1)
	if len(rows) < least {
		t.Fatalf("%s has %d rows that can be read", file, len(rows))
	}
	for _, row := range rows {
		if row[1] == "threat" || strings.HasPrefix(row[1], "-") {
			continue // the head of the table
		}
		names := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`").FindAllStringSubmatch(row[2], -1)
		if len(names) == 0 {
			t.Errorf("%s: %q names no test", file, row[1])
		}
		for _, n := range names {
			if !tests[n[1]] {
				t.Errorf("%s: %q: there is no test %s", file, row[1], n[1])
			}
		}
	}
}
