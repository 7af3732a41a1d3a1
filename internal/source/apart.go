package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"runtime/debug"
	"strings"
	"time"

	"dayfly.dev/dayfly/internal/usererr"
)

// Bounds of a process that renders apart.
const (
	// ApartMemory is what one may take, in bytes of data: whoever starts it has that much to spare.
	ApartMemory = 192 << 20

	apartCPU = 60 // seconds
)

// request and reply are what goes into such a process and comes out, as JSON.
type request struct {
	Folder  []byte  `json:"folder"` // packed
	Options Options `json:"options"`
}

type reply struct {
	Rendered *Rendered    `json:"rendered,omitempty"`
	Code     usererr.Code `json:"code,omitempty"`
	Problem  string       `json:"problem,omitempty"` // "": it worked
	Fix      string       `json:"fix,omitempty"`
}

// RenderApart renders as [Render] does, in a process of its own: a template that loops or fills the memory ends that process
// and nothing else. cmd is a program, not yet started, that calls [ServeApart]; it is given no environment unless cmd has one,
// and is killed when ctx ends.
func RenderApart(ctx context.Context, cmd *exec.Cmd, f Folder, o Options) (*Rendered, error) {
	packed, err := f.Pack()
	if err != nil {
		return nil, err
	}
	in, err := json.Marshal(request{packed, o})
	if err != nil {
		return nil, fmt.Errorf("rendering a source: %w", err)
	}
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	out, said := &bounded{room: maxOutput + maxFolder}, &bounded{room: 64 << 10}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = bytes.NewReader(in), out, said, time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("rendering a source: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	stop()
	var got reply
	switch {
	case ctx.Err() != nil:
		return nil, late(ctx.Err())
	case err != nil && !overrun(cmd):
		return nil, fmt.Errorf("rendering a source: %w: %s", err, strings.TrimSpace(said.String()))
	case err != nil:
		return nil, usererr.New(usererr.Refused, "a template of the source may loop, or make too much",
			"rendering the source took more than %d MiB or %d s of CPU: %s", ApartMemory>>20, apartCPU, ended(err, said.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return nil, fmt.Errorf("rendering a source: reading the answer: %w", err)
	}
	if got.Problem != "" {
		return nil, &usererr.Error{Code: got.Code, Problem: got.Problem, Fix: got.Fix}
	}
	return got.Rendered, nil
}

// overrun says whether a process was ended by the kernel, or by Go for want of memory or stack.
func overrun(cmd *exec.Cmd) bool {
	code := cmd.ProcessState.ExitCode()
	return code == -1 || code == 2
}

// ended says how the process ended, in a line.
func ended(err error, said string) string {
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "runtime: ") {
			return strings.TrimSpace(line)
		}
	}
	return err.Error()
}

func late(cause error) error {
	return usererr.New(usererr.TimedOut, "a template of the source may loop, or make too much", "rendering the source did not end in time").Because(cause)
}

// ServeApart renders one source: what [RenderApart] starts calls it with its standard input and output, and exits. It limits
// the whole process, for good: memory, CPU, no HTTP.
func ServeApart(in io.Reader, out io.Writer) error {
	debug.SetMemoryLimit(ApartMemory * 3 / 4)
	if err := limit(); err != nil {
		return fmt.Errorf("limiting the process: %w", err)
	}
	http.DefaultTransport = refusing{}
	data, err := io.ReadAll(io.LimitReader(in, 4*maxFolder))
	if err != nil {
		return err
	}
	var req request
	if err := json.Unmarshal(data, &req); err != nil {
		return err
	}
	f, err := Unpack(req.Folder)
	var r *Rendered
	if err == nil {
		r, err = render(context.Background(), f, req.Options)
	}
	answer := reply{Rendered: r}
	if err != nil {
		answer = reply{Code: usererr.CodeOf(err), Problem: err.Error(), Fix: usererr.FixOf(err)}
	}
	return json.NewEncoder(out).Encode(answer)
}

// refusing is a transport that reaches nobody.
type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("rendering a source fetches nothing")
}

// bounded is a buffer that refuses more than it has room for.
type bounded struct {
	bytes.Buffer
	room int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.room {
		return 0, errors.New("it says too much")
	}
	return b.Buffer.Write(p)
}
