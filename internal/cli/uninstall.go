package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/deploy"
	"dayfly.dev/dayfly/internal/apply"
	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

type uninstallOptions struct {
	app     *App
	force   bool
	end     bool // environments
	timeout time.Duration
}

func newUninstallCmd(app *App) *cobra.Command {
	o := &uninstallOptions{app: app}
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Close every session, restore everything, and take dayfly out of the cluster",
		Long: `Close every session, wait until everything that was altered is restored, and take dayfly out of the cluster.

While there are environments it refuses, since they may hold work: --delete-environments ends them first. With --force this laptop
restores and ends, not the controller: for a cluster in which dayfly itself no longer runs.`,
		Example: `  dayfly uninstall
  dayfly uninstall --delete-environments
  dayfly uninstall --force`,
		Args: takes(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.Flags().BoolVar(&o.force, "force", false, "restore from this laptop, without dayfly's controller")
	cmd.Flags().BoolVar(&o.end, "delete-environments", false, "end every environment first, with all that is in it")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 3*time.Minute, "how long to wait until everything is restored and gone")
	return cmd
}

func (o *uninstallOptions) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	c, err := o.app.open()
	if err != nil {
		return err
	}
	if err := c.Ping(ctx); err != nil {
		return err
	}
	if err := o.endEnvironments(ctx, c); err != nil {
		return err
	}
	if err := o.restore(ctx, c); err != nil {
		return err
	}
	objects, err := deploy.Objects(deploy.Options{Image: "dayfly", Version: o.app.Version, Routers: 16, PriorityClass: "system-", Domain: "any",
		Front: deploy.Front{IngressClass: "any", Gateway: deploy.ParentRef{Name: "any"}, Issuer: deploy.IssuerRef{Name: "any"}}})
	if err != nil {
		return err
	}
	set, err := apply.Open(c.Config)
	if err != nil {
		return kube.Explain(err)
	}
	o.app.say("taking dayfly out of %s", c.Context)
	return kube.Explain(set.Delete(ctx, objects, func(s string) { o.app.say("  %s deleted", s) }))
}

// endEnvironments returns when there is no environment any more.
func (o *uninstallOptions) endEnvironments(ctx context.Context, c *kube.Cluster) error {
	list, err := environments(ctx, c)
	if err != nil || len(list) == 0 {
		return err
	}
	if !o.end {
		return usererr.New(usererr.Conflict, "end them with dayfly env delete, or all at once: dayfly uninstall --delete-environments",
			"there are environments: %s", strings.Join(environmentNames(list), ", "))
	}
	for i := range list {
		e := &list[i]
		o.app.say("ending environment %s/%s of %s", e.Namespace, e.Name, e.Spec.Owner.Username)
		if err := c.Delete(ctx, e, client.Preconditions{UID: &e.UID}); client.IgnoreNotFound(err) != nil {
			return kube.Explain(err)
		}
	}
	step := func(*v1alpha1.Environment) error { return nil }
	if o.force {
		accounts, err := environment.NewAccounts(c.Config)
		if err != nil {
			return kube.Explain(err)
		}
		engine := environment.New(environment.Options{Client: client.WithFieldOwner(c, v1alpha1.FieldManager), Reader: c, Accounts: accounts, System: deploy.Namespace})
		step = func(e *v1alpha1.Environment) error {
			_, err := engine.Reconcile(ctx, client.ObjectKeyFromObject(e))
			return err
		}
	}
	for {
		for i := range list {
			if err := step(&list[i]); err != nil && ctx.Err() == nil {
				return kube.Explain(err)
			}
		}
		pause(ctx, lookEvery)
		now, err := environments(ctx, c)
		switch {
		case ctx.Err() != nil:
			return usererr.New(usererr.TimedOut, "see: dayfly env list -A; if dayfly no longer runs in the cluster: dayfly uninstall --force --delete-environments",
				"still there after %s: %s", o.timeout, strings.Join(environmentNames(list), ", "))
		case err != nil && !kube.Away(err):
			return err
		case err == nil && len(now) == 0:
			return nil
		case err == nil:
			list = now
		}
	}
}

