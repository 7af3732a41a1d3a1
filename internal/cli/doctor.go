package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
)

type doctorOptions struct {
	app    *App
	fix    bool
	output format
	wait   time.Duration
}

func newDoctorCmd(app *App) *cobra.Command {
	o := &doctorOptions{app: app}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check dayfly, the cluster and this laptop, and mend what can be mended",
		Long: `Check everything that an intercept needs, and look for what was left behind: in the cluster, as far as your rights go, and
on this laptop. Each check has a verdict, and what to do where it is not well. Nothing is changed without --fix.

With --fix, what your rights allow is mended, and said: dayfly's own deployments that were scaled to 0, sessions whose lease
is over, objects that nothing accounts for, what killed processes of this laptop left, and files that belong to no session.`,
		Example: "  dayfly doctor\n  dayfly doctor --fix\n  dayfly doctor -n shop -o json",
		Args:    takes(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.Flags().BoolVar(&o.fix, "fix", false, "mend what can be mended with your rights, without asking")
	cmd.Flags().DurationVar(&o.wait, "timeout", time.Minute, "with --fix: how long to wait until what was mended is well")
	outputFlag(cmd, &o.output)
	return cmd
}

// doctorReport is what `doctor -o json` prints.
type doctorReport struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Server     string    `json:"server"`
	Namespace  string    `json:"namespace,omitempty"` // "": all
	Healthy    bool      `json:"healthy"`             // no problem was found
	Items      []finding `json:"items"`
}

func (o *doctorOptions) run(ctx context.Context) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	stop := o.app.after("examining (%s)", c.Config.Host)
	in := inspect(ctx, o.app, c, o.app.kube.Namespace)
	stop()
	findings := diagnose(in)
	if o.fix && mendAll(ctx, o.app, c, in, findings) > 0 {
		in, findings = o.again(ctx, c, findings)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	worst := usererr.OK
	for _, f := range findings {
		if f.Verdict == broken && worst == usererr.OK {
			worst = f.code
		}
	}
	report := doctorReport{viewVersion, "DoctorReport", in.server, in.namespace, worst == usererr.OK, findings}
	if err := o.app.print(o.output, report, func(w io.Writer) error { return o.table(w, findings) }); err != nil {
		return err
	}
	if worst != usererr.OK {
		return &exitError{int(worst)}
	}
	return nil
}

// again examines and mends what can be mended now, until no problem is left, none can be mended or mends itself, or the time is over.
func (o *doctorOptions) again(ctx context.Context, c *kube.Cluster, before []finding) (*inspection, []finding) {
	defer o.app.after("waiting until it is well")()
	last, since := problemsOf(before), time.Now()
	for deadline := since.Add(o.wait); ; {
		in := inspect(ctx, o.app, c, o.app.kube.Namespace)
		now := diagnose(in)
		problems := problemsOf(now)
		fresh := problems != last
		if fresh {
			last, since = problems, time.Now()
		}
		if problems == "" || time.Since(since) > standstill || time.Now().After(deadline) || ctx.Err() != nil {
			return in, now
		}
		if fresh { // what could not be mended once is not tried again
			mendAll(ctx, o.app, c, in, now)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// standstill is how long the same problems may last before they are taken for what stays.
const standstill = 20 * time.Second

// problemsOf names the checks that found one.
func problemsOf(findings []finding) string {
	var out []string
	for _, f := range findings {
		if f.Verdict == broken {
			out = append(out, f.Check)
		}
	}
	return strings.Join(out, ",")
}

var verdictMarks = map[verdict][2]string{fine: {"✓", green}, caution: {"!", yellow}, broken: {"✗", red}, unknown: {"?", dim}}

func (o *doctorOptions) table(w io.Writer, findings []finding) error {
	color := colorOn(w)
	paint := func(c, s string) string {
		if !color {
			return s
		}
		return "\x1b[" + c + "m" + s + "\x1b[0m"
	}
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Check))
	}
	counts := map[verdict]int{}
	for _, f := range findings {
		counts[f.Verdict]++
		m := verdictMarks[f.Verdict]
		fmt.Fprintf(w, "%s %-*s  %s\n", paint(m[1], m[0]), width, f.Check, printable(f.Says))
		if f.Fix != "" {
			fmt.Fprintf(w, "  %*s  %s %s\n", width, "", paint(green, "fix:"), printable(f.Fix))
		}
	}
	var sum []string
	for _, v := range []struct {
		verdict verdict
		word    string
	}{{broken, "problem"}, {caution, "warning"}} {
		if n := counts[v.verdict]; n > 0 {
			sum = append(sum, plural(n, v.word))
		}
	}
	if n := counts[unknown]; n > 0 {
		sum = append(sum, fmt.Sprintf("%d not seen", n))
	}
	if len(sum) == 0 {
		sum = []string{"all is well"}
	}
	_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(sum, ", "))
	return err
}
