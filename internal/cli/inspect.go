package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/deploy"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/usererr"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// inspection is what status and doctor see of dayfly, the cluster and this laptop. Whatever could not be seen is in unseen
// by name, with the reason; it is nil or empty in its field.
type inspection struct {
	now       time.Time
	namespace string // that sessions were looked for in; "": all
	cliVer    string
	server    string

	unreachable error         // the API server; then nothing else of the cluster was looked at
	kubernetes  string        // version
	took        time.Duration // of one request
	skew        time.Duration // how far the API server's clock is ahead of the laptop's
	proxy       string        // that the API server is reached through, without credentials
	me          v1alpha1.Owner

	missing     bool // dayfly's kinds are not there
	sessions    []v1alpha1.Session
	alterations []v1alpha1.Alteration
	origins     []corev1.Service            // that dayfly made
	offers      []discoveryv1.EndpointSlice // that dayfly made
	definitions map[string]string           // CRDs that differ from this version's: name and how
	deployments []appsv1.Deployment         // of dayfly
	pods        []corev1.Pod                // of dayfly
	lease       *coordinationv1.Lease
	ways        []way
	rights      []right
	laptop      laptopFiles

	mu     sync.Mutex
	unseen map[string]string
}

// way is the way in to one router, tried.
type way struct {
	router string
	took   time.Duration
	err    error
}

// right is something that an intercept needs, and whether the caller may.
type right struct {
	verb, resource, name, namespace string
	needed                          bool // without it there is no intercept at all
	allowed                         bool
}

// inspectTime is how long all of an inspection may take.
const inspectTime = 20 * time.Second

// inspect looks at everything at once, with the caller's own rights, and changes nothing. namespace "" means all, or the
// context's where the caller may not list all.
func inspect(ctx context.Context, app *App, c *kube.Cluster, namespace string) *inspection {
	ctx, cancel := context.WithTimeout(ctx, inspectTime)
	defer cancel()
	in := &inspection{now: time.Now(), namespace: namespace, cliVer: app.Version, server: c.Config.Host, unseen: map[string]string{}}
	in.laptop = lookAtLaptop(c)
	in.proxy = proxyOf(c)
	if in.unreachable = in.greet(ctx, c); in.unreachable != nil {
		return in
	}
	in.chooseScope(ctx, c)
	var wg sync.WaitGroup
	see := func(what string, list client.ObjectList, opts ...client.ListOption) {
		wg.Go(func() { in.note(what, c.List(ctx, list, opts...)) })
	}
	var sessions v1alpha1.SessionList
	var alterations v1alpha1.AlterationList
	var origins corev1.ServiceList
	var offers discoveryv1.EndpointSliceList
	var deployments appsv1.DeploymentList
	var pods corev1.PodList
	here, ours, home := client.InNamespace(in.namespace), client.MatchingLabels{v1alpha1.LabelManaged: "dayfly"}, client.InNamespace(deploy.Namespace)
	see("sessions", &sessions, here)
	see("alterations", &alterations, here)
	see("origin services", &origins, here, ours)
	see("endpoint slices", &offers, here, ours)
	see("dayfly's deployments", &deployments, home)
	see("dayfly's pods", &pods, home)
	lease := &coordinationv1.Lease{}
	wg.Go(func() {
		in.note("the leader's lease", c.Get(ctx, client.ObjectKey{Namespace: deploy.Namespace, Name: "dayfly-controller"}, lease))
	})
	wg.Go(func() { in.definitions = in.lookAtDefinitions(ctx, c) })
	wg.Go(func() { in.rights = in.askRights(ctx, c) })
	wg.Wait()
	in.sessions, in.alterations, in.origins, in.offers = sessions.Items, alterations.Items, origins.Items, offers.Items
	in.deployments, in.pods = deployments.Items, pods.Items
	if lease.Name != "" {
		in.lease = lease
	}
	in.ways = in.tryWays(ctx, c)
	return in
}

// note records why something was not seen; a kind that is not there is no matter of rights.
func (in *inspection) note(what string, err error) {
	if err == nil {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	err = kube.Explain(err)
	switch usererr.CodeOf(err) {
	case usererr.NotInstalled:
		in.missing = true
	case usererr.NotFound: // the object is not there: its check says so
	case usererr.Forbidden:
		in.unseen[what] = "you have no right to see them"
	default:
		in.unseen[what] = err.Error()
	}
}

// greet asks the API server for its version and the time, and who the caller is.
func (in *inspection) greet(ctx context.Context, c *kube.Cluster) error {
	transport, err := rest.TransportFor(c.Config)
	if err != nil {
		return fmt.Errorf("preparing the connection: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(c.Config)
	if err != nil {
		return fmt.Errorf("reading the cluster's address: %w", err)
	}
	for range 2 { // the first one opens the connection
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("version").String(), nil)
		if err != nil {
			return err
		}
		begin := time.Now()
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return kube.Explain(err)
		}
		in.took = time.Since(begin)
		in.readGreeting(resp, begin.Add(in.took/2))
	}
	in.me, err = c.Whoami(ctx)
	return err
}

func (in *inspection) readGreeting(resp *http.Response, at time.Time) {
	defer resp.Body.Close()
	var v struct {
		GitVersion string `json:"gitVersion"`
	}
	if resp.StatusCode == http.StatusOK && json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&v) == nil {
		in.kubernetes = v.GitVersion
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		in.skew = date.Add(500 * time.Millisecond).Sub(at) // the header has whole seconds
	}
}

