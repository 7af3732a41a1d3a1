package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/share"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type envShareOptions struct {
	app        *App
	name       string
	components []string
	as         string
	lasts      time.Duration
	revoke     []string
	list       bool
	output     format
}

func newEnvShareCmd(app *App) *cobra.Command {
	o := &envShareOptions{app: app}
	cmd := &cobra.Command{
		Use: "share NAME [COMPONENT...]", Short: "Make a link with which anybody can see an environment, for a time",
		Long: `Make a link with which anybody can see an environment, for a time: one link for each component that is named, else for those that no
other component needs. The link wakes an environment that sleeps. The cluster stores only a hash of it: a link that is lost is made anew.`,
		Example: `  dayfly env share pr-1 -n team
  dayfly env share pr-1 storefront --for 168h --as design-review
  dayfly env share pr-1 --list
  dayfly env share pr-1 --revoke design-review`,
		Args: takes(cobra.MinimumNArgs(1)), ValidArgsFunction: app.completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.components = args[0], args[1:]
			return o.run(cmd.Context())
		},
	}
	cmd.Flags().DurationVar(&o.lasts, "for", 24*time.Hour, "how long the link is good")
	cmd.Flags().StringVar(&o.as, "as", "", "name of the share, to revoke it by; one of that name is replaced (default: a free one)")
	cmd.Flags().StringSliceVar(&o.revoke, "revoke", nil, "have the links of these shares open nothing any more")
	cmd.Flags().BoolVar(&o.list, "list", false, "list the shares there are, and make none")
	cmd.MarkFlagsMutuallyExclusive("revoke", "list", "as")
	cmd.MarkFlagsMutuallyExclusive("revoke", "list", "for")
	_ = cmd.RegisterFlagCompletionFunc("revoke", func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return app.completeOf(args[0], func(e *v1alpha1.Environment) (out []string) {
			for _, s := range e.Spec.Shares {
				out = append(out, s.Name)
			}
			return out
		})
	})
	outputFlag(cmd, &o.output)
	return cmd
}

// shareView is a share as -o json and -o yaml show it.
type shareView struct {
	Name  string     `json:"name"`
	Until time.Time  `json:"until"`
	Links []linkView `json:"links,omitempty"` // of one that was just made: they are shown once
}

type linkView struct {
	Component string `json:"component"`
	URL       string `json:"url"`
}

type shareList struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Items      []shareView `json:"items"`
}

func (o *envShareOptions) run(ctx context.Context) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	e, err := getEnvironment(ctx, c, o.name)
	switch {
	case err != nil:
		return err
	case o.list:
		return o.show(e)
	case len(o.revoke) > 0:
		return o.end(ctx, c, e)
	}
	if o.lasts <= 0 || o.lasts > mostShared {
		return usererr.New(usererr.Usage, "use, for example, --for 72h", "--for %s: a link is good for up to %s", o.lasts, mostShared)
	}
	to, err := o.addresses(e)
	if err != nil {
		return err
	}
	token, before := share.NewToken(), e.DeepCopy()
	made := v1alpha1.Share{Name: o.as, Hash: share.Hash(token), Until: metav1.NewTime(time.Now().Add(o.lasts).Truncate(time.Second))}
	if made.Name == "" {
		made.Name = freeShare(e)
	}
	e.Spec.Shares = slices.DeleteFunc(e.Spec.Shares, func(s v1alpha1.Share) bool { return s.Name == made.Name || s.Until.Before(new(metav1.Now())) })
	e.Spec.Shares = append(e.Spec.Shares, made)
	if err := changeEnvironment(ctx, c, before, e); err != nil {
		return err
	}
	v := shareView{Name: made.Name, Until: made.Until.UTC()}
	for _, a := range to {
		v.Links = append(v.Links, linkView{a.Component, share.Link(a.URL, token)})
	}
	err = o.app.print(o.output, shareList{viewVersion, "ShareList", []shareView{v}}, func(w io.Writer) error {
		t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
		for _, l := range v.Links {
			fmt.Fprintf(t, "%s\t%s\n", l.Component, l.URL)
		}
		return t.Flush()
	})
	o.app.say("good until %s; end it before: dayfly env share %s --revoke %s -n %s", v.Until.Local().Format("15:04 Jan 2"), e.Name, made.Name, e.Namespace)
	return err
}

