package cli

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

type envLogsOptions struct {
	app       *App
	name      string
	component string
	tail      int64
	follow    bool
	previous  bool
}

func newEnvLogsCmd(app *App) *cobra.Command {
	o := &envLogsOptions{app: app}
	cmd := &cobra.Command{
		Use: "logs NAME [COMPONENT]", Short: "Print what an environment's pods print", Example: "  dayfly env logs pr-1 catalog --follow",
		Args: takes(cobra.RangeArgs(1, 2)), ValidArgsFunction: app.completeComponent,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if len(args) > 1 {
				o.component = args[1]
			}
			return o.run(cmd.Context())
		},
	}
	cmd.Flags().Int64Var(&o.tail, "tail", 20, "how many lines of each container, from the end")
	cmd.Flags().BoolVar(&o.follow, "follow", false, "go on as they print, until ^C")
	cmd.Flags().BoolVarP(&o.previous, "previous", "p", false, "of the containers that ended before those that run")
	return cmd
}

func (o *envLogsOptions) run(ctx context.Context) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	e, err := getEnvironment(ctx, c, o.name)
	if err != nil {
		return err
	}
	o.app.warnOfEnd(e)
	v := viewEnvironment(e)
	if o.component != "" && !slices.ContainsFunc(v.Components, func(c componentView) bool { return c.Name == o.component }) {
		return usererr.New(usererr.NotFound, "see: dayfly env show "+o.name, "environment %s has no component %s", o.name, o.component)
	}
	pods, err := podsOfEnvironment(ctx, c, e)
	if err != nil {
		return err
	}
	api, err := corev1client.NewForConfig(c.Config)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	some := false
	for _, p := range pods {
		if o.component != "" && p.component != o.component {
			continue
		}
		for _, container := range p.Spec.Containers {
			some = true
			opts := &corev1.PodLogOptions{Container: container.Name, TailLines: &o.tail, Follow: o.follow, Previous: o.previous}
			wg.Go(func() { o.print(ctx, api, &mu, p.Namespace, p.Name, opts) })
		}
	}
	wg.Wait()
	if !some {
		o.app.say("no pods")
	}
	return ctx.Err()
}

// print prints one container's lines with its pod before each.
func (o *envLogsOptions) print(ctx context.Context, api corev1client.PodsGetter, mu *sync.Mutex, namespace, pod string, opts *corev1.PodLogOptions) {
	head := pod
	r, err := api.Pods(namespace).GetLogs(pod, opts).Stream(ctx)
	if err != nil {
		mu.Lock()
		defer mu.Unlock()
		o.app.warn("%s: %s", head, err)
		return
	}
	defer r.Close()
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		mu.Lock()
		fmt.Fprintf(o.app.Out, "%s  %s\n", head, s.Text())
		mu.Unlock()
	}
}

// podOf is a pod and the component that it belongs to.
type podOf struct {
	corev1.Pod
	component string
}

// podsOfEnvironment are the pods of an environment, by name.
func podsOfEnvironment(ctx context.Context, c *kube.Cluster, e *v1alpha1.Environment) ([]podOf, error) {
	var list corev1.PodList
	if err := c.List(ctx, &list, client.InNamespace(viewEnvironment(e).LivesIn)); err != nil {
		return nil, kube.Explain(err)
	}
	var out []podOf
	for _, p := range list.Items {
		out = append(out, podOf{p, componentOf(e, &p)})
	}
	slices.SortFunc(out, func(a, b podOf) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// componentOf finds a pod's component by the workload that made it, whose name is the head of the pod's.
func componentOf(e *v1alpha1.Environment, p *corev1.Pod) string {
	best, component := "", ""
	for _, i := range e.Status.Inventory {
		workload := slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Pod"}, i.Kind)
		if workload && len(i.Name) > len(best) && (p.Name == i.Name || strings.HasPrefix(p.Name, i.Name+"-")) {
			best, component = i.Name, i.Component
		}
	}
	return component
}

// lastLines are the last few lines of a failing component's containers, those that ended included; none if the caller may not see
// them.
func lastLines(ctx context.Context, c *kube.Cluster, v environmentView, component string) []string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	e, err := getEnvironment(ctx, c, v.Name)
	if err != nil {
		return nil
	}
	pods, err := podsOfEnvironment(ctx, c, e)
	if err != nil {
		return nil
	}
	api, err := corev1client.NewForConfig(c.Config)
	if err != nil {
		return nil
	}
	var out []string
	for _, p := range pods {
		if p.component != component {
			continue
		}
		for _, s := range p.Status.ContainerStatuses {
			if s.Ready || s.RestartCount == 0 && s.State.Running == nil && s.State.Terminated == nil {
				continue
			}
			opts := &corev1.PodLogOptions{Container: s.Name, TailLines: new(int64(8)), LimitBytes: new(int64(4096)), Previous: s.RestartCount > 0 && s.State.Running == nil}
			data, err := api.Pods(p.Namespace).GetLogs(p.Name, opts).DoRaw(ctx)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(data)) {
				out = append(out, p.Name+"  "+strings.TrimRight(line, "\n"))
			}
			if len(out) > 0 {
				return out // one pod tells enough
			}
		}
	}
	return out
}

