package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/deploy"
	"dayfly.dev/dayfly/internal/apply"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/otlp"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

type installOptions struct {
	app     *App
	image   string
	routers int
	bounds  session.Bounds
	pull    []string
	class   string
	otlp    string
	domain  string
	gateway string
	front   frontOptions
	dryRun  bool
	output  string
	timeout time.Duration
}

func newInstallCmd(app *App) *cobra.Command {
	o := &installOptions{app: app}
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install dayfly into the cluster, or upgrade it",
		Long: `Install dayfly into the cluster, or upgrade it, and wait until it runs.

Needs the rights to create cluster roles and custom resource definitions. Nothing of dayfly runs privileged, there is no
webhook and no API service: while dayfly is down, nothing else in the cluster notices.`,
		Example: `  dayfly install
  dayfly install --image registry.example.com/tools/dayfly:1.0
  dayfly install --domain env.example.com --gateway-type LoadBalancer  # environments get addresses
  dayfly install --domain env.example.com --ingress-class nginx        # by the ingress controller that the cluster has
  dayfly install --domain env.example.com --http-route gateways/public # by a Gateway that the cluster has
  dayfly install --dry-run -o yaml | less
  dayfly install --dry-run -o chart > dayfly.tgz  # a Helm chart of the same objects`,
		Args: takes(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.Flags().StringVar(&o.image, "image", deploy.Image(app.Version), "image of controller and routers")
	cmd.Flags().IntVar(&o.routers, "routers", 2, "how many router replicas")
	cmd.Flags().IntVar(&o.bounds.Namespace, "sessions-per-namespace", 200, "how many sessions a namespace holds; 0: no bound")
	cmd.Flags().IntVar(&o.bounds.Owner, "sessions-per-owner", 50, "how many sessions of a namespace one owner has; 0: no bound")
	cmd.Flags().StringSliceVar(&o.pull, "pull-secret", nil, "Secret in "+deploy.Namespace+" to pull the image with; can be repeated")
	cmd.Flags().StringVar(&o.class, "priority-class", "", "priority class of the pods, such as system-cluster-critical (default the cluster's)")
	cmd.Flags().StringVar(&o.otlp, "otlp-endpoint", "", "where traces go, by OTLP over HTTP, such as http://collector.monitoring:4318 (default nowhere)")
	cmd.Flags().StringVar(&o.domain, "domain", "", "domain under which environments have addresses, such as env.example.com; *.env.example.com must lead to the Service gateway, or to the proxy that the next flags name (default: no addresses)")
	o.front.flags(cmd)
	cmd.Flags().StringVar(&o.gateway, "gateway-type", "ClusterIP", "with --domain, the gateway's Service: ClusterIP, NodePort or LoadBalancer")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "print the objects and change nothing")
	cmd.Flags().StringVarP(&o.output, "output", "o", "yaml", "with --dry-run: yaml, or chart (a .tgz for Helm)")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 3*time.Minute, "how long to wait until it runs")
	return cmd
}

