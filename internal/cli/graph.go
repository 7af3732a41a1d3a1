package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/servicegraph"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

type graphOptions struct {
	app    *App
	all    bool
	output graphFormat
}

// graphFormat is the value of graph's -o.
type graphFormat string

var graphFormats = []string{"text", "mermaid", "dot", "svg", "json"}

func (f *graphFormat) String() string { return string(*f) }
func (f *graphFormat) Type() string   { return "FORMAT" }
func (f *graphFormat) Set(s string) error {
	if !slices.Contains(graphFormats, s) {
		return fmt.Errorf("it is one of %s", strings.Join(graphFormats, ", "))
	}
	*f = graphFormat(s)
	return nil
}

func newGraphCmd(app *App) *cobra.Command {
	o := &graphOptions{app: app, output: "text"}
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "Draw services, workloads, the calls between them, and what is altered",
		Long: `Draw the services of a namespace with the workloads behind them, the calls between them, and every alteration with its
owner, rule and state.

Calls are known from configuration (environment variables, arguments and ConfigMaps that name a service), from what routers
see of captured services, and from network policies that admit exactly some pods. Secrets are not read. What you have no
right to see is left out, and the graph says so.`,
		Example: `  dayfly graph -n shop
  dayfly graph -A -o svg > graph.svg
  dayfly graph -n shop -o mermaid`,
		Args: takes(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "all namespaces")
	cmd.Flags().VarP(&o.output, "output", "o", strings.Join(graphFormats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(graphFormats, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (o *graphOptions) run(ctx context.Context) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	namespace := c.Namespace
	if o.all {
		namespace = ""
	}
	defer o.app.after("looking at the cluster (%s)", c.Config.Host)()
	seen, err := servicegraph.Observe(ctx, c, namespace)
	if err != nil {
		return kube.Explain(err)
	}
	g := servicegraph.Build(seen)
	if len(g.Nodes) == 0 && o.output == "text" {
		o.app.say("no services and no workloads%s", where(c, o.all))
	}
	if n := len(g.Calls); o.output == "mermaid" && n > servicegraph.MermaidMaxCalls {
		o.app.warn("%d calls are more than Mermaid draws on GitHub (%d): choose a namespace, or use -o svg", n, servicegraph.MermaidMaxCalls)
	}
	var out bytes.Buffer
	if err := o.render(&out, g); err != nil {
		return err
	}
	_, err = o.app.Out.Write(out.Bytes())
	return err
}

func (o *graphOptions) render(w io.Writer, g *servicegraph.Graph) error {
	switch o.output {
	case "mermaid":
		return servicegraph.Mermaid(w, g)
	case "dot":
		return servicegraph.Dot(w, g)
	case "svg":
		return servicegraph.SVG(w, g)
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(g)
	}
	return servicegraph.Text(w, g, servicegraph.TextOptions{Width: columns(o.app.Out), Color: colorOn(o.app.Out)})
}

// colorOn says whether results may be coloured.
func colorOn(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// columns is the width of the terminal that w is, or 0.
func columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !isTerminal(w) {
		return 0
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return n
}
