package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMatrixHasAllCombinations(t *testing.T) {
	t.Parallel()
	got, err := cells([]string{"db=15,16", "mode=fast,safe"})
	if err != nil || fmt.Sprint(got) != "[db=15 mode=fast db=15 mode=safe db=16 mode=fast db=16 mode=safe]" {
		t.Errorf("%v, %v", got, err)
	}
	if env := strings.Join(got[2].env(), " "); env != "DAYFLY_MATRIX_DB=16 DAYFLY_MATRIX_MODE=fast" {
		t.Error(env)
	}
	if in := got[1].in("reports/{db}-{mode}-{other}.xml"); in != "reports/15-safe-{other}.xml" {
		t.Error(in)
	}
	many := strings.Repeat("x,", 9) + "x"
	for what, matrix := range map[string][]string{"no value": {"a"}, "twice": {"a=1", "a=2"}, "too many": {"a=" + many, "b=" + many}} {
		if c, err := cells(matrix); err == nil {
			t.Errorf("%s: %v", what, c)
		}
	}
}

func TestPipelineFiles(t *testing.T) {
	t.Parallel()
	const head = "apiVersion: cli.dayfly.dev/v1\nkind: Pipeline\nstages:\n"
	read := func(text string) (*pipelineFile, error) {
		path := filepath.Join(t.TempDir(), "p.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return readPipeline(path)
	}
	p, err := read(head + "- {name: a, file: deploy, run: 'true', timeout: 5m}\n- {name: b, file: deploy, run: 'true', needs: [a], set: [x=1]}\n")
	if err != nil || len(p.Stages) != 2 || p.Stages[0].Timeout.Duration != 5*time.Minute || p.Stages[1].Needs[0] != "a" {
		t.Errorf("%+v, %v", p, err)
	}
	one := (&pipelineOptions{app: &App{}, file: "ci/p.yaml", artifacts: "out"}).options(p.Stages[0], new(sync.Mutex))
	if one.dir != "ci/deploy" || one.timeout != 5*time.Minute || one.ttl != stageTTL || one.artifacts != "out/a" || fmt.Sprint(one.command) != "[sh -c true]" {
		t.Errorf("%+v", one)
	}
	for want, text := range map[string]string{
		"is no file of stages":                 head + "- {name: a, file: d, run: r, retries: 3}\n",
		"not a Pipeline":                       "apiVersion: v1\nkind: ConfigMap\n",
		"it has 0 stages":                      head,
		"stage 1 has no name":                  head + "- {file: d, run: r}\n",
		"there are two stages a":               head + "- {name: a, file: d, run: r}\n- {name: a, file: d, run: r}\n",
		"stage a must say":                     head + "- {name: a, file: d}\n",
		"stage a needs b, which there is none": head + "- {name: a, file: d, run: r, needs: [b]}\n",
		"needs itself, by way of":              head + "- {name: a, file: d, run: r, needs: [b]}\n- {name: b, file: d, run: r, needs: [a]}\n",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// The kubeconfig of a runner that was killed is deleted by the next; that of one that runs is not.
func TestKubeconfigsOfTheDeadAreDeleted(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	mine, err := stageFile("test-1")
	if err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(filepath.Dir(mine), fmt.Sprintf("%d.123.test-2.kubeconfig", dead.Process.Pid))
	reused := filepath.Join(filepath.Dir(mine), fmt.Sprintf("%d.1.test-3.kubeconfig", os.Getpid())) // another process had this number
	for _, path := range []string{mine, gone, reused} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sweepStages()
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(mine), "*"))
	if len(left) != 1 || left[0] != mine {
		t.Errorf("left: %s", left)
	}
}

// Lines of several commands at once are whole, whatever pieces they are written in.
func TestPrefixedLinesAreWhole(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			p := &prefixed{mu: &mu, to: &out, prefix: fmt.Sprintf("%d | ", i)}
			defer p.flush()
			for range 50 {
				for _, piece := range []string{"a", "bc\nd", "ef\n", ""} {
					if n, err := p.Write([]byte(piece)); n != len(piece) || err != nil {
						t.Errorf("%d, %v", n, err)
					}
				}
			}
			_, _ = p.Write([]byte("end"))
		})
	}
	wg.Wait()
	counts := map[string]int{}
	for line := range strings.Lines(out.String()) {
		counts[line]++
	}
	for i := range 4 {
		for text, want := range map[string]int{"abc\n": 50, "def\n": 50, "end\n": 1} {
			if got := counts[fmt.Sprintf("%d | %s", i, text)]; got != want {
				t.Errorf("%d | %q is there %d times, want %d", i, text, got, want)
			}
		}
	}
	if len(counts) != 12 {
		t.Errorf("lines: %v", counts)
	}
}
