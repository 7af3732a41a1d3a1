package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// pastView is a revision that was ready, as -o json and -o yaml show it.
type pastView struct {
	Revision   string                   `json:"revision"`
	ReadyAt    time.Time                `json:"readyAt"`
	Blueprint  string                   `json:"blueprint"`
	Source     *v1alpha1.Source         `json:"source,omitempty"`
	Current    bool                     `json:"current"`
	Parameters any                      `json:"parameters,omitempty"`
	Components []v1alpha1.ComponentSpec `json:"components,omitempty"`
	Only       []string                 `json:"only,omitempty"`
}

type pastList struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Items      []pastView `json:"items"`
}

func newEnvHistoryCmd(app *App) *cobra.Command {
	return newEnvLookCmd(app, app.showHistory, &cobra.Command{
		Use: "history NAME", Short: "List the revisions of an environment that were ready, the newest first", Example: "  dayfly env history pr-1 -n team",
	})
}

// awake is a revision without the mark of sleep: what is gone back to is what it consists of.
func awake(revision string) string { return strings.TrimSuffix(revision, v1alpha1.SuffixAsleep) }

func (a *App) showHistory(output format, e *v1alpha1.Environment) error {
	out := pastList{viewVersion, "EnvironmentHistory", []pastView{}}
	for _, p := range e.Status.History {
		v := pastView{Revision: p.Revision, ReadyAt: p.ReadyAt.UTC(), Blueprint: p.Blueprint, Source: p.Source, Current: p.Revision == awake(e.Status.Revisions.Requested),
			Components: p.Components, Only: p.Only}
		if p.Parameters != nil {
			v.Parameters = p.Parameters
		}
		out.Items = append(out.Items, v)
	}
	return a.print(output, out, func(w io.Writer) error {
		if len(out.Items) == 0 {
			a.say("environment %s was never ready", e.Name)
			return nil
		}
		t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
		fmt.Fprintln(t, "REVISION\tREADY\tBLUEPRINT\tSOURCE\tCHANGES")
		for _, v := range out.Items {
			mark := ""
			if v.Current {
				mark = " *"
			}
			fmt.Fprintf(t, "%s%s\t%s ago\t%s\t%s\t%s\n", v.Revision, mark, duration.HumanDuration(time.Since(v.ReadyAt)), v.Blueprint, pinnedText(v.Source), changesText(v.Components))
		}
		return t.Flush()
	})
}

// changesText says what differs in single components.
func changesText(cs []v1alpha1.ComponentSpec) string {
	var out []string
	for _, c := range cs {
		if c.Image != "" {
			out = append(out, c.Name+"="+c.Image)
		}
		if c.Replicas != nil {
			out = append(out, fmt.Sprintf("%s=%d replicas", c.Name, *c.Replicas))
		}
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, ", ")
}

type envRollbackOptions struct {
	envWaitOptions
	name, revision string
}

func newEnvRollbackCmd(app *App) *cobra.Command {
	o := &envRollbackOptions{envWaitOptions: envWaitOptions{app: app}}
	cmd := &cobra.Command{
		Use: "rollback NAME [REVISION]", Short: "Go back to a revision that was ready: the last other one, unless named",
		Long: `Go back to a revision of an environment that was ready: the last one that is not what is asked for now, unless one is named (see
dayfly env history). Its folder, parameters, images and replicas come back; data that it has written does not.`,
		Example: "  dayfly env rollback pr-1 -n team", Args: takes(cobra.RangeArgs(1, 2)), ValidArgsFunction: app.completeRevision,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if len(args) > 1 {
				o.revision = args[1]
			}
			return o.run(cmd.Context())
		},
	}
	o.flags(cmd, 10*time.Minute)
	return cmd
}

func (o *envRollbackOptions) run(ctx context.Context) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	e, err := getEnvironment(ctx, c, o.name)
	if err != nil {
		return err
	}
	past, err := o.choose(e)
	if err != nil {
		return err
	}
	before := e.DeepCopy()
	e.Spec.Blueprint, e.Spec.Source, e.Spec.Parameters, e.Spec.Components, e.Spec.Only = past.Blueprint, past.Source, past.Parameters, past.Components, past.Only
	if past.Source != nil {
		e.Spec.Blueprint = "" // it is that of the source, which names its commit or digest now
	}
	if err := c.Get(ctx, client.ObjectKey{Namespace: e.Namespace, Name: past.Blueprint}, &v1alpha1.Blueprint{}); err != nil {
		return kube.Explain(err)
	}
	if err := changeEnvironment(ctx, c, before, e); err != nil {
		return err
	}
	o.app.say("environment %s goes back to revision %s", e.Name, past.Revision)
	return o.await(ctx, c, e)
}

// choose finds what to go back to.
func (o *envRollbackOptions) choose(e *v1alpha1.Environment) (*v1alpha1.PastRevision, error) {
	now := awake(e.Status.Revisions.Requested)
	for i := range e.Status.History {
		p := &e.Status.History[i]
		if o.revision == p.Revision || o.revision == "" && p.Revision != now {
			return p, nil
		}
	}
	if o.revision != "" {
		return nil, usererr.New(usererr.NotFound, "see: dayfly env history "+e.Name, "environment %s has no revision %s that was ready", e.Name, o.revision)
	}
	return nil, usererr.New(usererr.NotFound, "see: dayfly env history "+e.Name, "environment %s was never ready as anything else", e.Name)
}

// completeRevision is for an environment and a revision of its history.
func (a *App) completeRevision(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completeEnvironment(cmd, args, word)
	}
	return a.completeOf(args[0], func(e *v1alpha1.Environment) (out []string) {
		for _, p := range e.Status.History {
			out = append(out, p.Revision)
		}
		return out
	})
}
