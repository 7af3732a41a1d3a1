package e2e

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"dayfly.dev/dayfly/test/script"
	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
)

var update = flag.Bool("update", false, "write what was printed into the scripts")

// What people type, what they read, and the exit codes that scripts can rely on: on a real cluster, with the real binary.
func TestStories(t *testing.T) {
	t.Parallel()
	old := filepath.Join(t.TempDir(), "dayfly-old")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=v0.9.0", "-o", old, "../../cmd/dayfly")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building a dayfly of another version: %v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: "stories", UpdateScripts: *update, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}
			if err := cluster.Create(context.Background(), ns); err != nil {
				return err
			}
			e.Vars = append(e.Vars, "NS="+ns.Name, "OLD="+old, "XDG_STATE_HOME="+e.WorkDir+"/laptop", "TZ=UTC",
				"KUBECONFIG="+kubeconfig(), "PATH="+filepath.Dir(binDayfly)+":"+os.Getenv("PATH"))
			e.Defer(func() {
				_ = exec.Command(binDayfly, "session", "close", "--all", "-n", ns.Name, "--timeout", "20s").Run()
				_ = cluster.Delete(context.Background(), ns)
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": script.Exits, "kubectl": storyKubectl, "user": storyUser, "plain": storyPlain, "answers": storyAnswers,
		},
	})
}

func kubeconfig() string { return cmp.Or(os.Getenv("KUBECONFIG"), clientcmd.RecommendedHomeFile) }

// storyKubectl runs kubectl with all rights in the story's namespace: kubectl ARGUMENT…
func storyKubectl(ts *testscript.TestScript, neg bool, args []string) {
	cmd := testcluster(append([]string{"kubectl", "-n", ts.Getenv("NS")}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), ts.Stdout(), ts.Stderr()
	if err := cmd.Run(); (err != nil) != neg {
		ts.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
}

// storyUser writes a kubeconfig with which the API server knows the caller by another name: user NAME FILE.
func storyUser(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: user NAME FILE")
	}
	config, err := clientcmd.LoadFromFile(kubeconfig())
	ts.Check(err)
	for _, u := range config.AuthInfos {
		u.Impersonate = args[0]
	}
	ts.Check(clientcmd.WriteToFile(*config, ts.MkAbs(args[1])))
}

var unstable = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`sha256:[0-9a-f]+`), "HASH"},
	{regexp.MustCompile(`\(process \d+\)`), "(process N)"},
}

// storyPlain replaces what differs from run to run in a file: plain FILE.
func storyPlain(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: plain FILE")
	}
	text := strings.ReplaceAll(ts.ReadFile(args[0]), ts.Getenv("NS"), "NS")
	if host, err := os.Hostname(); err == nil {
		text = strings.ReplaceAll(text, `"`+host+`"`, `"HOST"`)
		text = strings.ReplaceAll(text, "host: "+host, "host: HOST")
	}
	for _, u := range unstable {
		text = u.pattern.ReplaceAllString(text, u.name)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// storyAnswers listens on a free port of the laptop for as long as the story lasts: answers NAME sets NAME to the port.
func storyAnswers(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: answers NAME")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], fmt.Sprint(l.Addr().(*net.TCPAddr).Port))
}
