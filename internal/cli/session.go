package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func newSessionCmd(app *App) *cobra.Command {
	cmd := &cobra.Command{
		Use: "session", Aliases: []string{"sessions"}, Short: "List, show and close sessions: what is altered, by whom, until when",
	}
	group(cmd)
	cmd.AddCommand(newSessionListCmd(app), newSessionShowCmd(app), newSessionCloseCmd(app), newSessionServeCmd(app))
	return cmd
}

// sessionShown is what `session show -o json` prints.
type sessionShown struct {
	APIVersion  string `json:"apiVersion"`
	Kind        string `json:"kind"`
	sessionView `json:",inline"`
}

// sessionView is a session as -o json and -o yaml show it.
type sessionView struct {
	Namespace  string          `json:"namespace"`
	Name       string          `json:"name"`
	Owner      string          `json:"owner"`
	Host       string          `json:"host,omitempty"`
	RoutingKey string          `json:"routingKey"`
	State      string          `json:"state"`
	Message    string          `json:"message,omitempty"`
	Connected  bool            `json:"connected"`
	Created    time.Time       `json:"created"`
	ExpiresAt  *time.Time      `json:"expiresAt,omitempty"`
	Intercepts []interceptView `json:"intercepts"`
}

type interceptView struct {
	Service    string     `json:"service"`
	Port       int32      `json:"port"`
	Protocol   string     `json:"protocol,omitempty"` // left out for TCP
	LaptopPort int32      `json:"laptopPort"`
	Rule       string     `json:"rule"`
	State      string     `json:"state"`
	Message    string     `json:"message,omitempty"`
	ArmedAt    *time.Time `json:"armedAt,omitempty"`
}

func (i interceptView) route() string {
	return session.Route(v1alpha1.Intercept{Service: i.Service, Port: i.Port, Protocol: i.Protocol})
}

// sessionList is what `session list -o json` prints.
type sessionList struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Items      []sessionView `json:"items"`
}

const viewVersion = "cli.dayfly.dev/v1"

func view(s *v1alpha1.Session) sessionView {
	v := sessionView{
		Namespace: s.Namespace, Name: s.Name, Owner: s.Spec.Owner.Username, Host: s.Spec.Host, RoutingKey: s.Spec.RoutingKey,
		State: "New", Connected: s.Status.Connected, Created: s.CreationTimestamp.UTC(), Intercepts: []interceptView{},
	}
	if c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		v.State, v.Message = c.Reason, c.Message
	}
	if !s.DeletionTimestamp.IsZero() {
		v.State = "Restoring"
	}
	if s.Status.ExpiresAt != nil {
		v.ExpiresAt = new(s.Status.ExpiresAt.UTC())
	}
	for _, i := range s.Spec.Intercepts {
		iv := interceptView{Service: i.Service, Port: i.Port, LaptopPort: i.LaptopPort, Rule: session.RuleText(s.Spec.RoutingKey, i), State: "New"}
		if session.PortOf(i).UDP {
			iv.Protocol = i.Protocol
		}
		for _, st := range s.Status.Intercepts {
			if session.StatusRoute(st) == session.Route(i) {
				iv.State, iv.Message = string(st.State), st.Message
				if st.ArmedAt != nil {
					iv.ArmedAt = new(st.ArmedAt.UTC())
				}
			}
		}
		v.Intercepts = append(v.Intercepts, iv)
	}
	return v
}

type sessionListOptions struct {
	app    *App
	all    bool
	output format
}

func newSessionListCmd(app *App) *cobra.Command {
	o := &sessionListOptions{app: app}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List sessions, yours and others'",
		Example: "  dayfly session list -n shop\n  dayfly session list -A -o json",
		Args:    takes(cobra.NoArgs),
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.Flags().BoolVarP(&o.all, "all-namespaces", "A", false, "of all namespaces")
	outputFlag(cmd, &o.output)
	return cmd
}

