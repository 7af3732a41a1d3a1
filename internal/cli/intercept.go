package cli

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

type interceptOptions struct {
	app         *App
	service     string
	servicePort string
	laptopPort  int32
	headers     []string
	all         bool
	session     string
	detach      bool
	explain     bool
	closing     bool
	lease       time.Duration
	drain       time.Duration
	timeout     time.Duration
	command     []string
}

func newInterceptCmd(app *App) *cobra.Command {
	o := &interceptOptions{app: app}
	cmd := &cobra.Command{
		Use:   "intercept service NAME [flags] [-- COMMAND [ARG...]]",
		Short: "Answer requests for a service on this laptop",
		Long: `Answer requests for a service of the cluster on this laptop.

Without a rule, requests that carry the session's routing key come here: "baggage: dayfly=KEY" or "x-dayfly-session: KEY".
With -x, requests that have all the given headers; "-x 'baggage: key=value'" matches a member of W3C baggage, and
"-x 'sni: host.name'" whole TLS connections by the server name they ask for. With --all, every connection. All other requests are answered in the cluster, as before.

With -- COMMAND the intercept lasts as long as the command, which finds DAYFLY_SESSION and DAYFLY_ROUTING_KEY in its
environment. Otherwise it lasts until ^C, or with --detach until the session is closed. No pod is restarted and no request
fails. If this laptop goes away, the original answers.`,
		Example: `  # my requests to catalog are answered by what listens on port 8081 of this laptop
  dayfly intercept service catalog -n shop --port 8081

  # run it for as long as the intercept lasts
  dayfly intercept service catalog -n shop --port 8081 -- go run . catalog

  # a rule of my own; in the background
  dayfly intercept service catalog -n shop --port 8081 -x 'x-user: ada' --detach
  dayfly session close -n shop`,
		ValidArgsFunction: app.completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parse(cmd, args); err != nil {
				return err
			}
			return o.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.servicePort, "service-port", "r", "", "port of the service, by name or number, such as 53/udp (default: its only one)")
	f.Int32VarP(&o.laptopPort, "port", "l", 0, "port on this laptop (default: what the service's pods listen on)")
	f.StringArrayVarP(&o.headers, "header", "x", nil, "'name: value' that requests must have; repeat for several, all must hold")
	f.BoolVar(&o.all, "all", false, "take every connection to the port; of a UDP port, every datagram")
	f.StringVar(&o.session, "session", "", "session to use (default: this laptop's in the namespace)")
	f.BoolVar(&o.detach, "detach", false, "return once it is in force; it lasts until the session is closed")
	f.BoolVar(&o.explain, "explain", false, "say how requests would be captured, and change nothing")
	f.BoolVar(&o.closing, "close", false, "end this intercept")
	f.DurationVar(&o.lease, "lease", 8*time.Hour, "how long the session outlives its last connection (5s to 168h)")
	f.DurationVar(&o.drain, "drain", 15*time.Second, "how long open connections may go on when the session closes")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "how long to wait until it is in force")
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		// the spellings that users of Codezero know
		if known, ok := map[string]string{"remotePort": "service-port", "localPort": "port", "clean": "close"}[name]; ok {
			name = known
		}
		return pflag.NormalizedName(name)
	})
	_ = cmd.RegisterFlagCompletionFunc("service-port", app.completePorts)
	_ = cmd.RegisterFlagCompletionFunc("session", app.completeSessions)
	return cmd
}

func (o *interceptOptions) parse(cmd *cobra.Command, args []string) error {
	if at := cmd.ArgsLenAtDash(); at >= 0 {
		args, o.command = args[:at], args[at:]
		if len(o.command) == 0 {
			return usererr.New(usererr.Usage, "name a command after --, or leave -- out", "there is no command after --")
		}
	}
	if len(args) > 0 && slices.Contains([]string{"service", "services", "svc"}, args[0]) {
		args = args[1:]
	}
	if len(args) != 1 {
		return usererr.New(usererr.Usage, "see: dayfly intercept --help", "name one service: dayfly intercept service NAME")
	}
	o.service = args[0]
	if kind, name, ok := strings.Cut(args[0], "/"); ok && slices.Contains([]string{"service", "services", "svc"}, kind) {
		o.service = name
	}
	if len(o.command) > 0 {
		if _, err := exec.LookPath(o.command[0]); err != nil {
			return cannotStart(err)
		}
	}
	switch {
	case o.all && len(o.headers) > 0:
		return usererr.New(usererr.Usage, "leave one of them out", "--all takes every connection, -x only some requests")
	case o.detach && len(o.command) > 0:
		return usererr.New(usererr.Usage, "leave one of them out", "--detach returns at once, -- COMMAND lasts as long as the command")
	case o.laptopPort < 0 || o.laptopPort > 65535:
		return usererr.New(usererr.Usage, "give a port from 1 to 65535", "--port %d is no port", o.laptopPort)
	case o.lease < 5*time.Second || o.lease > 168*time.Hour:
		return usererr.New(usererr.Usage, "give a time from 5s to 168h", "--lease %s is too short or too long", o.lease)
	case o.drain < 0 || o.drain > 10*time.Minute:
		return usererr.New(usererr.Usage, "give a time from 0s to 10m", "--drain %s is too short or too long", o.drain)
	case o.session != "" && len(validation.IsDNS1123Label(o.session)) > 0:
		return usererr.New(usererr.Usage, "use lower-case letters, digits and -, at most 63", "--session %q is no name for a session", o.session)
	}
	_, err := parseRule(o.headers)
	return err
}

