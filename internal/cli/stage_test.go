package cli

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
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
