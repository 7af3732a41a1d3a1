package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/source"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/pmezard/go-difflib/difflib"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

type envDiffOptions struct {
	envSpecOptions
	app      *App
	name     string
	exitCode bool
	output   format
}

func newEnvDiffCmd(app *App) *cobra.Command {
	o := &envDiffOptions{app: app}
	cmd := &cobra.Command{
		Use: "diff NAME", Short: "Show what an update would change",
		Long: `Show what dayfly env update with the same flags would change: each object as it is asked for now against what it would be. Nothing is
changed. Of Secrets, only which keys change is shown.`,
		Example: "  dayfly env diff pr-1 -f ./deploy\n  dayfly env diff pr-1 --image catalog=:v2 --exit-code",
		Args:    takes(cobra.ExactArgs(1)), ValidArgsFunction: app.completeEnvironment,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			return o.run(cmd.Context())
		},
	}
	o.envSpecOptions.flags(cmd)
	cmd.Flags().BoolVar(&o.exitCode, "exit-code", false, "end with exit code 1 if there are differences")
	outputFlag(cmd, &o.output)
	return cmd
}

// difference is what becomes of one object, as -o json and -o yaml show it.
type difference struct {
	Object string `json:"object"` // kind/name
	Change string `json:"change"` // added, removed, or changed
	Diff   string `json:"diff"`   // unified, of the objects as YAML
}

type differenceList struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Items      []difference `json:"items"`
}

func (o *envDiffOptions) run(ctx context.Context) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	e, err := getEnvironment(ctx, c, o.name)
	if err != nil {
		return err
	}
	stored, err := storedFolder(ctx, c, e)
	if err != nil {
		return err
	}
	before, err := source.Render(ctx, stored, environment.RenderOptions(e))
	if err != nil {
		return err
	}
	if err := o.into(&e.Spec); err != nil {
		return err
	}
	folder := stored
	if o.dir != "" {
		if folder, _, err = o.read(); err != nil {
			return err
		}
	}
	after, err := source.Render(ctx, folder, environment.RenderOptions(e))
	if err != nil {
		return err
	}
	if err := environment.Check(after.Components); err != nil {
		return err
	}
	out := differenceList{viewVersion, "DifferenceList", differences(before.Components, after.Components)}
	err = o.app.print(o.output, out, func(w io.Writer) error {
		if len(out.Items) == 0 {
			o.app.say("nothing would change in environment %s", o.name)
		}
		for _, d := range out.Items {
			if _, err := io.WriteString(w, o.app.colorDiff(d.Diff)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && o.exitCode && len(out.Items) > 0 {
		return &exitError{1}
	}
	return err
}

// storedFolder is what the cluster keeps of what an environment is made from.
func storedFolder(ctx context.Context, c *kube.Cluster, e *v1alpha1.Environment) (source.Folder, error) {
	if environment.BlueprintOf(e) == "" {
		return nil, usererr.New(usererr.NotFound, "see: dayfly env show "+e.Name, "the source of environment %s was not fetched yet", e.Name)
	}
	b := &v1alpha1.Blueprint{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: e.Namespace, Name: environment.BlueprintOf(e)}, b); err != nil {
		return nil, kube.Explain(err)
	}
	return source.Unpack(b.Spec.Folder)
}

// differences compares what two renderings consist of, object by object.
func differences(before, after []source.Component) []difference {
	a, b := texts(before), texts(after)
	names := map[string]bool{}
	for _, m := range []map[string]string{a, b} {
		for name := range m {
			names[name] = true
		}
	}
	out := []difference{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, had := a[name]
		is, has := b[name]
		if was == is && had == has {
			continue
		}
		d := difference{Object: name, Change: "changed"}
		switch {
		case !had:
			d.Change = "added"
		case !has:
			d.Change = "removed"
		}
		d.Diff, _ = difflib.GetUnifiedDiffString(difflib.UnifiedDiff{A: difflib.SplitLines(was), B: difflib.SplitLines(is),
			FromFile: name + " as it is", ToFile: name + " " + d.Change, Context: 3}) // of memory: no error
		out = append(out, d)
	}
	return out
}

// texts are the objects as YAML, by kind and name.
func texts(cs []source.Component) map[string]string {
	out := map[string]string{}
	for _, c := range cs {
		for _, o := range c.Objects {
			data, err := yaml.Marshal(veiled(o).Object)
			if err != nil {
				data = fmt.Appendf(nil, "# %s\n", err)
			}
			out[strings.ToLower(o.GetKind())+"/"+o.GetName()] = string(data)
		}
	}
	return out
}

// veil makes marks that say nothing about a value to whoever sees them.
var veil = rand.Text()

// veiled is a Secret with a mark in place of each value, which differs if the values do; anything else is as it is.
func veiled(o *unstructured.Unstructured) *unstructured.Unstructured {
	if o.GetKind() != "Secret" {
		return o
	}
	o = o.DeepCopy()
	for _, field := range []string{"data", "stringData"} {
		values, ok := o.Object[field].(map[string]any)
		if !ok {
			continue
		}
		for k, v := range values {
			sum := sha256.Sum256(fmt.Appendf(nil, "%s %v", veil, v))
			values[k] = "(" + hex.EncodeToString(sum[:3]) + ")"
		}
	}
	return o
}

// colorDiff paints added and removed lines, where there are colours.
func (a *App) colorDiff(text string) string {
	if !isTerminal(a.Out) {
		return text
	}
	var out strings.Builder
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "+"):
			line = a.paint(green, strings.TrimSuffix(line, "\n")) + "\n"
		case strings.HasPrefix(line, "-"):
			line = a.paint(red, strings.TrimSuffix(line, "\n")) + "\n"
		}
		out.WriteString(line)
	}
	return out.String()
}