func (o *interceptOptions) run(ctx context.Context) error {
	c, err := o.app.open()
	if err != nil {
		return err
	}
	l, err := openLaptop(c)
	if err != nil {
		return err
	}
	if o.closing {
		return o.close(ctx, c, l)
	}
	h, err := o.begin(ctx, c, l)
	if h == nil || err != nil {
		return err
	}
	if o.detach {
		return h.runDetached(ctx)
	}
	return h.runHere(ctx)
}

// begin asks the cluster for the intercept. It returns nil if there is nothing left to do.
func (o *interceptOptions) begin(ctx context.Context, c *kube.Cluster, l *laptop) (*held, error) {
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	want, err := o.resolve(ctx, c)
	if err != nil {
		return nil, err
	}
	if o.explain {
		return nil, o.explainTo(ctx, c, want)
	}
	sweep(ctx, o.app, c)
	switch there := listening(session.PortOf(want).UDP, want.LaptopPort); {
	case len(o.command) == 0 && !there:
		o.app.warn("nothing listens on port %d of this laptop yet; until something does, the original answers", want.LaptopPort)
	case len(o.command) > 0 && there:
		o.app.warn("another process listens on port %d of this laptop already: it will answer, not %s", want.LaptopPort, o.command[0])
	}
	return o.join(ctx, c, l, want)
}

// resolve finds the service and the port that are meant, and refuses what cannot be intercepted.
func (o *interceptOptions) resolve(ctx context.Context, c *kube.Cluster) (v1alpha1.Intercept, error) {
	want := v1alpha1.Intercept{Service: o.service, LaptopPort: o.laptopPort, All: o.all}
	svc := &corev1.Service{}
	err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: o.service}, svc)
	if apierrors.IsNotFound(err) {
		return want, o.noService(ctx, c)
	}
	if err != nil {
		return want, kube.Explain(err)
	}
	port, err := choosePort(svc, o.servicePort)
	if err != nil {
		return want, err
	}
	id, _ := session.ServicePort(port)
	want.Port, want.Protocol = id.Number, string(id.Protocol())
	if reason, message := session.Interceptable(c.Namespace, o.service, id, svc); reason != "" {
		return want, usererr.New(usererr.Refused, refusalFix[reason], "%s", message)
	}
	if id.UDP && !want.All {
		return want, usererr.New(usererr.Usage, "take every datagram: --all, without -x", "port %s of service %s carries datagrams: there are no requests that a rule could select", id, svc.Name)
	}
	if want.LaptopPort == 0 {
		if want.LaptopPort, err = podsPort(ctx, c, svc, port); err != nil {
			return want, err
		}
	}
	want.Rule, err = parseRule(o.headers)
	return want, err
}

// podsPort is what the service's pods listen on. That of a port with a name only the pods tell, which not everybody may see.
func podsPort(ctx context.Context, c *kube.Cluster, svc *corev1.Service, port *corev1.ServicePort) (int32, error) {
	original := targetBefore(ctx, c, svc, port)
	switch target := original; {
	case target.Type == intstr.Int && target.IntVal > 0:
		return target.IntVal, nil
	case target.Type == intstr.Int:
		return port.Port, nil
	}
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(svc.Namespace), client.MatchingLabels(svc.Spec.Selector), client.Limit(1)); err == nil && len(pods.Items) > 0 {
		for _, container := range pods.Items[0].Spec.Containers {
			for _, p := range container.Ports {
				if p.Name == original.StrVal {
					return p.ContainerPort, nil
				}
			}
		}
	}
	return 0, usererr.New(usererr.Usage, "say which port of this laptop answers: --port",
		"port %s of service %s leads to a port that its pods call %s, and there is no telling which that is", session.PortOf(v1alpha1.Intercept{Port: port.Port, Protocol: string(port.Protocol)}), svc.Name, original.StrVal)
}

