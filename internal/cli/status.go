package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
)

type statusOptions struct {
	app    *App
	all    bool
	output format
}

func newStatusCmd(app *App) *cobra.Command {
	o := &statusOptions{app: app}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is altered, by whom and until when, what this laptop answers, and how dayfly is",
		Long: `Show what is altered in a namespace (-A: in all), by whom, since when and until when; what processes of this laptop answer;
and dayfly itself: versions, replicas, routers and the way to them. What you have no right to see is left out, and said.

The exit code is 0 if all of it is well, 1 if something is not; dayfly doctor says what to do about it.`,
		Example: "  dayfly status\n  dayfly status -A -o json",
		Args:    takes(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "of all namespaces")
	outputFlag(cmd, &o.output)
	return cmd
}

// statusView is what `status -o json` prints.
type statusView struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Server     string            `json:"server"`
	Namespace  string            `json:"namespace,omitempty"` // "": all
	Healthy    bool              `json:"healthy"`
	Version    string            `json:"version"` // of this command
	Kubernetes string            `json:"kubernetes,omitempty"`
	Cluster    []string          `json:"clusterVersions"` // of dayfly in the cluster
	Controller *roleView         `json:"controller,omitempty"`
	Routers    []routerView      `json:"routers"`
	Sessions   []sessionView     `json:"sessions"`
	Altered    []alteredView     `json:"altered"`
	Laptop     []laptopView      `json:"laptop"`
	Unseen     map[string]string `json:"unseen"` // what could not be seen, and why
}

type roleView struct {
	Ready  int32  `json:"ready"`
	Want   int32  `json:"want"`
	Leader string `json:"leader,omitempty"`
}

type routerView struct {
	Name         string  `json:"name"`
	Node         string  `json:"node,omitempty"`
	Ready        *bool   `json:"ready,omitempty"` // absent: not seen
	Reachable    bool    `json:"reachable"`       // from this laptop, through the API server
	Milliseconds float64 `json:"milliseconds,omitempty"`
	Message      string  `json:"message,omitempty"`
}

type alteredView struct {
	Namespace string     `json:"namespace"`
	Object    string     `json:"object"`
	What      string     `json:"what"`
	By        string     `json:"by"`
	Since     time.Time  `json:"since"`
	Until     *time.Time `json:"until,omitempty"`
	Leftover  bool       `json:"leftover,omitempty"` // on behalf of no session
}

type laptopView struct {
	Namespace  string `json:"namespace"`
	Session    string `json:"session"`
	Route      string `json:"route,omitempty"`
	LaptopPort int32  `json:"laptopPort,omitempty"`
	Process    int    `json:"process,omitempty"`
	Running    bool   `json:"running"`
	Log        string `json:"log,omitempty"` // of a process in the background
}

func (o *statusOptions) run(ctx context.Context) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	namespace := c.Namespace
	if o.all {
		namespace = ""
	}
	stop := o.app.after("waiting for the cluster (%s)", c.Config.Host)
	in := inspect(ctx, o.app, c, namespace)
	stop()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case in.unreachable != nil:
		return in.unreachable
	case in.missing:
		return usererr.New(usererr.NotInstalled, "ask whoever runs the cluster, or run: dayfly install", "dayfly is not installed in this cluster")
	}
	v := statusOf(in)
	if err := o.app.print(o.output, v, v.table); err != nil {
		return err
	}
	if !v.Healthy {
		return &exitError{int(usererr.Failed)}
	}
	return nil
}

// statusOf sums an inspection up. It is well if doctor finds no problem.
func statusOf(in *inspection) statusView {
	v := statusView{
		APIVersion: viewVersion, Kind: "Status", Server: in.server, Namespace: in.namespace, Version: in.cliVer, Kubernetes: in.kubernetes,
		Cluster: in.versions(), Routers: []routerView{}, Sessions: []sessionView{}, Altered: []alteredView{}, Laptop: []laptopView{}, Unseen: in.unseen,
	}
	v.Healthy = !slices.ContainsFunc(diagnose(in), func(f finding) bool { return f.Verdict == broken })
	if v.Cluster == nil {
		v.Cluster = []string{}
	}
	for i := range in.sessions {
		v.Sessions = append(v.Sessions, view(&in.sessions[i]))
	}
	for i := range in.alterations {
		a := &in.alterations[i]
		av := alteredView{Namespace: a.Namespace, Object: "service/" + a.Spec.Target.Name, What: a.Status.Summary, By: a.Status.By,
			Since: a.CreationTimestamp.UTC(), Leftover: !in.wanted(a)}
		if a.Status.Until != nil {
			av.Until = new(a.Status.Until.UTC())
		}
		v.Altered = append(v.Altered, av)
	}
	for i := range in.deployments {
		if d := &in.deployments[i]; component(d.Labels) == "controller" {
			v.Controller = &roleView{d.Status.ReadyReplicas, replicas(d), in.leader()}
		}
	}
	v.Routers = append(v.Routers, routersOf(in)...)
	for _, s := range in.laptop.sessions {
		v.Laptop = append(v.Laptop, laptopOfSession(s)...)
	}
	return v
}

