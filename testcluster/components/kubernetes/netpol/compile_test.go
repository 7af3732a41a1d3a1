package netpol

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what Compile returns to the expected files")

// TestCompile compiles each testdata/*.yaml for node-1 and compares the outcome with the .nft file beside it.
func TestCompile(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			pods, namespaces, policies := read(t, file)
			got := Compile("node-1", pods, namespaces, policies)
			golden := strings.TrimSuffix(file, ".yaml") + ".nft"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("ruleset (-want +got):\n%s", diff)
			}
			slices.Reverse(pods)
			slices.Reverse(policies)
			if diff := cmp.Diff(got, Compile("node-1", pods, namespaces, policies)); diff != "" {
				t.Errorf("the order of the arguments matters:\n%s", diff)
			}
			accepted(t, got)
		})
	}
}

// accepted lets the kernel check the ruleset, in a network namespace of its own.
func accepted(t *testing.T, ruleset string) {
	if os.Geteuid() != 0 {
		t.Log("not root: nft does not check the ruleset")
		return
	}
	cmd := exec.Command("unshare", "--net", "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(ruleset)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("nft: %v\n%s", err, out)
	}
}

func read(t *testing.T, file string) (pods []*corev1.Pod, namespaces []*corev1.Namespace, policies []*networkingv1.NetworkPolicy) {
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for doc := range bytes.SplitSeq(content, []byte("\n---\n")) {
		var meta metav1.TypeMeta
		unmarshal(t, doc, &meta, yaml.Unmarshal)
		switch meta.Kind {
		case "Pod":
			pods = append(pods, unmarshal(t, doc, &corev1.Pod{}, yaml.UnmarshalStrict))
		case "Namespace":
			namespaces = append(namespaces, unmarshal(t, doc, &corev1.Namespace{}, yaml.UnmarshalStrict))
		case "NetworkPolicy":
			policies = append(policies, unmarshal(t, doc, &networkingv1.NetworkPolicy{}, yaml.UnmarshalStrict))
		default:
			t.Fatalf("%s: no kind in\n%s", file, doc)
		}
	}
	return pods, namespaces, policies
}

func unmarshal[T any](t *testing.T, doc []byte, into T, how func([]byte, any, ...yaml.JSONOpt) error) T {
	t.Helper()
	if err := how(doc, into); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	return into
}