// environments are all those of the cluster; none where their kind is not installed.
func environments(ctx context.Context, c *kube.Cluster) ([]v1alpha1.Environment, error) {
	var list v1alpha1.EnvironmentList
	err := kube.Explain(c.List(ctx, &list))
	if usererr.CodeOf(err) == usererr.NotInstalled {
		return nil, nil
	}
	return list.Items, err
}

func environmentNames(list []v1alpha1.Environment) []string {
	var out []string
	for _, e := range list {
		v := viewEnvironment(&e)
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s/%s %s", e.Namespace, e.Name, v.Message)))
	}
	return out
}

// restore closes every session and returns when nothing is altered any more.
func (o *uninstallOptions) restore(ctx context.Context, c *kube.Cluster) error {
	var sessions v1alpha1.SessionList
	err := c.List(ctx, &sessions)
	if usererr.CodeOf(kube.Explain(err)) == usererr.NotInstalled {
		return nil
	}
	if err != nil {
		return kube.Explain(err)
	}
	for i := range sessions.Items {
		s := &sessions.Items[i]
		o.app.say("closing session %s/%s of %s", s.Namespace, s.Name, s.Spec.Owner.Username)
		if err := c.Delete(ctx, s); err != nil && !apierrors.IsNotFound(err) {
			return kube.Explain(err)
		}
	}
	if o.force {
		return o.restoreHere(ctx, c)
	}
	return o.awaitRestored(ctx, c)
}

func (o *uninstallOptions) awaitRestored(ctx context.Context, c *kube.Cluster) error {
	stop := o.app.after("waiting until everything is restored")
	defer stop()
	for {
		left, err := altered(ctx, c)
		if err == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return usererr.New(usererr.TimedOut, "if dayfly no longer runs in the cluster: dayfly uninstall --force",
				"still altered after %s: %v", o.timeout, left)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// altered lists what is left to restore.
func altered(ctx context.Context, c *kube.Cluster) ([]string, error) {
	var out []string
	var sessions v1alpha1.SessionList
	var alterations v1alpha1.AlterationList
	if err := c.List(ctx, &sessions); err != nil {
		return nil, err
	}
	if err := c.List(ctx, &alterations); err != nil {
		return nil, err
	}
	for _, s := range sessions.Items {
		out = append(out, fmt.Sprintf("session %s/%s", s.Namespace, s.Name))
	}
	for _, a := range alterations.Items {
		out = append(out, fmt.Sprintf("service %s/%s", a.Namespace, a.Spec.Target.Name))
	}
	return out, nil
}

// restoreHere runs the session engine on this laptop, as a cluster without routers: it lets go of everything.
func (o *uninstallOptions) restoreHere(ctx context.Context, c *kube.Cluster) error {
	o.app.say("restoring from this laptop")
	engine := session.New(session.Options{Client: client.WithFieldOwner(c, v1alpha1.FieldManager), Reader: c, Fleet: noFleet{}})
	for {
		left, err := altered(ctx, c)
		if err != nil {
			return kube.Explain(err)
		}
		if len(left) == 0 {
			return nil
		}
		for ns := range namespacesOf(ctx, c) {
			if _, err := engine.Reconcile(ctx, ns); err != nil {
				return fmt.Errorf("restoring namespace %s: %w", ns, err)
			}
		}
		select {
		case <-ctx.Done():
			return usererr.New(usererr.TimedOut, "run it again, or restore the services by hand from: kubectl get alterations -A -o yaml",
				"still altered after %s: %v", o.timeout, left)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func namespacesOf(ctx context.Context, c *kube.Cluster) map[string]bool {
	out := map[string]bool{}
	var sessions v1alpha1.SessionList
	var alterations v1alpha1.AlterationList
	_ = c.List(ctx, &sessions)
	_ = c.List(ctx, &alterations)
	for _, s := range sessions.Items {
		out[s.Namespace] = true
	}
	for _, a := range alterations.Items {
		out[a.Namespace] = true
	}
	return out
}

// noFleet is a cluster without routers.
type noFleet struct{}

func (noFleet) Routers() []session.Router        { return nil }
func (noFleet) Settle(context.Context) error     { return nil }
func (noFleet) Reach(context.Context, int) error { return nil }
func (noFleet) Flow(string) control.Flow         { return control.Flow{} }
