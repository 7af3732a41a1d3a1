package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A cluster without dayfly: every command says so and what to do. It has a small cluster of its own, as the one that all
// other stories share has dayfly.
func TestNotInstalled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	bare := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(binTestcluster, append([]string{"--dir", dir}, args...)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(dir, "kubeconfig"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("testcluster %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	t.Cleanup(func() { _ = exec.Command(binTestcluster, "--dir", dir, "down").Run() })
	bare("up", "--nodes", "1")
	bare("kubectl", "create", "service", "clusterip", "web", "--tcp=80:8080")
	l := newLaptop(t, "default").as(bare("kubeconfig"))
	for _, args := range [][]string{
		{"intercept", "service", "web", "--close"},
		{"session", "list"}, {"session", "list", "-A"}, {"session", "show", "ada"}, {"session", "close", "ada"}, {"session", "close", "--all"},
		{"intercept", "service", "web", "-l", "9"}, {"intercept", "service", "web", "-l", "9", "--detach"},
	} {
		_, errOut, code := l.try(args...)
		if code != 4 || !strings.Contains(errOut, "error: dayfly is not installed in this cluster") || !strings.Contains(errOut, "run: dayfly install") {
			t.Errorf("dayfly %s: exit code %d\n%s", strings.Join(args, " "), code, errOut)
		}
	}
	checkFilesGone(t, l)
}
