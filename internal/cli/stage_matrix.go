package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"dayfly.dev/dayfly/internal/usererr"
)

// cell is one combination of a matrix.
type cell []setting

// setting is one parameter and its value.
type setting struct {
	Parameter string `json:"parameter"`
	Value     string `json:"value"`
}

func (c cell) String() string {
	var out []string
	for _, s := range c {
		out = append(out, s.Parameter+"="+s.Value)
	}
	return strings.Join(out, " ")
}

// env is what the command of a cell finds in its environment.
func (c cell) env() []string {
	var out []string
	for _, s := range c {
		out = append(out, "DAYFLY_MATRIX_"+variable(s.Parameter)+"="+s.Value)
	}
	return out
}

// in puts the cell's values into a text, for each {PARAMETER}.
func (c cell) in(text string) string {
	for _, s := range c {
		text = strings.ReplaceAll(text, "{"+s.Parameter+"}", s.Value)
	}
	return text
}

// mostCells are run of a matrix.
const mostCells = 64

// cells are all combinations, in the order in which they are written.
func cells(matrix []string) ([]cell, error) {
	out := []cell{nil}
	for _, text := range matrix {
		name, values, err := pair("--matrix", text)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out[0], func(s setting) bool { return s.Parameter == name }) {
			return nil, usererr.New(usererr.Usage, "write --matrix "+name+"=A,B once", "--matrix %s is there twice", name)
		}
		var next []cell
		for _, c := range out {
			for _, v := range strings.Split(values, ",") {
				next = append(next, append(slices.Clone(c), setting{name, v}))
			}
		}
		if out = next; len(out) > mostCells {
			return nil, usererr.New(usererr.Usage, "", "a matrix of %d stages is larger than %d", len(out), mostCells)
		}
	}
	return out, nil
}

// stageList is what a matrix prints with -o json and -o yaml.
type stageList struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Items      []stageView `json:"items"`
}

// runMatrix runs a stage for each combination, some at once. Its exit code is the worst.
func (o *stageOptions) runMatrix(ctx context.Context) error {
	all, err := cells(o.matrix)
	if err != nil {
		return err
	}
	if o.parallel < 1 {
		return usererr.New(usererr.Usage, "use a number from 1", "--parallel %d: nothing would run", o.parallel)
	}
	outer := ctx
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var writing sync.Mutex
	results, errs := make([]stageView, len(all)), make([]error, len(all))
	places := make(chan struct{}, o.parallel)
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if ctx.Err() != nil {
				errs[i] = ctx.Err()
				return
			}
			one := o.of(c, &writing)
			defer one.app.flush()
			r, err := one.one(ctx)
			if errs[i] = err; r != nil {
				results[i] = r.view
			}
			if usererr.CodeOf(err) == usererr.Usage {
				stop(err) // it is wrong for all of them
			}
		})
	}
	wg.Wait()
	if outer.Err() != nil {
		return outer.Err()
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	worst := stagePassed
	for i := range all {
		if errs[i] != nil {
			o.app.warn("%s: %s", all[i], errs[i])
			results[i] = stageView{APIVersion: viewVersion, Kind: "Stage", Stage: o.name, Matrix: all[i], Result: resultOf(environmentFails), ExitCode: environmentFails}
		}
		worst = max(worst, results[i].ExitCode)
	}
	if err := o.app.print(o.output, stageList{viewVersion, "StageList", results}, func(io.Writer) error { return o.summary(results) }); err != nil || worst == 0 {
		return err
	}
	return &exitError{worst}
}

// of is the stage of one combination, whose lines begin with it.
func (o *stageOptions) of(c cell, writing *sync.Mutex) *stageOptions {
	one := *o
	one.app, one.cell, one.matrix, one.output = o.app.prefixed(c.String(), writing, o.output != "table"), c, nil, "table"
	for _, s := range c {
		one.set = append(slices.Clip(one.set), s.Parameter+"="+s.Value)
	}
	one.junit = c.in(o.junit)
	if o.artifacts != "" {
		one.artifacts = filepath.Join(o.artifacts, strings.ReplaceAll(strings.ReplaceAll(c.String(), "/", "_"), " ", ","))
	}
	return &one
}

func (o *stageOptions) summary(results []stageView) error {
	t := tabwriter.NewWriter(o.app.Err, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, "MATRIX\tRESULT\tENVIRONMENT\tCOMMAND\tTEARDOWN")
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%s\t%.1fs\t%.1fs\t%.1fs\n", r.Matrix, r.Result, r.Ready, r.Ran, r.Teardown)
	}
	return t.Flush()
}

// prefixed is the app for one of several that write at once: its lines begin with a name. Its standard output is standard error if
// that is the result's.
func (a *App) prefixed(name string, writing *sync.Mutex, aside bool) *App {
	app, prefix, out := *a, a.paint(dim, name+" | "), a.Out
	if aside {
		out = a.Err
	}
	app.Out, app.Err = &prefixed{mu: writing, to: out, prefix: prefix}, &prefixed{mu: writing, to: a.Err, prefix: prefix}
	return &app
}

// flush writes the last line of an app that is prefixed, if it has no end.
func (a *App) flush() {
	for _, w := range []io.Writer{a.Out, a.Err} {
		if p, ok := w.(*prefixed); ok {
			p.flush()
		}
	}
}

// prefixed writes whole lines, each with a prefix.
type prefixed struct {
	mu     *sync.Mutex // one line at a time, of all that write to the same
	to     io.Writer
	prefix string

	own  sync.Mutex
	rest []byte // of the last line
}

// longestLine is written as it is without waiting for its end.
const longestLine = 64 << 10

func (p *prefixed) Write(b []byte) (int, error) {
	p.own.Lock()
	defer p.own.Unlock()
	p.rest = append(p.rest, b...)
	for {
		i := bytes.IndexByte(p.rest, '\n')
		if i < 0 && len(p.rest) < longestLine {
			return len(b), nil
		}
		if i < 0 {
			i = len(p.rest) - 1
		}
		if err := p.line(p.rest[:i+1]); err != nil {
			return 0, err
		}
		p.rest = p.rest[i+1:]
	}
}

func (p *prefixed) line(b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.to.Write(append([]byte(p.prefix), b...))
	return err
}

func (p *prefixed) flush() {
	p.own.Lock()
	defer p.own.Unlock()
	if len(p.rest) > 0 {
		_ = p.line(append(p.rest, '\n'))
		p.rest = nil
	}
}