// proxyOf is the proxy that the API server is reached through.
func proxyOf(c *kube.Cluster) string {
	base, _, err := rest.DefaultServerUrlFor(c.Config)
	if err != nil {
		return ""
	}
	proxy := http.ProxyFromEnvironment
	if c.Config.Proxy != nil {
		proxy = c.Config.Proxy
	}
	u, err := proxy(&http.Request{URL: base})
	if err != nil || u == nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// chooseScope looks at one namespace where the caller may not look at all.
func (in *inspection) chooseScope(ctx context.Context, c *kube.Cluster) {
	if in.namespace != "" {
		return
	}
	err := c.List(ctx, &v1alpha1.SessionList{}, client.Limit(1))
	if usererr.CodeOf(kube.Explain(err)) == usererr.Forbidden {
		in.namespace = c.Namespace
		in.unseen["other namespaces"] = "you may not list sessions of all namespaces"
	}
}

// lookAtDefinitions compares the cluster's definitions of dayfly's kinds with those of this version.
func (in *inspection) lookAtDefinitions(ctx context.Context, c *kube.Cluster) map[string]string {
	out := map[string]string{}
	objects, err := deploy.Objects(deploy.Options{Image: "dayfly", Version: in.cliVer, Routers: 1})
	if err != nil {
		return out
	}
	for _, want := range objects {
		if want.GetKind() != "CustomResourceDefinition" {
			continue
		}
		have := &unstructured.Unstructured{}
		have.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
		if err := c.Get(ctx, client.ObjectKey{Name: want.GetName()}, have); err != nil {
			in.note("definitions", err)
			continue
		}
		if path := differs(want.Object["spec"], have.Object["spec"], "spec"); path != "" {
			out[want.GetName()] = path
		}
	}
	return out
}

// differs returns the path of something in want that have lacks or has otherwise, or "". What have adds does not count:
// the API server fills in defaults.
func differs(want, have any, path string) string {
	switch w := want.(type) {
	case map[string]any:
		h, _ := have.(map[string]any)
		for _, k := range slices.Sorted(maps.Keys(w)) {
			if p := differs(w[k], h[k], path+"."+k); p != "" {
				return p
			}
		}
		return ""
	case []any:
		h, _ := have.([]any)
		if len(h) != len(w) {
			return path
		}
		for i := range w {
			if p := differs(w[i], h[i], fmt.Sprintf("%s[%d]", path, i)); p != "" {
				return p
			}
		}
		return ""
	}
	if asJSON(want) != asJSON(have) { // a number may be a float64 here and an int64 there
		return path
	}
	return ""
}

func asJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error() // no value of an API object
	}
	return string(data)
}

// askRights asks for each right that an intercept in the namespace needs.
func (in *inspection) askRights(ctx context.Context, c *kube.Cluster) []right {
	ns := cmp.Or(in.namespace, c.Namespace)
	out := []right{
		{"create", "sessions.dayfly.dev", "", ns, true, false}, {"get", "sessions.dayfly.dev", "", ns, true, false},
		{"watch", "sessions.dayfly.dev", "", ns, true, false}, {"list", "sessions.dayfly.dev", "", ns, true, false},
		{"update", "sessions.dayfly.dev", "", ns, true, false}, {"delete", "sessions.dayfly.dev", "", ns, true, false},
		{"list", "alterations.dayfly.dev", "", ns, false, false}, {"get", "services", "", ns, true, false},
		{"create", "services/intercept", "", ns, true, false}, {"create", "services/interceptall", "", ns, false, false},
		{"get", "services/proxy", "https:" + deploy.RouterService(0) + ":connect", deploy.Namespace, true, false},
	}
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() { out[i].allowed = in.ask(ctx, c, out[i]) })
	}
	wg.Wait()
	return out
}

func (in *inspection) ask(ctx context.Context, c *kube.Cluster, r right) bool {
	resource, sub, _ := strings.Cut(r.resource, "/")
	resource, group, _ := strings.Cut(resource, ".")
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: r.namespace, Verb: r.verb, Group: group, Resource: resource, Subresource: sub, Name: r.name,
		},
	}}
	if err := c.Create(ctx, review); err != nil {
		in.note("your rights", err)
		return false
	}
	return review.Status.Allowed
}

// routers names the routers: as their deployments or some session do, or the first one, which is there in any installation.
func (in *inspection) routers() []string {
	names := map[string]bool{}
	for i := range in.deployments {
		if d := &in.deployments[i]; component(d.Labels) == "router" {
			names[d.Name] = true
		}
	}
	for i := range in.sessions {
		if t := in.sessions[i].Status.Tunnel; t != nil {
			for _, r := range t.Routers {
				names[r] = true
			}
		}
	}
	if len(names) == 0 {
		names[deploy.RouterService(0)] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func component(labels map[string]string) string { return labels["app.kubernetes.io/component"] }

// tryWays opens the way in to every router: a WebSocket through the API server, as an intercept does.
func (in *inspection) tryWays(ctx context.Context, c *kube.Cluster) []way {
	if in.missing {
		return nil
	}
	names := in.routers()
	out := make([]way, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			begin := time.Now()
			conn, err := c.DialRouter(ctx, deploy.Namespace, name)
			out[i] = way{name, time.Since(begin), err}
			if errors.Is(err, context.DeadlineExceeded) {
				out[i].err = errors.New("no answer within 5s")
			}
			if err == nil {
				conn.Close()
			}
		})
	}
	wg.Wait()
	return out
}