func (o *sessionListOptions) run(ctx context.Context) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	sweep(ctx, o.app, c)
	list, err := sessionsIn(ctx, c, o.all)
	if err != nil {
		return err
	}
	out := sessionList{APIVersion: viewVersion, Kind: "SessionList", Items: []sessionView{}}
	for i := range list {
		out.Items = append(out.Items, view(&list[i]))
	}
	return o.app.print(o.output, out, func(w io.Writer) error {
		if len(out.Items) == 0 && !o.all && !namespaceExists(ctx, c) {
			return noNamespace(c)
		}
		if len(out.Items) == 0 {
			o.app.say("no sessions%s", where(c, o.all))
			return nil
		}
		return printSessions(w, out.Items)
	})
}

func where(c *kube.Cluster, all bool) string {
	if all {
		return " in the cluster"
	}
	return " in namespace " + c.Namespace
}

func sessionsIn(ctx context.Context, c *kube.Cluster, all bool) ([]v1alpha1.Session, error) {
	var list v1alpha1.SessionList
	var opts []client.ListOption
	if !all {
		opts = append(opts, client.InNamespace(c.Namespace))
	}
	if err := c.List(ctx, &list, opts...); err != nil {
		return nil, kube.Explain(err)
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.Session) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return list.Items, nil
}

func printSessions(w io.Writer, items []sessionView) error {
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NAMESPACE\tSESSION\tOWNER\tSERVICE\tRULE\tTO\tSTATE\tSINCE\tUNTIL")
	for _, s := range items {
		until := "-"
		if s.ExpiresAt != nil {
			until = s.ExpiresAt.Local().Format("15:04 Jan 2")
		}
		if s.Connected {
			until = "connected"
		}
		head := fmt.Sprintf("%s\t%s\t%s", s.Namespace, s.Name, s.Owner)
		since := duration.HumanDuration(time.Since(s.Created))
		for _, i := range s.Intercepts {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s:%d\t%s\t%s\t%s\n", head, i.route(), i.Rule, cmp.Or(s.Host, "laptop"), i.LaptopPort, i.State, since, until)
		}
		if len(s.Intercepts) == 0 {
			fmt.Fprintf(t, "%s\t-\t-\t-\t%s\t%s\t%s\n", head, s.State, since, until)
		}
	}
	return t.Flush()
}

func newSessionShowCmd(app *App) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show one session", Example: "  dayfly session show ada-laptop -n shop -o yaml",
		Args: takes(cobra.ExactArgs(1)), ValidArgsFunction: app.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error { return showSession(cmd.Context(), app, args[0], output) },
	}
	outputFlag(cmd, &output)
	return cmd
}

func showSession(ctx context.Context, app *App, name string, output format) error {
	c, err := app.open()
	if err != nil {
		return err
	}
	defer app.after("waiting for the cluster (%s)", c.Config.Host)()
	s, err := getSession(ctx, c, name)
	if err != nil {
		return err
	}
	v := view(s)
	return app.print(output, sessionShown{viewVersion, "Session", v}, func(w io.Writer) error {
		fmt.Fprintf(w, "session      %s in namespace %s\nowner        %s at %s\nrouting key  %s\nstate        %s %s\n", v.Name, v.Namespace,
			v.Owner, cmp.Or(v.Host, "an unnamed laptop"), v.RoutingKey, v.State, v.Message)
		for _, i := range v.Intercepts {
			fmt.Fprintf(w, "intercept    %s to laptop port %d, rule: %s\n             %s\n",
				i.route(), i.LaptopPort, i.Rule, strings.TrimSpace(string(i.State)+" "+i.Message))
			if i.ArmedAt != nil {
				fmt.Fprintf(w, "             in force since %s for connections opened from then on\n", i.ArmedAt.Local().Format(time.RFC3339Nano))
			}
		}
		return nil
	})
}

func getSession(ctx context.Context, c *kube.Cluster, name string) (*v1alpha1.Session, error) {
	s := &v1alpha1.Session{}
	err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, s)
	if apierrors.IsNotFound(err) && usererr.CodeOf(kube.Explain(err)) != usererr.NotInstalled {
		return nil, usererr.New(usererr.NotFound, "see: dayfly session list -A", "there is no session %s in namespace %s", name, c.Namespace)
	}
	return s, kube.Explain(err)
}

type sessionCloseOptions struct {
	app           *App
	name          string
	all           bool
	allNamespaces bool
	output        format
	timeout       time.Duration
}

