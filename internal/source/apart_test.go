package source

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/google/go-cmp/cmp"
)

func program(t *testing.T) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(self, "serve-apart")
}

func chartOf(template string) Folder {
	return files("Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n", "templates/x.yaml", template)
}

func TestApartIsTheSame(t *testing.T) {
	t.Parallel()
	f := folder(t, "../../examples/shop")
	o := here
	o.Replicas = map[string]int32{"catalog": 3}
	r, err := RenderApart(t.Context(), program(t), f, o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(must(t, f, o), r); diff != "" {
		t.Error(diff)
	}
	o.Replicas = map[string]int32{"catalogue": 3}
	_, err = RenderApart(t.Context(), program(t), f, o)
	_, want := Render(t.Context(), f, o)
	if err == nil || err.Error() != want.Error() || usererr.CodeOf(err) != usererr.CodeOf(want) {
		t.Errorf("%v, not %v", err, want)
	}
}

// A program that is none of ours is no fault of the source's.
func TestApartNeedsItsProgram(t *testing.T) {
	t.Parallel()
	_, err := RenderApart(t.Context(), exec.Command("false"), chartOf(""), here)
	if err == nil || usererr.CodeOf(err) != usererr.Failed {
		t.Errorf("%v", err)
	}
}

// Templates that loop for ever, and those that fill the memory, end.
func TestTemplatesEnd(t *testing.T) {
	t.Parallel()
	memory := chartOf(`{{range until 100}}{{$x := repeat 100000000 "0123456789"}}{{$y := repeat 2 $x}}{{end}}`)
	if _, err := RenderApart(t.Context(), program(t), memory, here); err == nil || !strings.Contains(err.Error(), "took more than 192 MiB or 60 s of CPU") || usererr.CodeOf(err) != usererr.Refused {
		t.Errorf("%v", err)
	}
	loop := chartOf(`{{define "t"}}{{range until 10000}}{{range until 10000}}{{range until 10000}}{{end}}{{end}}{{end}}{{end}}{{template "t"}}`)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	start := time.Now()
	_, err := RenderApart(ctx, program(t), loop, here)
	if !errors.Is(err, context.DeadlineExceeded) || usererr.CodeOf(err) != usererr.TimedOut {
		t.Errorf("%v", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("it ended after %s", d)
	}
}
