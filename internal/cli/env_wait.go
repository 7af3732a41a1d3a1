package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// envWaitOptions say whether and how a command waits until an environment is what was asked for.
type envWaitOptions struct {
	app     *App
	wait    bool
	timeout time.Duration
	output  format
	ours    bool // the environment goes with the command
}

func (o *envWaitOptions) flags(cmd *cobra.Command, timeout time.Duration) {
	cmd.Flags().BoolVar(&o.wait, "wait", true, "wait until it is done; --wait=false returns at once")
	cmd.Flags().DurationVar(&o.timeout, "timeout", timeout, "how long to wait")
	outputFlag(cmd, &o.output)
}

// failingFor is how long a component may fail before the command no longer waits for it. The cluster goes on trying.
const failingFor = 30 * time.Second

// lookEvery is the pause between two looks at what is waited for.
const lookEvery = 300 * time.Millisecond

// lookAnyway is how long nothing may be heard of it: some of what is waited for is time.
const lookAnyway = 2 * time.Second

// news tells of changes of one environment, as they come where that can be watched.
type news struct {
	c *kube.Cluster
	e *v1alpha1.Environment
	w watch.Interface // nil: there is none
}

// await returns at the next change, and now and then without one.
func (n *news) await(ctx context.Context) {
	if n.w == nil {
		w, err := n.c.Watch(ctx, &v1alpha1.EnvironmentList{}, client.InNamespace(n.e.Namespace),
			client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", n.e.Name)})
		if err != nil {
			pause(ctx, lookEvery)
			return
		}
		n.w = w // what changed before it began, it tells at once
	}
	select {
	case <-ctx.Done():
	case <-time.After(lookAnyway):
	case e, ok := <-n.w.ResultChan():
		if !ok || e.Type == watch.Error {
			n.stop()
			pause(ctx, lookEvery)
		}
	}
}

func (n *news) stop() {
	if n.w != nil {
		n.w.Stop()
		n.w = nil
	}
}

// await shows how the components come up until the environment is ready, or asleep, as e asks.
func (o *envWaitOptions) await(ctx context.Context, c *kube.Cluster, e *v1alpha1.Environment) error {
	if !o.wait {
		if o.output == "table" {
			return nil
		}
		return o.app.showEnvironment(o.output, e)
	}
	began, failing := time.Now(), time.Time{}
	shown := map[string]string{}
	goal, is := environment.ReasonReady, "ready"
	if e.Spec.Asleep() {
		goal, is = environment.ReasonAsleep, "asleep"
	}
	changes := &news{c: c, e: e}
	defer changes.stop()
	for {
		now := &v1alpha1.Environment{}
		err := c.Get(ctx, client.ObjectKeyFromObject(e), now)
		switch {
		case ctx.Err() != nil:
			if o.ours {
				return ctx.Err()
			}
			o.app.say("\nno longer waiting: the cluster goes on making environment %s\n  see how it stands: dayfly env show %s -n %s\n  end it: dayfly env delete %s -n %s",
				e.Name, e.Name, e.Namespace, e.Name, e.Namespace)
			return ctx.Err()
		case apierrors.IsNotFound(err) || err == nil && now.UID != e.UID:
			return usererr.New(usererr.NotFound, "", "environment %s was deleted meanwhile", e.Name)
		case err != nil && !kube.Away(err):
			return kube.Explain(err)
		}
		if err == nil {
			v := viewEnvironment(now)
			current := now.Generation >= e.Generation && environment.Current(now)
			if current {
				o.progress(shown, v)
			}
			switch {
			case current && v.State == goal:
				o.app.say("environment %s is %s after %s", e.Name, is, time.Since(began).Round(100*time.Millisecond))
				if o.output == "table" {
					o.app.sayAddresses(now)
					return nil
				}
				return o.app.showEnvironment(o.output, now)
			case current && !now.DeletionTimestamp.IsZero():
				return usererr.New(usererr.NotFound, "", "environment %s is being deleted", e.Name)
			case now.Spec.Asleep() != e.Spec.Asleep():
				return usererr.New(usererr.Conflict, "see: dayfly env events "+e.Name+" -n "+e.Namespace, "environment %s %s", e.Name, changedMeanwhile(e))
			case current && v.Stalled:
				return o.failed(ctx, c, v)
			case current && fails(v) && failing.IsZero():
				failing = time.Now()
			case !fails(v):
				failing = time.Time{}
			}
			if !failing.IsZero() && time.Since(failing) > failingFor {
				return o.failed(ctx, c, v)
			}
			if time.Since(began) > o.timeout {
				return usererr.New(usererr.TimedOut, "see: dayfly env show "+e.Name+" -n "+e.Namespace, "environment %s was not %s within %s: %s", e.Name, is, o.timeout, v.Message)
			}
		}
		changes.await(ctx)
	}
}

// fails says whether what is seen seldom goes by itself.
func fails(v environmentView) bool {
	return v.State == environment.ReasonFailing || v.State == environment.ReasonSourceUnavailable
}

// changedMeanwhile says what became of an environment that was to sleep, or to run.
func changedMeanwhile(e *v1alpha1.Environment) string {
	if e.Spec.Asleep() {
		return "was woken before it slept: a request came, or somebody woke it"
	}
	return "was put to sleep before it was ready"
}

// progress prints what has changed of each component.
func (o *envWaitOptions) progress(shown map[string]string, v environmentView) {
	if v.State == environment.ReasonQueued {
		if shown[""] != v.Message {
			shown[""] = v.Message
			o.app.say("  queued: %s", v.Message)
		}
		return
	}
	if (len(v.Components) == 0 || v.State == environment.ReasonFetching) && v.Message != "" && shown[""] != v.State+v.Message {
		shown[""] = v.State + v.Message
		o.app.say("  %s: %s", v.State, v.Message)
	}
	for _, c := range v.Components {
		if line := strings.TrimSpace(fmt.Sprintf("%-20s %-9s %s", componentName(c.Name), c.State, c.Message)); shown["/"+c.Name] != line {
			shown["/"+c.Name] = line
			o.app.say("  %s", line)
		}
	}
}

// failed says what fails, with the last that the failing component's own pods printed: the caller may see that, not everybody
// who sees the environment.
func (o *envWaitOptions) failed(ctx context.Context, c *kube.Cluster, v environmentView) error {
	for _, comp := range v.Components {
		if comp.State != string(v1alpha1.ComponentFailing) {
			continue
		}
		for _, l := range lastLines(ctx, c, v, comp.Name) {
			o.app.say("  %s", l)
		}
	}
	from := "-f DIR"
	if v.Source != nil {
		from = "--refresh"
	}
	return usererr.New(usererr.Failed, fmt.Sprintf("mend it and run: dayfly env update %s -n %s %s; or end it: dayfly env delete %s -n %s", v.Name, v.Namespace, from, v.Name, v.Namespace),
		"environment %s is not ready: %s: %s", v.Name, v.State, v.Message)
}

type envDeleteOptions struct {
	app     *App
	wait    bool
	timeout time.Duration
}

func newEnvDeleteCmd(app *App) *cobra.Command {
	o := &envDeleteOptions{app: app}
	cmd := &cobra.Command{
		Use: "delete NAME...", Aliases: []string{"rm"}, Short: "End environments and wait until nothing of them is left",
		Long: `End environments and wait until nothing of them is left in the cluster. What holds one up is named. ^C ends the waiting, not the ending.`,
		Args: takes(cobra.MinimumNArgs(1)), Example: "  dayfly env delete pr-1 -n team",
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			return app.completeEnvironment(cmd, nil, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args) },
	}
	cmd.Flags().BoolVar(&o.wait, "wait", true, "wait until it is gone; --wait=false returns at once")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 3*time.Minute, "how long to wait")
	return cmd
}