func (o *installOptions) run(ctx context.Context) error {
	if o.routers < 1 || o.routers > 16 {
		return usererr.New(usererr.Usage, "use 2, or one for each zone or node that must keep its traffic", "--routers %d lies outside 1-16", o.routers)
	}
	if o.bounds.Namespace < 0 || o.bounds.Owner < 0 {
		return usererr.New(usererr.Usage, "use 0 for no bound", "--sessions-per-namespace and --sessions-per-owner are not negative")
	}
	if o.otlp != "" {
		if err := otlp.CheckEndpoint(o.otlp); err != nil {
			return usererr.New(usererr.Usage, "use the address of a collector, such as http://collector.monitoring:4318", "--otlp-endpoint: %s", err)
		}
	}
	if err := o.checkGateway(); err != nil {
		return err
	}
	options := deploy.Options{Image: o.image, Version: o.app.Version, Routers: o.routers,
		SessionsPerNamespace: o.bounds.Namespace, SessionsPerOwner: o.bounds.Owner,
		PullSecrets: o.pull, PriorityClass: o.class, OTLPEndpoint: o.otlp, Domain: o.domain, GatewayType: o.gateway, Front: o.front.front}
	objects, err := deploy.Objects(options)
	if err != nil {
		return err
	}
	if o.dryRun {
		return o.show(objects)
	}
	c, err := o.app.open()
	if err != nil {
		return err
	}
	if err := c.Ping(ctx); err != nil {
		return err
	}
	set, err := apply.Open(c.Config)
	if err != nil {
		return kube.Explain(err)
	}
	if err := knowsKinds(set, objects); err != nil {
		return err
	}
	o.app.say("installing dayfly %s into %s", o.app.Version, c.Context)
	if err := set.Apply(ctx, objects, func(s string) { o.app.say("  %s", s) }); err != nil {
		return kube.Explain(err)
	}
	unused, err := deploy.Unused(options)
	if err != nil {
		return err
	}
	if err := set.Delete(ctx, unused, func(s string) { o.app.say("  %s deleted", s) }); err != nil {
		return kube.Explain(err)
	}
	o.app.say("waiting until it runs")
	if err := set.Wait(ctx, objects, o.timeout); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if stuck := unpulled(ctx, c); stuck != nil {
			return stuck
		}
		return usererr.New(usererr.TimedOut, "see: kubectl -n "+deploy.Namespace+" get pods; kubectl -n "+deploy.Namespace+" get events",
			"dayfly did not start within %s", o.timeout).Because(err)
	}
	o.app.say("dayfly %s runs; give people access with: kubectl create rolebinding dayfly-developers --clusterrole dayfly-developer --group GROUP -n NAMESPACE", o.app.Version)
	return nil
}

// longestDomain leaves room for a component's name of 63 characters, and a dot.
const longestDomain = 253 - 64

func (o *installOptions) checkGateway() error {
	o.domain = strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(o.domain, "*."), "."))
	if problems := validation.IsDNS1123Subdomain(o.domain); o.domain != "" && (len(problems) > 0 || len(o.domain) > longestDomain) {
		return usererr.New(usererr.Usage, "use a name such as env.example.com", "--domain %q is no domain for environments", o.domain)
	}
	if !slices.Contains([]string{"ClusterIP", "NodePort", "LoadBalancer"}, o.gateway) {
		return usererr.New(usererr.Usage, "use ClusterIP, NodePort or LoadBalancer", "--gateway-type %q is no type of a Service", o.gateway)
	}
	return o.front.check(o.domain)
}

// unpulled tells of an image that a node cannot have, if that is what dayfly waits for.
func unpulled(ctx context.Context, c *kube.Cluster) error {
	var pods corev1.PodList
	if err := c.List(ctx, &pods, client.InNamespace(deploy.Namespace)); err != nil {
		return nil
	}
	for _, p := range pods.Items {
		for _, s := range p.Status.ContainerStatuses {
			w := s.State.Waiting
			if w == nil || !slices.Contains([]string{"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"}, w.Reason) {
				continue
			}
			return usererr.New(usererr.TimedOut, "name an image with --image that nodes can pull, with --pull-secret if its registry asks for one, or load it into them",
				"dayfly did not start: node %s cannot have the image %s: %s", p.Spec.NodeName, s.Image, w.Reason).Because(errors.New(cmp.Or(w.Message, "no reason is given")))
		}
	}
	return nil
}

func (o *installOptions) show(objects []*unstructured.Unstructured) error {
	if o.output == "chart" {
		return deploy.WriteChart(o.app.Out, o.app.Version)
	}
	if o.output != "yaml" {
		return usererr.New(usererr.Usage, "use -o yaml or -o chart", "there is no output format %q for --dry-run", o.output)
	}
	for _, obj := range objects {
		data, err := yaml.Marshal(obj.Object)
		if err != nil {
			return err
		}
		fmt.Fprintf(o.app.Out, "---\n%s", data)
	}
	return nil
}

// stateDir is where dayfly keeps what belongs to this laptop.
func stateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "dayfly"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usererr.New(usererr.Failed, "set HOME or XDG_STATE_HOME", "there is no home directory to keep the session's key in").Because(err)
	}
	return filepath.Join(home, ".local", "state", "dayfly"), nil
}