func newSessionCloseCmd(app *App) *cobra.Command {
	o := &sessionCloseOptions{app: app}
	cmd := &cobra.Command{
		Use: "close [NAME]", Aliases: []string{"clean"}, Short: "Close sessions and prove that everything is as it was",
		Long: `Close one session, or all of this laptop's in the namespace, wait until everything they altered is restored, and print
the proof: the hash of every touched object before and after. With --all, also those that you opened from other laptops.

Connections that are open stay with whom they are until they end, at most for the session's drain time; then they are reset.`,
		Example: "  dayfly session close\n  dayfly session close ada-laptop -n shop\n  dayfly session close --all -A",
		Args:    takes(cobra.MaximumNArgs(1)), ValidArgsFunction: app.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.name = args[0]
			}
			return o.run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "all sessions of yours in the namespace, whatever laptop they are of")
	cmd.Flags().BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "in all namespaces")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 2*time.Minute, "how long to wait until everything is restored")
	outputFlag(cmd, &o.output)
	return cmd
}

// closedList is what `session close -o json` prints.
type closedList struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Items      []closedView `json:"items"`
}

type closedView struct {
	Namespace string           `json:"namespace"`
	Name      string           `json:"name"`
	Restored  []v1alpha1.Proof `json:"restored"` // of a session that altered nothing it is empty
}

func (o *sessionCloseOptions) run(ctx context.Context) error {
	if o.name != "" && (o.all || o.allNamespaces) {
		return usererr.New(usererr.Usage, "give either a name or --all", "a name and --all contradict each other")
	}
	c, err := o.app.open()
	if err != nil {
		return err
	}
	targets, elsewhere, err := o.targets(ctx, c)
	if err != nil {
		return err
	}
	out := closedList{APIVersion: viewVersion, Kind: "ClosedSessionList", Items: []closedView{}}
	for i := range targets {
		s := &targets[i]
		proofs, err := closeSession(ctx, o.app, c, s, client.Preconditions{UID: &s.UID}, o.timeout)
		if err != nil {
			return err
		}
		out.Items = append(out.Items, closedView{s.Namespace, s.Name, append([]v1alpha1.Proof{}, proofs...)})
	}
	if len(out.Items) == 0 {
		o.app.say("no session of this laptop%s", where(c, o.allNamespaces))
	}
	if elsewhere > 0 {
		o.app.say("%d of yours from other laptops: dayfly session close --all", elsewhere)
	}
	return o.app.print(o.output, out, func(w io.Writer) error {
		for _, s := range out.Items {
			printProof(w, s)
		}
		return nil
	})
}

// targets are the sessions meant: the named one, all whose owner is the caller, or those of them whose key this laptop
// has; then elsewhere counts the others.
func (o *sessionCloseOptions) targets(ctx context.Context, c *kube.Cluster) (targets []v1alpha1.Session, elsewhere int, err error) {
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	if o.name != "" {
		s, err := getSession(ctx, c, o.name)
		if err != nil {
			return nil, 0, err
		}
		return []v1alpha1.Session{*s}, 0, nil
	}
	me, err := c.Whoami(ctx)
	if err != nil {
		return nil, 0, err
	}
	list, err := sessionsIn(ctx, c, o.allNamespaces)
	if err != nil {
		return nil, 0, err
	}
	l, err := openLaptop(c)
	if err != nil {
		return nil, 0, err
	}
	for i := range list {
		s := &list[i]
		if s.Spec.Owner.Username != me.Username {
			continue
		}
		kept, err := l.get(s.Namespace, s.Name)
		if o.all || err == nil && kept != nil && sameKey(kept, s) {
			targets = append(targets, *s)
		} else {
			elsewhere++
		}
	}
	return targets, elsewhere, nil
}

func printProof(w io.Writer, s closedView) {
	fmt.Fprintf(w, "session %s in namespace %s is closed\n", s.Name, s.Namespace)
	if len(s.Restored) == 0 {
		fmt.Fprintln(w, "  nothing was altered")
	}
	for _, p := range s.Restored {
		verdict := "as it was"
		switch {
		case p.Note != "":
			verdict = p.Note
		case p.After != p.Before:
			verdict = "differs"
		}
		fmt.Fprintf(w, "  %s: %s\n    before %s\n    after  %s\n", p.Object, verdict, p.Before, cmp.Or(p.After, "-"))
	}
}