func newEnvEventsCmd(app *App) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use: "events NAME", Short: "List what has happened to an environment and in it", Example: "  dayfly env events pr-1 -n team",
		Args: takes(cobra.ExactArgs(1)), ValidArgsFunction: app.completeEnvironment,
		RunE: func(cmd *cobra.Command, args []string) error { return showEvents(cmd.Context(), app, args[0], output) },
	}
	outputFlag(cmd, &output)
	return cmd
}

// eventView is an event as -o json and -o yaml show it.
type eventView struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Reason  string    `json:"reason"`
	Object  string    `json:"object"`
	Message string    `json:"message"`
	Count   int32     `json:"count,omitempty"`
}

type eventList struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"`
	Items      []eventView `json:"items"`
}

func showEvents(ctx context.Context, app *App, name string, output format) error {
	c, err := app.open()
	if err != nil {
		return err
	}
	defer app.after("waiting for the cluster (%s)", c.Config.Host)()
	e, err := getEnvironment(ctx, c, name)
	if err != nil {
		return err
	}
	var home, inside corev1.EventList
	if err := c.List(ctx, &home, client.InNamespace(e.Namespace), client.MatchingFields{"involvedObject.uid": string(e.UID)}); err != nil {
		return kube.Explain(err)
	}
	if err := c.List(ctx, &inside, client.InNamespace(viewEnvironment(e).LivesIn)); err != nil {
		app.warn("what happened in it is not shown: %s", kube.Explain(err))
	}
	out := eventList{viewVersion, "EventList", []eventView{}}
	for _, ev := range slices.Concat(home.Items, inside.Items) {
		at := slices.MaxFunc([]time.Time{ev.LastTimestamp.Time, ev.EventTime.Time, ev.CreationTimestamp.Time}, time.Time.Compare)
		out.Items = append(out.Items, eventView{at.UTC(), ev.Type, ev.Reason, strings.ToLower(ev.InvolvedObject.Kind) + "/" + ev.InvolvedObject.Name, ev.Message, ev.Count})
	}
	slices.SortStableFunc(out.Items, func(a, b eventView) int { return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.Object, b.Object)) })
	return app.print(output, out, func(w io.Writer) error {
		t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
		fmt.Fprintln(t, "AGO\tTYPE\tREASON\tOBJECT\tMESSAGE")
		for _, v := range out.Items {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", duration.HumanDuration(time.Since(v.Time)), v.Type, v.Reason, v.Object, strings.ReplaceAll(v.Message, "\n", " "))
		}
		return t.Flush()
	})
}

// completeComponent is for an environment and one of its components.
func (a *App) completeComponent(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completeEnvironment(cmd, args, word)
	}
	return a.completeOf(args[0], func(e *v1alpha1.Environment) (out []string) {
		for _, s := range e.Status.Components {
			if s.Name != "" {
				out = append(out, s.Name)
			}
		}
		return out
	})
}

// completeOf completes names of what an environment has.
func (a *App) completeOf(name string, names func(*v1alpha1.Environment) []string) ([]string, cobra.ShellCompDirective) {
	return a.completeWith(func(ctx context.Context, c *kube.Cluster) []string {
		var e v1alpha1.Environment
		_ = c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, &e)
		return names(&e)
	})
}
