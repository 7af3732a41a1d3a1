// Package apart has work done in a process of its own: work on what nobody trusts, that may loop or fill the memory, ends that
// process and nothing else. What goes in and what comes out is JSON.
package apart

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime/debug"
	"strings"
	"time"

	"dayfly.dev/dayfly/internal/usererr"
)

// Work is a kind of work that is done apart, and its bounds. Whoever has it done has Memory to spare.
type Work struct {
	Name    string // such as "rendering a source"
	Blame   string // what may be wrong with what takes too much
	Memory  int64  // that the process may take, in bytes of data
	CPU     int    // seconds
	MostIn  int64  // bytes
	MostOut int
}

// reply is what comes out of such a process.
type reply[Out any] struct {
	Done    *Out         `json:"done,omitempty"`
	Code    usererr.Code `json:"code,omitempty"`
	Problem string       `json:"problem,omitempty"` // "": it worked
	Fix     string       `json:"fix,omitempty"`
}

// Do has a piece of work done by cmd: a program, not yet started, that calls [Serve] for the same work. It is given no
// environment unless cmd has one, and is killed when ctx ends.
func Do[In, Out any](ctx context.Context, cmd *exec.Cmd, w Work, in In) (*Out, error) {
	data, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.Name, err)
	}
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	out, said := &bounded{room: w.MostOut}, &bounded{room: 64 << 10}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = bytes.NewReader(data), out, said, time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", w.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	stop()
	var got reply[Out]
	switch {
	case ctx.Err() != nil:
		return nil, w.Late(ctx.Err())
	case err != nil && !overrun(cmd):
		return nil, fmt.Errorf("%s: %w: %s", w.Name, err, strings.TrimSpace(said.String()))
	case err != nil:
		return nil, usererr.New(usererr.Refused, w.Blame, "%s took more than %d MiB or %d s of CPU: %s", w.Name, w.Memory>>20, w.CPU, ended(err, said.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return nil, fmt.Errorf("%s: reading the answer: %w", w.Name, err)
	}
	if got.Problem != "" {
		return nil, &usererr.Error{Code: got.Code, Problem: got.Problem, Fix: got.Fix}
	}
	return got.Done, nil
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

// Late is the error of work that did not end in time.
func (w Work) Late(cause error) error {
	return usererr.New(usererr.TimedOut, w.Blame, "%s did not end in time", w.Name).Because(cause)
}

// Serve does one piece of work: what [Do] starts calls it with its standard input and output, and exits. It limits the whole
// process, for good: memory and CPU.
func Serve[In, Out any](from io.Reader, to io.Writer, w Work, do func(In) (*Out, error)) error {
	debug.SetMemoryLimit(w.Memory * 3 / 4)
	if err := w.limit(); err != nil {
		return fmt.Errorf("limiting the process: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(from, w.MostIn))
	if err != nil {
		return err
	}
	var in In
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	out, err := do(in)
	answer := reply[Out]{Done: out}
	if err != nil {
		answer = reply[Out]{Code: usererr.CodeOf(err), Problem: err.Error(), Fix: usererr.FixOf(err)}
	}
	return json.NewEncoder(to).Encode(answer)
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
