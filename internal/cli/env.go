package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func newEnvCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use: "env", Aliases: []string{"environment", "environments"}, Short: "Make, look at, change and end environments: copies of an application, for a time",
		Long: `Make, look at, change and end environments.

An environment is a copy of an application, made from a folder (a kustomization, a Helm chart, or manifests), in a namespace of its
own, for a time. The namespace you act in (-n) is its home: who may have environments is a right there.`,
	}
	group(cmd)
	cmd.AddCommand(newEnvCreateCmd(app), newEnvListCmd(app), newEnvShowCmd(app), newEnvUpdateCmd(app), newEnvDiffCmd(app), newEnvExtendCmd(app), newEnvPinCmd(app), newEnvUnpinCmd(app), newEnvDeleteCmd(app),
		newEnvOpenCmd(app), newEnvShareCmd(app), newEnvSleepCmd(app), newEnvWakeCmd(app), newEnvHistoryCmd(app), newEnvRollbackCmd(app), newEnvLogsCmd(app), newEnvEventsCmd(app))
	return cmd
}

// environmentView is an environment as -o json and -o yaml show it.
type environmentView struct {
	Namespace  string             `json:"namespace"`
	Name       string             `json:"name"`
	Owner      string             `json:"owner"`
	LivesIn    string             `json:"livesIn"`
	State      string             `json:"state"`
	Message    string             `json:"message,omitempty"`
	Stalled    bool               `json:"stalled"`
	Blueprint  string             `json:"blueprint"`
	Source     *sourceView        `json:"source,omitempty"`
	Revisions  v1alpha1.Revisions `json:"revisions"`
	Created    time.Time          `json:"created"`
	ExpiresAt  *time.Time         `json:"expiresAt,omitempty"` // absent: it does not end by itself
	EndsSoon   bool               `json:"endsSoon,omitempty"`
	Pinned     bool               `json:"pinned,omitempty"`
	Reason     string             `json:"reason,omitempty"` // why it was pinned or extended last
	Policy     string             `json:"policy,omitempty"`
	Priority   int32              `json:"priority,omitempty"`
	Position   int                `json:"position,omitempty"` // in line for a place among those that are awake
	Cost       *costView          `json:"cost,omitempty"`
	Components []componentView    `json:"components"`
	Public     bool               `json:"public,omitempty"`
	Shares     int                `json:"shares,omitempty"` // that are good now
	SleepAfter string             `json:"sleepAfter,omitempty"`
	LastAsked  *time.Time         `json:"lastAsked,omitempty"`
	Blocked    []string           `json:"blocked,omitempty"`
}

// costView is what an environment has cost until now, and costs now.
type costView struct {
	Currency string `json:"currency"`
	Amount   string `json:"amount"`
	PerHour  string `json:"perHour"`
}

type componentView struct {
	Name    string   `json:"name"` // "" is what several components share
	State   string   `json:"state"`
	Message string   `json:"message,omitempty"`
	Needs   []string `json:"needs,omitempty"`
	Data    string   `json:"data,omitempty"` // the class of what it keeps
	Objects int      `json:"objects"`
	URL     string   `json:"url,omitempty"`
}

// environmentShown is what `env show -o json` prints, and create, update and extend.
type environmentShown struct {
	APIVersion      string `json:"apiVersion"`
	Kind            string `json:"kind"`
	environmentView `json:",inline"`
}

type environmentList struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Items      []environmentView `json:"items"`
}

func viewEnvironment(e *v1alpha1.Environment) environmentView {
	v := environmentView{Namespace: e.Namespace, Name: e.Name, Owner: e.Spec.Owner.Username, LivesIn: environment.NamespaceOf(e), State: "New",
		Blueprint: environment.BlueprintOf(e), Source: viewSource(e.Spec.Source, e.Status.Source), Revisions: e.Status.Revisions, Created: e.CreationTimestamp.UTC(),
		Pinned: e.Spec.Pinned, Reason: e.Annotations[v1alpha1.AnnotationReason], Priority: e.Spec.Priority,
		Components: []componentView{}}
	current := environment.Current(e)
	if c := meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionReady); c != nil && current {
		v.State, v.Message = c.Reason, c.Message
	} else if c != nil {
		v.State = environment.ReasonStarting
	}
	v.life(e)
	v.Stalled = current && meta.IsStatusConditionTrue(e.Status.Conditions, v1alpha1.ConditionStalled)
	for _, c := range e.Status.Components {
		cv := componentView{Name: c.Name, State: string(c.State), Message: c.Message, Needs: c.Needs, Data: c.Data}
		for _, i := range e.Status.Inventory {
			if i.Component == c.Name {
				cv.Objects++
			}
		}
		for _, a := range e.Status.Addresses {
			if a.Component == c.Name {
				cv.URL = a.URL
			}
		}
		v.Components = append(v.Components, cv)
	}
	for _, s := range e.Spec.Shares {
		if time.Now().Before(s.Until.Time) {
			v.Shares++
		}
	}
	v.Public = e.Public()
	if e.Spec.SleepAfter != nil {
		v.SleepAfter = e.Spec.SleepAfter.Duration.String()
	}
	if at := e.Status.LastRequest; at != nil {
		v.LastAsked = new(at.UTC())
	}
	for _, b := range e.Status.Blocked {
		v.Blocked = append(v.Blocked, environment.BlockerText(b))
	}
	return v
}