// targetBefore is where a port leads when nothing captures it.
func targetBefore(ctx context.Context, c *kube.Cluster, svc *corev1.Service, port *corev1.ServicePort) intstr.IntOrString {
	var alterations v1alpha1.AlterationList
	if err := c.List(ctx, &alterations, client.InNamespace(svc.Namespace)); err != nil {
		return port.TargetPort
	}
	for _, a := range alterations.Items {
		for _, p := range a.Spec.Ports {
			if a.Spec.Target.UID == svc.UID && port.TargetPort == intstr.FromString(p.After) {
				return p.Before
			}
		}
	}
	return port.TargetPort
}

var refusalFix = map[string]string{
	"Headless":     "intercept a service with a cluster IP in front of the same pods",
	"ExternalName": "intercept the service that calls it, or change its callers' configuration",
	"NoSelector":   "give the service a selector, or intercept the service behind it",
}

// namespaceExists says whether the namespace is there, as far as the caller may know.
func namespaceExists(ctx context.Context, c *kube.Cluster) bool {
	return !apierrors.IsNotFound(c.Get(ctx, client.ObjectKey{Name: c.Namespace}, &corev1.Namespace{}))
}

func noNamespace(c *kube.Cluster) error {
	return usererr.New(usererr.NotFound, "choose one with -n; see: kubectl get namespaces", "there is no namespace %s", c.Namespace)
}

func (o *interceptOptions) noService(ctx context.Context, c *kube.Cluster) error {
	if !namespaceExists(ctx, c) {
		return noNamespace(c)
	}
	var list corev1.ServiceList
	fix := "see: kubectl get services -n " + c.Namespace
	if err := c.List(ctx, &list, client.InNamespace(c.Namespace)); err == nil {
		var names []string
		for _, s := range list.Items {
			if s.Labels[v1alpha1.LabelManaged] == "" {
				names = append(names, s.Name)
			}
		}
		if len(names) == 0 {
			return usererr.New(usererr.NotFound, "choose another namespace with -n", "there is no namespace %s, or there are no services in it", c.Namespace)
		}
		fix = "it has " + strings.Join(names, ", ")
	}
	if others := o.elsewhere(ctx, c); len(others) > 0 {
		fix = "there is one in " + strings.Join(others, ", ") + ": choose with -n"
	}
	return usererr.New(usererr.NotFound, fix, "there is no service %s in namespace %s", o.service, c.Namespace)
}

// elsewhere are the namespaces that have a service of that name, as far as the caller may see, a few of them.
func (o *interceptOptions) elsewhere(ctx context.Context, c *kube.Cluster) []string {
	var list corev1.ServiceList
	if err := c.List(ctx, &list, client.MatchingFields{"metadata.name": o.service}, client.Limit(5)); err != nil {
		return nil
	}
	var out []string
	for _, s := range list.Items {
		out = append(out, s.Namespace)
	}
	return out
}

// choosePort finds a port by name or number, or the only one. Where a number is of both protocols, or none is named, TCP
// goes before UDP.
func choosePort(svc *corev1.Service, name string) (*corev1.ServicePort, error) {
	var found []*corev1.ServicePort
	var list []string
	for _, udp := range []bool{false, true} {
		tcp := len(found)
		for i := range svc.Spec.Ports {
			p := &svc.Spec.Ports[i]
			id, ok := session.ServicePort(p)
			if !ok || id.UDP != udp {
				continue
			}
			list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s", id, p.Name)))
			if tcp == 0 && (name == "" || p.Name == name || id.Is(name)) {
				found = append(found, p)
			}
		}
	}
	switch {
	case len(list) == 0 && svc.Spec.Type != corev1.ServiceTypeExternalName:
		return nil, usererr.New(usererr.Refused, "", "service %s has no TCP or UDP port", svc.Name)
	case len(list) == 0:
		return &corev1.ServicePort{}, nil // refused for a better reason
	case len(found) == 0:
		return nil, usererr.New(usererr.NotFound, "it has "+strings.Join(list, ", "), "service %s has no port %s", svc.Name, name)
	case len(found) > 1:
		return nil, usererr.New(usererr.Usage, "choose one with --service-port: "+strings.Join(list, ", "), "service %s has %d ports", svc.Name, len(list))
	}
	return found[0], nil
}

// listening says whether something answers on a port of this laptop.
func listening(udp bool, port int32) bool {
	if udp {
		return hostOfUDP(port) != ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	conn, err := dialLaptop(ctx, port)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
