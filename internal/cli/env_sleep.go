package cli

import (
	"context"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func newEnvSleepCmd(app *App) *cobra.Command {
	return newSleepCmd(app, 0, &cobra.Command{
		Use: "sleep NAME...", Short: "Have environments run nothing until they are woken",
		Long: `Have environments run nothing until they are woken: their workloads have no pods and their CronJobs are suspended. Objects, claims and
their data, and the end date stay.`,
		Example: "  dayfly env sleep pr-1 -n team",
	})
}

func newEnvWakeCmd(app *App) *cobra.Command {
	return newSleepCmd(app, 1, &cobra.Command{
		Use: "wake NAME...", Short: "Have environments that sleep run again",
		Example: "  dayfly env wake pr-1 -n team",
	})
}

func newSleepCmd(app *App, awake int32, cmd *cobra.Command) *cobra.Command {
	o := &envWaitOptions{app: app}
	cmd.Args, cmd.ValidArgsFunction = takes(cobra.MinimumNArgs(1)), func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return app.completeEnvironment(cmd, nil, word)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return o.sleep(cmd.Context(), args, awake) }
	o.flags(cmd, 10*time.Minute)
	return cmd
}

// sleep sends environments to sleep, or wakes them, all at once.
func (o *envWaitOptions) sleep(ctx context.Context, names []string, awake int32) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	var all []*v1alpha1.Environment
	for _, name := range names {
		e, err := setAwake(ctx, c, name, awake)
		if err != nil {
			return err
		}
		o.app.warnOfEnd(e)
		all = append(all, e)
	}
	for _, e := range all {
		if err := o.await(ctx, c, e); err != nil {
			return err
		}
	}
	return nil
}

func setAwake(ctx context.Context, c *kube.Cluster, name string, awake int32) (*v1alpha1.Environment, error) {
	for {
		e, err := getEnvironment(ctx, c, name)
		if err != nil {
			return nil, err
		}
		before := e.DeepCopy()
		e.Spec.Replicas = new(awake)
		err = c.Patch(ctx, e, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		if apierrors.IsConflict(err) && ctx.Err() == nil {
			continue
		}
		return e, kube.Explain(err)
	}
}