func (o *envDeleteOptions) run(ctx context.Context, names []string) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	var going []*v1alpha1.Environment
	for _, name := range names {
		e, err := getEnvironment(ctx, c, name)
		if err != nil {
			return err
		}
		if err := c.Delete(ctx, e, client.Preconditions{UID: &e.UID}, client.PropagationPolicy(metav1.DeletePropagationBackground)); client.IgnoreNotFound(err) != nil {
			return kube.Explain(err)
		}
		going = append(going, e)
	}
	if !o.wait {
		o.app.say("ending: %s", strings.Join(names, ", "))
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	for _, e := range going {
		if err := o.gone(ctx, c, e); err != nil {
			return err
		}
	}
	return nil
}

// gone waits until an environment that was deleted is.
func (o *envDeleteOptions) gone(ctx context.Context, c *kube.Cluster, e *v1alpha1.Environment) error {
	began, said := time.Now(), ""
	changes := &news{c: c, e: e}
	defer changes.stop()
	for {
		now := &v1alpha1.Environment{}
		err := c.Get(ctx, client.ObjectKeyFromObject(e), now)
		switch {
		case apierrors.IsNotFound(err) || err == nil && now.UID != e.UID:
			o.app.say("environment %s is gone after %s: nothing of it is left", e.Name, time.Since(began).Round(100*time.Millisecond))
			return nil
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return usererr.New(usererr.TimedOut, "see: dayfly env show "+e.Name+" -n "+e.Namespace+"; it goes on as soon as that is out of the way",
				"environment %s was not gone within %s: %s", e.Name, o.timeout, said)
		case ctx.Err() != nil:
			o.app.say("\nno longer waiting: the cluster goes on ending environment %s", e.Name)
			return ctx.Err()
		case err != nil && !kube.Away(err):
			return kube.Explain(err)
		case err == nil:
			e = now
			if v := viewEnvironment(now); v.State == environment.ReasonBlocked && v.Message != said {
				said = v.Message
				o.app.warn("%s", said)
			}
		}
		changes.await(ctx)
	}
}