// closeSession deletes a session if it is as given, waits until it is gone, and returns what the controller proved last.
// Once it is called the session is deleted; ctx ends the waiting.
func closeSession(ctx context.Context, app *App, c *kube.Cluster, s *v1alpha1.Session, asGiven client.Preconditions, timeout time.Duration) ([]v1alpha1.Proof, error) {
	rctx, cancel := uncancelled(ctx)
	defer cancel()
	w, err := watchSession(context.WithoutCancel(ctx), c, s.Namespace, s.Name) // before the deletion, to miss nothing
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	err = c.Delete(rctx, s, asGiven)
	if apierrors.IsConflict(err) && asGiven.ResourceVersion == nil {
		err = nil // another session bears its name: it is gone
	}
	if apierrors.IsConflict(err) {
		return nil, err
	}
	if client.IgnoreNotFound(err) != nil {
		return nil, kube.Explain(err)
	}
	defer app.after("restoring what session %s altered; open connections may drain for %s", s.Name, s.Spec.Drain.Duration)()
	proofs, err := awaitGone(ctx, c, s, w, timeout)
	if err == nil {
		forget(c, s)
	}
	return proofs, err
}

// awaitGone waits until a session that is being closed is gone, and returns what the controller proved last. w, if not
// nil, is a watch that began when the session was as given.
func awaitGone(ctx context.Context, c *kube.Cluster, s *v1alpha1.Session, w watch.Interface, timeout time.Duration) ([]v1alpha1.Proof, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	last := s.Status.Restored
	for {
		var err error
		if w == nil {
			w, err = watchSession(ctx, c, s.Namespace, s.Name)
		}
		gone := false
		if err == nil {
			gone, err = followClosing(ctx, c, s, w, &last)
			w.Stop()
			w = nil
		}
		switch {
		case gone:
			return last, nil
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return nil, usererr.New(usererr.TimedOut, "see: kubectl -n dayfly-system get pods; it goes on as soon as dayfly's controller runs, "+
				"or restore from this laptop with: dayfly uninstall --force", "session %s was not restored within %s", s.Name, timeout)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case kube.Away(err): // what was asked for goes on when it is back
			pause(ctx, whileAway)
		case err != nil:
			return nil, err
		}
	}
}

// whileAway is the pause between two questions to an API server that cannot be reached.
const whileAway = 500 * time.Millisecond

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// followClosing reads the watch until the session is gone, the watch ends or ctx does.
func followClosing(ctx context.Context, c *kube.Cluster, s *v1alpha1.Session, w watch.Interface, last *[]v1alpha1.Proof) (gone bool, err error) {
	look := time.NewTicker(time.Second) // a watch that began too late says nothing
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-look.C:
			now := &v1alpha1.Session{}
			err := c.Get(ctx, client.ObjectKeyFromObject(s), now)
			if apierrors.IsNotFound(err) || err == nil && now.UID != s.UID {
				return true, nil
			}
		case e, ok := <-w.ResultChan():
			now, isSession := e.Object.(*v1alpha1.Session)
			if !ok || !isSession {
				return false, nil
			}
			if now.UID == s.UID {
				*last = now.Status.Restored
			}
			if e.Type == watch.Deleted || now.UID != s.UID {
				return true, nil
			}
		}
	}
}

// forget removes what this laptop kept of a session, if it is this laptop's.
func forget(c *kube.Cluster, s *v1alpha1.Session) {
	if l, err := openLaptop(c); err == nil {
		if kept, err := l.get(s.Namespace, s.Name); err == nil && kept != nil {
			kept.remove()
		}
	}
}

func watchSession(ctx context.Context, c *kube.Cluster, namespace, name string) (watch.Interface, error) {
	w, err := c.Watch(ctx, &v1alpha1.SessionList{}, client.InNamespace(namespace),
		client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", name)})
	return w, kube.Explain(err)
}