func routersOf(in *inspection) (out []routerView) {
	for _, w := range in.ways {
		r := routerView{Name: w.router, Reachable: w.err == nil}
		if w.err == nil {
			r.Milliseconds = float64(w.took.Microseconds()) / 1000
		} else {
			r.Message = w.err.Error()
		}
		for i := range in.deployments {
			if d := &in.deployments[i]; d.Name == w.router {
				r.Ready = new(d.Status.ReadyReplicas > 0)
			}
		}
		for node, names := range in.nodes() {
			if slices.Contains(names, w.router) {
				r.Node = node
			}
		}
		out = append(out, r)
	}
	return out
}

func laptopOfSession(s *laptopSession) (out []laptopView) {
	for _, p := range s.Serving {
		out = append(out, laptopView{Namespace: s.Namespace, Session: s.Name, Route: p.Route, LaptopPort: p.LaptopPort, Process: p.PID, Running: p.alive()})
	}
	if len(out) == 0 {
		out = []laptopView{{Namespace: s.Namespace, Session: s.Name}}
	}
	if exists(s.log()) {
		for i := range out {
			out[i].Log = s.log()
		}
	}
	return out
}

func (v statusView) table(w io.Writer) error {
	theirs := strings.Join(v.Cluster, ", ")
	if theirs == "" {
		theirs = "unknown"
	}
	fmt.Fprintf(w, "dayfly      %s here, %s in the cluster; Kubernetes %s\n", v.Version, theirs, v.Kubernetes)
	if c := v.Controller; c != nil {
		leads := "none leads"
		if c.Leader != "" {
			leads = c.Leader + " leads"
		}
		fmt.Fprintf(w, "controller  %d of %d ready, %s\n", c.Ready, c.Want, leads)
	}
	for _, r := range v.Routers {
		fmt.Fprintf(w, "%-10s  %s\n", r.Name, printable(r.text()))
	}
	where := "in all namespaces"
	if v.Namespace != "" {
		where = "in namespace " + v.Namespace
	}
	fmt.Fprintf(w, "\naltered %s: %s\n", where, map[bool]string{true: "nothing", false: plural(len(v.Altered), "service")}[len(v.Altered) == 0])
	if len(v.Sessions) > 0 {
		if err := printSessions(w, v.Sessions); err != nil {
			return err
		}
	}
	for _, a := range v.Altered {
		if a.Leftover {
			fmt.Fprintf(w, "%s in namespace %s, on behalf of no session, since %s\n", a.Object, a.Namespace, duration.HumanDuration(time.Since(a.Since)))
		}
	}
	fmt.Fprintf(w, "\nthis laptop%s\n", map[bool]string{true: " answers nothing", false: ":"}[len(v.Laptop) == 0])
	for _, l := range v.Laptop {
		fmt.Fprintf(w, "  %s/%s  %s\n", l.Namespace, l.Session, l.text())
	}
	for _, what := range slices.Sorted(maps.Keys(v.Unseen)) {
		fmt.Fprintf(w, "not seen: %s: %s\n", what, printable(v.Unseen[what]))
	}
	return nil
}

func (r routerView) text() string {
	var out []string
	if r.Ready != nil {
		out = append(out, map[bool]string{true: "ready", false: "not ready"}[*r.Ready])
	}
	if r.Node != "" {
		out = append(out, "on "+r.Node)
	}
	if r.Reachable {
		out = append(out, fmt.Sprintf("reached in %.0f ms", r.Milliseconds))
	} else {
		out = append(out, "cannot be reached: "+r.Message)
	}
	return strings.Join(out, ", ")
}

func (l laptopView) text() string {
	if l.Route == "" {
		return "kept, answers nothing"
	}
	state := "process " + fmt.Sprint(l.Process)
	if !l.Running {
		state += ", which is gone: dayfly doctor --fix"
	}
	if l.Log != "" {
		state += "; log " + l.Log
	}
	return fmt.Sprintf("%s on port %d by %s", l.Route, l.LaptopPort, state)
}

// printable takes out what would move a terminal's cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\ufffd'
		}
		return r
	}, s)
}
