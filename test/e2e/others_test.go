package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/share"
)

// moduleDir is where a module that test/sources requires has its files.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = "../sources"
	out, err := cmd.Output()
	must(t, err)
	var m struct{ Dir string }
	must(t, json.Unmarshal(out, &m))
	return m.Dir
}

// Applications that nobody here wrote, as their authors publish them, are made, woken, changed and removed like one's own.
func TestApplicationsOfOthersLiveAndAreGoneWithoutATrace(t *testing.T) {
	t.Parallel()
	for _, app := range []struct {
		name, component, module, dir string
		flags                        []string
		path, says                   string
	}{
		{"a kustomization", "podinfo", "github.com/stefanprodan/podinfo", "kustomize",
			[]string{"--image", "podinfo=docker.io/dayfly/podinfo:dev"}, "/version", `"version"`},
		{"a chart", "alertmanager", "github.com/prometheus-community/helm-charts", "charts/alertmanager",
			[]string{"--image", "alertmanager=docker.io/dayfly/alertmanager:dev", "--set", "hostUsers=true",
				"--set", "readinessProbe.httpGet.path=/-/ready", "--set", "livenessProbe.httpGet.path=/-/healthy"}, "/api/v2/status", `"versionInfo"`}, // Debian's has no page at /
	} {
		t.Run(app.name, func(t *testing.T) {
			t.Parallel()
			home, l := newHome(t)
			v := newVisitor(t)
			start := time.Now()
			l.dayfly(append([]string{"env", "create", "pr-1", "-f", filepath.Join(moduleDir(t, app.module), app.dir)}, app.flags...)...)
			t.Logf("%s is ready after %v", app.component, time.Since(start).Round(10*time.Millisecond))
			lives := "env-" + home + "-pr-1"
			token, _ := shared(t, l, "pr-1")
			url := addressOf(t, home, "pr-1", app.component) + app.path
			check := func(when string) {
				t.Helper()
				if code, text := v.get(url, share.Header, token); code != 200 || !strings.Contains(text, app.says) {
					t.Errorf("%s: %d %s", when, code, text)
				}
			}
			check("made")
			l.dayfly("env", "sleep", "pr-1")
			check("asleep") // which wakes it
			l.dayfly("env", "update", "pr-1", "--replicas", app.component+"=2")
			check("changed")
			l.dayfly("env", "delete", "pr-1")
			checkNobodySpeaksOf(t, lives)
			await(t, promise(10*time.Second), "its volumes are gone", func() error { return noVolumesOf(t, lives) })
		})
	}
}
