package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/forward"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
)

type envOpenOptions struct {
	app        *App
	name       string
	components []string
	port       int
	output     format
}

func newEnvOpenCmd(app *App) *cobra.Command {
	o := &envOpenOptions{app: app}
	cmd := &cobra.Command{
		Use: "open NAME [COMPONENT...]", Short: "Reach an environment's components from this machine, until ^C",
		Long: `Reach an environment's components from this machine, until ^C: each has a port of 127.0.0.1 that leads to a ready pod of its first
Service, by way of the API server. Without a name, those are opened that no other component needs.`,
		Example: "  dayfly env open pr-1 -n team\n  dayfly env open pr-1 catalog --port 8080",
		Args:    takes(cobra.MinimumNArgs(1)), ValidArgsFunction: app.completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.components = args[0], args[1:]
			return o.run(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&o.port, "port", 0, "local port, of one component (default: a free one)")
	outputFlag(cmd, &o.output)
	return cmd
}

// opened is a component that can be reached, as -o json and -o yaml show it.
type opened struct {
	Component string `json:"component"`
	Service   string `json:"service"`
	URL       string `json:"url"`
}

type openedList struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Items      []opened `json:"items"`
}

func (o *envOpenOptions) run(ctx context.Context) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	stop := o.app.after("waiting for the cluster (%s)", c.Config.Host)
	defer stop()
	e, err := getEnvironment(ctx, c, o.name)
	if err != nil {
		return err
	}
	o.app.warnOfEnd(e)
	ns := environment.NamespaceOf(e)
	services, err := forward.Services(ctx, c.Config, ns, e.Status.Inventory)
	if err != nil {
		return kube.Explain(err)
	}
	if services, err = o.choose(e, services); err != nil {
		return err
	}
	out := openedList{viewVersion, "OpenedList", nil}
	for _, s := range services {
		f, err := forward.Open(ctx, c.Config, o.port, ns, s.Name, s.Port)
		if err != nil {
			return usererr.New(usererr.Conflict, "choose another with --port, or none", "port %d cannot be listened on", o.port).Because(err)
		}
		out.Items = append(out.Items, opened{s.Component, s.Name, "http://" + f.Address})
	}
	stop()
	err = o.app.print(o.output, out, func(w io.Writer) error {
		t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
		for _, i := range out.Items {
			fmt.Fprintf(t, "%s\t%s\n", i.Component, i.URL)
		}
		return t.Flush()
	})
	if err != nil {
		return err
	}
	o.app.say("open until ^C")
	<-ctx.Done()
	return ctx.Err()
}

// choose are the Services of the components that are asked for; if none are, of those that no other needs.
func (o *envOpenOptions) choose(e *v1alpha1.Environment, all []forward.Service) ([]forward.Service, error) {
	var out []forward.Service
	for _, name := range o.components {
		i := slices.IndexFunc(all, func(s forward.Service) bool { return s.Component == name })
		if i < 0 {
			return nil, usererr.New(usererr.NotFound, "see: dayfly env show "+o.name, "environment %s has no component %s that has a Service", o.name, name)
		}
		out = append(out, all[i])
	}
	if len(o.components) == 0 {
		needed := neededIn(e)
		for _, s := range all {
			if !needed[s.Component] {
				out = append(out, s)
			}
		}
	}
	switch {
	case len(out) == 0:
		return nil, usererr.New(usererr.NotFound, "see: dayfly env show "+o.name, "environment %s has nothing to open", o.name)
	case o.port != 0 && len(out) > 1:
		return nil, usererr.New(usererr.Usage, "name one component", "--port is for one component, and there are %d", len(out))
	case o.port < 0 || o.port > 65535:
		return nil, usererr.New(usererr.Usage, "use a number from 1 to 65535", "--port %d is no port", o.port)
	}
	return out, nil
}

// completeComponents is for an environment and any of its components.
func (a *App) completeComponents(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.completeComponent(cmd, args[:min(len(args), 1)], word)
}