// life is how long an environment lives, what it waits for, and what it costs.
func (v *environmentView) life(e *v1alpha1.Environment) {
	switch at := e.Status.ExpiresAt; {
	case at != nil:
		v.ExpiresAt = new(at.UTC())
	case e.Status.ObservedGeneration == 0: // nobody has looked at it yet
		v.ExpiresAt = new(e.CreationTimestamp.Add(cmp.Or(e.Spec.TTL.Duration, environment.DefaultTTL)).UTC())
	}
	v.EndsSoon = v.ExpiresAt != nil && meta.IsStatusConditionTrue(e.Status.Conditions, v1alpha1.ConditionExpiresSoon)
	if p := e.Status.Policy; p != nil {
		v.Policy = p.Name
	}
	if a := e.Status.Admission; a != nil {
		v.Position = int(a.Position)
	}
	if c := e.Status.Cost; c != nil {
		v.Cost = &costView{c.Currency, environment.CostAt(c, time.Now()), c.PerHour}
	}
}

func getEnvironment(ctx context.Context, c *kube.Cluster, name string) (*v1alpha1.Environment, error) {
	e := &v1alpha1.Environment{}
	err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, e)
	if apierrors.IsNotFound(err) && usererr.CodeOf(kube.Explain(err)) != usererr.NotInstalled {
		return nil, usererr.New(usererr.NotFound, "see: dayfly env list -A", "there is no environment %s in namespace %s", name, c.Namespace)
	}
	return e, kube.Explain(err)
}

func newEnvListCmd(app *App) *cobra.Command {
	var all bool
	var output format
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List environments, yours and others'",
		Example: "  dayfly env list -n team\n  dayfly env list -A -o json", Args: takes(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return listEnvironments(cmd.Context(), app, all, output) },
	}
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	outputFlag(cmd, &output)
	return cmd
}

func listEnvironments(ctx context.Context, app *App, all bool, output format) error {
	c, err := app.open()
	if err != nil {
		return err
	}
	defer app.after("waiting for the cluster (%s)", c.Config.Host)()
	var list v1alpha1.EnvironmentList
	var opts []client.ListOption
	if !all {
		opts = append(opts, client.InNamespace(c.Namespace))
	}
	if err := c.List(ctx, &list, opts...); err != nil {
		return kube.Explain(err)
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.Environment) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	out := environmentList{viewVersion, "EnvironmentList", []environmentView{}}
	for i := range list.Items {
		out.Items = append(out.Items, viewEnvironment(&list.Items[i]))
	}
	return app.print(output, out, func(w io.Writer) error {
		if len(out.Items) == 0 {
			app.say("no environments%s", where(c, all))
			return nil
		}
		t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
		fmt.Fprintln(t, "NAMESPACE\tENVIRONMENT\tOWNER\tSTATE\tREADY\tLIVES IN\tSINCE\tENDS IN")
		for _, v := range out.Items {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Namespace, v.Name, v.Owner, v.stateText(), readyOf(v), v.LivesIn,
				duration.HumanDuration(time.Since(v.Created)), v.endsIn())
		}
		return t.Flush()
	})
}

func readyOf(v environmentView) string {
	n := 0
	for _, c := range v.Components {
		if c.State == string(v1alpha1.ComponentReady) {
			n++
		}
	}
	return fmt.Sprintf("%d/%d", n, len(v.Components))
}