// mostShared bounds how long a link is good: an environment lives no longer.
const mostShared = 720 * time.Hour

// freeShare is a name that no share of the environment has.
func freeShare(e *v1alpha1.Environment) string {
	for i := 1; ; i++ {
		name := fmt.Sprintf("share-%d", i)
		if !slices.ContainsFunc(e.Spec.Shares, func(s v1alpha1.Share) bool { return s.Name == name }) {
			return name
		}
	}
}

// addresses are those of the components that are asked for; if none are, of those that no other needs.
func (o *envShareOptions) addresses(e *v1alpha1.Environment) ([]v1alpha1.Address, error) {
	if len(e.Status.Addresses) == 0 {
		return nil, usererr.New(usererr.NotFound, "see: dayfly env show "+e.Name+"; addresses need a domain, which whoever rules the cluster gives: dayfly install --domain",
			"environment %s has no address yet", e.Name)
	}
	if len(o.components) == 0 {
		return edges(e), nil
	}
	var out []v1alpha1.Address
	for _, a := range e.Status.Addresses {
		if slices.Contains(o.components, a.Component) {
			out = append(out, a)
		}
	}
	for _, name := range o.components {
		if !slices.ContainsFunc(out, func(a v1alpha1.Address) bool { return a.Component == name }) {
			return nil, usererr.New(usererr.NotFound, "see: dayfly env show "+e.Name, "environment %s has no component %s that has an address", e.Name, name)
		}
	}
	return out, nil
}

// edges are the addresses of the components that no other needs; all, if each is needed.
func edges(e *v1alpha1.Environment) []v1alpha1.Address {
	needed := neededIn(e)
	var out []v1alpha1.Address
	for _, a := range e.Status.Addresses {
		if !needed[a.Component] {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return e.Status.Addresses
	}
	return out
}

// sayAddresses tells whoever has waited for an environment where it answers.
func (a *App) sayAddresses(e *v1alpha1.Environment) {
	if e.Spec.Asleep() || len(e.Status.Addresses) == 0 {
		return
	}
	for _, to := range edges(e) {
		a.say("  %-20s %s", to.Component, to.URL)
	}
	if v := viewEnvironment(e); !v.Public && v.Shares == 0 {
		a.say("nobody may see it there yet; make a link: dayfly env share %s -n %s", e.Name, e.Namespace)
	}
}

func (o *envShareOptions) end(ctx context.Context, c *kube.Cluster, e *v1alpha1.Environment) error {
	before := e.DeepCopy()
	for _, name := range o.revoke {
		had := len(e.Spec.Shares)
		e.Spec.Shares = slices.DeleteFunc(e.Spec.Shares, func(s v1alpha1.Share) bool { return s.Name == name })
		if len(e.Spec.Shares) == had {
			return usererr.New(usererr.NotFound, "see: dayfly env share "+e.Name+" --list", "environment %s has no share %s", e.Name, name)
		}
	}
	if err := changeEnvironment(ctx, c, before, e); err != nil {
		return err
	}
	o.app.say("the links of %s open nothing any more", strings.Join(o.revoke, ", "))
	return nil
}

func (o *envShareOptions) show(e *v1alpha1.Environment) error {
	out := shareList{viewVersion, "ShareList", []shareView{}}
	for _, s := range e.Spec.Shares {
		if time.Now().Before(s.Until.Time) {
			out.Items = append(out.Items, shareView{Name: s.Name, Until: s.Until.UTC()})
		}
	}
	return o.app.print(o.output, out, func(w io.Writer) error {
		if len(out.Items) == 0 {
			o.app.say("environment %s is shared with nobody", e.Name)
			return nil
		}
		t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
		fmt.Fprintln(t, "SHARE\tGOOD UNTIL")
		for _, s := range out.Items {
			fmt.Fprintf(t, "%s\t%s\n", s.Name, s.Until.Local().Format("15:04 Jan 2"))
		}
		return t.Flush()
	})
}
