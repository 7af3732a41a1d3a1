package cli

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// envLifeOptions are of commands that change how long an environment lives.
type envLifeOptions struct {
	app    *App
	name   string
	reason string
	output format
}

func (o *envLifeOptions) complete(cmd *cobra.Command, run func(context.Context) error) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = takes(cobra.ExactArgs(1)), o.app.completeEnvironment
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.name = args[0]
		return run(cmd.Context())
	}
	cmd.Flags().StringVar(&o.reason, "reason", "", "why: kept with the environment, and told in its events")
	outputFlag(cmd, &o.output)
	return cmd
}

func newEnvExtendCmd(app *App) *cobra.Command {
	o := &envLifeOptions{app: app}
	by := 4 * time.Hour
	cmd := o.complete(&cobra.Command{
		Use: "extend NAME", Short: "Let an environment live longer", Example: "  dayfly env extend pr-1 --by 4h --reason 'the review is on Monday'",
	}, func(ctx context.Context) error { return o.extend(ctx, by) })
	cmd.Flags().DurationVar(&by, "by", by, "how much longer")
	return cmd
}

func (o *envLifeOptions) extend(ctx context.Context, by time.Duration) error {
	if by <= 0 {
		return usererr.New(usererr.Usage, "use, for example, --by 4h; to end it: dayfly env delete "+o.name, "--by %s does not extend it", by)
	}
	return o.change(ctx, func(e *v1alpha1.Environment) error {
		lives := e.Spec.TTL.Duration
		if p := e.Status.Policy; lives == 0 && p != nil && p.TTL != nil {
			lives = p.TTL.Duration
		}
		e.Spec.TTL.Duration = cmp.Or(lives, environment.DefaultTTL) + by
		return nil
	})
}

func newEnvPinCmd(app *App) *cobra.Command {
	o := &envLifeOptions{app: app}
	return o.complete(&cobra.Command{
		Use: "pin NAME", Short: "Have an environment neither end nor fall asleep by itself",
		Long:    "Have an environment neither end nor fall asleep by itself, until it is unpinned. A policy with a maxTTL refuses it, unless it allows pins.",
		Example: "  dayfly env pin demo --reason 'shown at the fair'",
	}, func(ctx context.Context) error {
		return o.change(ctx, func(e *v1alpha1.Environment) error {
			if p := e.Status.Policy; p != nil && p.NoPin {
				return usererr.New(usererr.Refused, "let it live longer: dayfly env extend "+e.Name+"; or ask whoever rules the cluster for allowPin in the policy",
					"policy %s lets environments live for no more than %s, and pins none", p.Name, p.MaxTTL.Duration)
			}
			e.Spec.Pinned = true
			return nil
		})
	})
}

func newEnvUnpinCmd(app *App) *cobra.Command {
	o := &envLifeOptions{app: app}
	return o.complete(&cobra.Command{
		Use: "unpin NAME", Short: "Have an environment that is pinned end by itself again", Example: "  dayfly env unpin demo",
		Long: "Have an environment that is pinned end, and fall asleep, by itself again. Its time counts anew from then.",
	}, func(ctx context.Context) error {
		return o.change(ctx, func(e *v1alpha1.Environment) error {
			e.Spec.Pinned = false
			return nil
		})
	})
}

// change changes an environment's life, with the reason for it, and tells what came of it.
func (o *envLifeOptions) change(ctx context.Context, what func(*v1alpha1.Environment) error) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	e, err := getEnvironment(ctx, c, o.name)
	if err != nil {
		return err
	}
	before := e.DeepCopy()
	if err := what(e); err != nil {
		return err
	}
	delete(e.Annotations, v1alpha1.AnnotationReason)
	if o.reason != "" {
		metav1.SetMetaDataAnnotation(&e.ObjectMeta, v1alpha1.AnnotationReason, o.reason)
	}
	if err := changeEnvironment(ctx, c, before, e); err != nil {
		return err
	}
	now := observed(ctx, c, e)
	o.app.say("environment %s lives until %s", e.Name, viewEnvironment(now).endsAt())
	o.app.warnOfPolicy(now)
	if o.output == "table" {
		return nil
	}
	return o.app.showEnvironment(o.output, now)
}

// observed is an environment as the controller has seen it once it has seen the last change, or as it is after a while.
func observed(ctx context.Context, c *kube.Cluster, e *v1alpha1.Environment) *v1alpha1.Environment {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		now := &v1alpha1.Environment{}
		if err := c.Get(ctx, client.ObjectKeyFromObject(e), now); err != nil && !kube.Away(err) || err == nil && now.UID != e.UID {
			return e
		} else if err == nil && now.Status.ObservedGeneration >= e.Generation {
			return now
		}
		pause(ctx, lookEvery)
	}
	return e
}

// warnOfPolicy says that an environment ends before the time that it asks for.
func (a *App) warnOfPolicy(e *v1alpha1.Environment) {
	p := e.Status.Policy
	if p != nil && p.MaxTTL != nil && !(e.Spec.Pinned && !p.NoPin) && e.Spec.TTL.Duration > p.MaxTTL.Duration {
		a.warn("policy %s lets it live for no more than %s", p.Name, p.MaxTTL.Duration)
	}
}

// warnOfEnd says that an environment ends soon, to whoever has to do with it.
func (a *App) warnOfEnd(e *v1alpha1.Environment) {
	if v := viewEnvironment(e); v.EndsSoon {
		soon := meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionExpiresSoon)
		a.warn("environment %s ends in %s: %s", e.Name, duration.HumanDuration(time.Until(*v.ExpiresAt)), soon.Message)
	}
}

// endsAt is when an environment ends, for people.
func (v environmentView) endsAt() string {
	if v.ExpiresAt == nil {
		return "it is deleted"
	}
	return v.ExpiresAt.Local().Format("15:04 Jan 2")
}

// endsIn is how long it lives yet.
func (v environmentView) endsIn() string {
	switch {
	case v.ExpiresAt == nil:
		return "pinned"
	case v.EndsSoon:
		return duration.HumanDuration(time.Until(*v.ExpiresAt)) + " (soon)"
	}
	return duration.HumanDuration(time.Until(*v.ExpiresAt))
}

// stateText is how an environment stands, with its place in line.
func (v environmentView) stateText() string {
	if v.Position > 0 {
		return fmt.Sprintf("%s (%s)", v.State, environment.Ordinal(v.Position))
	}
	return v.State
}

// lifeText is when an environment ends, and why it lives so long.
func (v environmentView) lifeText() string {
	out := v.endsAt()
	switch {
	case v.ExpiresAt == nil:
		out = "when it is deleted: it is pinned"
	case v.EndsSoon:
		out += " (soon)"
	}
	if v.Reason != "" {
		out += ", " + v.Reason
	}
	return out
}

// text is a cost for people, to the hundredth.
func (c *costView) text() string {
	amount, _ := strconv.ParseFloat(c.Amount, 64)
	perHour, _ := strconv.ParseFloat(c.PerHour, 64)
	return fmt.Sprintf("%.2f %s until now, %.4f an hour, by what it requests", amount, c.Currency, perHour)
}