func newEnvShowCmd(app *App) *cobra.Command {
	return newEnvLookCmd(app, app.showEnvironment, &cobra.Command{
		Use: "show NAME", Short: "Show one environment: its components, and what is wrong", Example: "  dayfly env show pr-1 -n team -o yaml",
	})
}

// newEnvLookCmd completes a command that shows something of one environment.
func newEnvLookCmd(app *App, show func(format, *v1alpha1.Environment) error, cmd *cobra.Command) *cobra.Command {
	var output format
	cmd.Args, cmd.ValidArgsFunction = takes(cobra.ExactArgs(1)), app.completeEnvironment
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := app.open()
		if err != nil {
			return err
		}
		defer app.after("waiting for the cluster (%s)", c.Config.Host)()
		e, err := getEnvironment(cmd.Context(), c, args[0])
		if err != nil {
			return err
		}
		app.warnOfEnd(e)
		return show(output, e)
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *App) showEnvironment(output format, e *v1alpha1.Environment) error {
	v := viewEnvironment(e)
	return a.print(output, environmentShown{viewVersion, "Environment", v}, func(w io.Writer) error {
		fmt.Fprintf(w, "environment  %s in namespace %s, of %s\nlives in     namespace %s\nstate        %s\nends         %s\nrevision     %s\n", v.Name, v.Namespace, v.Owner, v.LivesIn,
			strings.TrimSpace(v.State+" "+v.Message), v.lifeText(), revisionText(v.Revisions))
		if v.Source != nil {
			fmt.Fprintf(w, "source       %s\n", v.Source.text())
		}
		if slices.ContainsFunc(v.Components, func(c componentView) bool { return c.URL != "" }) {
			fmt.Fprintf(w, "open to      %s\n", openTo(v))
		}
		if v.SleepAfter != "" {
			fmt.Fprintf(w, "sleeps       when nobody asked for %s\n", v.SleepAfter)
		}
		for _, c := range v.Components {
			if c.Data != "" {
				fmt.Fprintf(w, "data         %s, in %s\n", c.Data, c.Name)
			}
		}
		if v.Policy != "" {
			fmt.Fprintf(w, "policy       %s\n", v.Policy)
		}
		if v.Cost != nil {
			fmt.Fprintf(w, "cost         %s\n", v.Cost.text())
		}
		for _, b := range v.Blocked {
			fmt.Fprintf(w, "blocked by   %s\n", b)
		}
		t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
		if len(v.Components) > 0 {
			fmt.Fprintln(t, "\nCOMPONENT\tSTATE\tOBJECTS\tNEEDS\tMESSAGE")
		}
		for _, c := range v.Components {
			fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", componentName(c.Name), c.State, c.Objects, cmp.Or(strings.Join(c.Needs, ","), "-"), c.Message)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		for _, c := range v.Components {
			if c.URL != "" {
				fmt.Fprintf(t, "\n%s\t%s", c.Name, c.URL)
			}
		}
		fmt.Fprintln(t)
		return t.Flush()
	})
}

// openTo says who may see an environment at its addresses.
func openTo(v environmentView) string {
	switch {
	case v.Public:
		return "whoever reaches its addresses"
	case v.Shares == 1:
		return "whoever has the link of its share"
	case v.Shares > 1:
		return fmt.Sprintf("whoever has a link of its %d shares", v.Shares)
	}
	return "nobody: make a link with dayfly env share " + v.Name
}

// revisionText says which of the three revisions differ.
func revisionText(r v1alpha1.Revisions) string {
	if r.Ready == r.Requested {
		return cmp.Or(r.Ready, "none yet")
	}
	return fmt.Sprintf("%s asked for, %s applied, %s ready", cmp.Or(r.Requested, "none"), cmp.Or(r.Applied, "none"), cmp.Or(r.Ready, "none"))
}

// neededIn are the components that another one needs: what is left is where a visitor comes in.
func neededIn(e *v1alpha1.Environment) map[string]bool {
	needed := map[string]bool{}
	for _, c := range e.Status.Components {
		for _, n := range c.Needs {
			needed[n] = true
		}
	}
	return needed
}

func componentName(name string) string { return cmp.Or(name, "(shared)") }

// completeEnvironment is for commands that take one environment.
func (a *App) completeEnvironment(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeWith(func(ctx context.Context, c *kube.Cluster) (out []string) {
		var list v1alpha1.EnvironmentList
		_ = c.List(ctx, &list, client.InNamespace(c.Namespace))
		for _, e := range list.Items {
			out = append(out, e.Name)
		}
		return out
	})
}
