// Package kube reaches the user's cluster from a laptop, with the user's own rights, and turns the API server's errors
// into what a person can act on.
package kube

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/tunnel"
	"dayfly.dev/dayfly/internal/usererr"
	"github.com/coder/websocket"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Options say which cluster is meant, as kubectl's flags of the same names do. The zero value is kubectl's default.
type Options struct {
	Kubeconfig string
	Context    string
	Namespace  string
	UserAgent  string

	// Wrap, if set, wraps every connection to the API server.
	Wrap transport.WrapperFunc
}

// Cluster is a cluster that the user has chosen. Nothing has been sent to it yet.
type Cluster struct {
	client.WithWatch
	Config    *rest.Config
	Namespace string // that commands act in unless told otherwise
	Context   string // name of the kubeconfig context, "" inside a cluster

	upgrading func() (http.RoundTripper, error)
}

// Open reads the kubeconfig.
func Open(o Options) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, noConfig(err)
	}
	config.UserAgent, config.QPS, config.Burst = o.UserAgent, 100, 200
	config.WarningHandler = rest.NoWarnings{}
	if config.Dial == nil {
		config.Dial = (&net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second}).DialContext
	}
	if o.Wrap != nil {
		config.Wrap(o.Wrap)
	}
	namespace := o.Namespace
	if namespace == "" {
		if namespace, _, err = loader.Namespace(); err != nil {
			return nil, noConfig(err)
		}
	}
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, noConfig(err)
	}
	name := raw.CurrentContext
	if o.Context != "" {
		name = o.Context
	}
	c := &Cluster{Config: config, Namespace: namespace, Context: name, upgrading: upgrade(config)}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering kinds: %w", err)
	}
	defer QuickPings()()
	if c.WithWatch, err = client.NewWithWatch(config, client.Options{Scheme: scheme, Mapper: mapper(scheme)}); err != nil {
		return nil, Explain(err)
	}
	return c, nil
}

// dialTime is how long the API server's machine may take to accept a connection.
const dialTime = 10 * time.Second

// Contexts lists the contexts of the kubeconfig, for completion; none if it cannot be read.
func Contexts(o Options) []string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	config, err := rules.Load()
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(config.Contexts))
}

// mapper knows the kinds that dayfly uses, so that no command starts with a discovery of everything there is. Whether
// they are installed is found out by using them.
func mapper(scheme *runtime.Scheme) meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	clusterScoped := map[string]bool{"Namespace": true, "Node": true, "SelfSubjectReview": true, "SelfSubjectAccessReview": true,
		"SubjectAccessReview": true, "TokenReview": true, "ClusterRole": true, "ClusterRoleBinding": true, "EnvironmentPolicy": true}
	for gvk := range scheme.AllKnownTypes() {
		scope := meta.RESTScopeNamespace
		if clusterScoped[gvk.Kind] {
			scope = meta.RESTScopeRoot
		}
		m.Add(gvk, scope)
	}
	m.Add(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}, meta.RESTScopeRoot)
	for _, kind := range []string{"HTTPRoute", "GRPCRoute"} { // read without their types, where the cluster has them
		m.Add(schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: kind}, meta.RESTScopeNamespace)
	}
	return m
}

func noConfig(err error) error {
	fix := "point KUBECONFIG or --kubeconfig at a kubeconfig file, or choose one of its contexts with --context"
	if clientcmd.IsEmptyConfig(err) {
		return usererr.New(usererr.NoCluster, fix, "no cluster is configured")
	}
	return usererr.New(usererr.NoCluster, fix, "the kubeconfig cannot be used").Because(err)
}

// Explain turns an error of the API server into what a person can act on. Errors that explain themselves stay as they are.
func Explain(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*usererr.Error](err); ok || errors.Is(err, context.Canceled) {
		return err
	}
	var status apierrors.APIStatus
	isStatus := errors.As(err, &status)
	var netErr net.Error
	switch {
	case isExpired(err):
		return usererr.New(usererr.NoCluster, "check this laptop's clock, which says "+time.Now().Format(time.RFC3339)+"; if it is right, the cluster's certificate is not",
			"the cluster's certificate is not valid at this time").Because(err)
	case meta.IsNoMatchError(err), isStatus && status.Status().Code == http.StatusNotFound && isOurs(status):
		return usererr.New(usererr.NotInstalled, "ask whoever runs the cluster, or run: dayfly install", "dayfly is not installed in this cluster")
	case apierrors.IsUnauthorized(err):
		return usererr.New(usererr.Forbidden, "log in again, or choose another context with --context", "the cluster does not know you").Because(err)
	case apierrors.IsForbidden(err):
		return forbidden(err)
	case apierrors.IsNotFound(err):
		return usererr.New(usererr.NotFound, "", "%s", status.Status().Message)
	case isStatus && apierrors.IsInvalid(err):
		return usererr.New(usererr.Usage, "", "the cluster refuses this").Because(err)
	case !isStatus && (errors.As(err, &netErr) || strings.Contains(err.Error(), "dial tcp")):
		return usererr.New(usererr.NoCluster, "check that the cluster runs and that its address in the kubeconfig is right",
			"the cluster cannot be reached").Because(err)
	}
	return err
}

// isExpired recognises a certificate that is not valid yet, or no more: most often a clock is wrong.
func isExpired(err error) bool {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && invalid.Reason == x509.Expired
}

// isOurs recognises the answer to a path that does not exist because our kinds are not there.
func isOurs(s apierrors.APIStatus) bool {
	d := s.Status().Details
	return strings.HasPrefix(s.Status().Message, "the server could not find the requested resource") || d != nil && d.Group == v1alpha1.GroupVersion.Group && d.Name == ""
}

var (
	policyDenied = regexp.MustCompile(`denied request: (.*)`)
	rbacDenied   = regexp.MustCompile(`User "([^"]+)" cannot [a-z]+ resource "[^"]+" in API group "[^"]*" in the namespace "([^"]+)"`)
)

// forbidden says who must do what so that the caller may. The API server's message names verb and resource.
func forbidden(err error) error {
	if m := policyDenied.FindStringSubmatch(err.Error()); m != nil { // our admission policy explains itself
		fix := "ask an admin of the namespace to bind the role dayfly-developer, or a part of it, to you"
		if strings.Contains(m[1], "belongs to") {
			fix = "ask its owner, or an admin of the namespace to bind the role dayfly-admin to you"
		}
		return usererr.New(usererr.Forbidden, fix, "%s", m[1])
	}
	user, namespace := "YOU", "NAMESPACE"
	if m := rbacDenied.FindStringSubmatch(err.Error()); m != nil {
		user, namespace = m[1], m[2]
	}
	return usererr.New(usererr.Forbidden, fmt.Sprintf("ask an admin of the namespace to bind the role dayfly-developer to you: "+
		"kubectl create rolebinding dayfly-developer-%s --clusterrole dayfly-developer --user %s -n %s", nameOf(user), user, namespace),
		"you have no right to do this").Because(err)
}

// nameOf makes a user's name part of an object's.
func nameOf(user string) string {
	return strings.Trim(notInNames.ReplaceAllString(strings.ToLower(user), "-"), "-")
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// Whoami returns the user as the API server knows them.
func (c *Cluster) Whoami(ctx context.Context) (v1alpha1.Owner, error) {
	review := &authenticationv1.SelfSubjectReview{}
	if err := c.Create(ctx, review); err != nil {
		return v1alpha1.Owner{}, Explain(err)
	}
	u := review.Status.UserInfo
	return v1alpha1.Owner{Username: u.Username, Groups: u.Groups}, nil
}

// upgrade returns a transport for requests that become something else. There is one for all: the client library keeps every
// transport that it has made, and a laptop may call for hours.
func upgrade(c *rest.Config) func() (http.RoundTripper, error) {
	return sync.OnceValues(func() (http.RoundTripper, error) {
		config := rest.CopyConfig(c)
		config.NextProtos = []string{"http/1.1"} // an upgrade needs it
		config.Timeout = 0
		return rest.TransportFor(config)
	})
}

// DialRouter opens a byte stream to a router replica: a WebSocket through the API server's proxy of the router's Service.
func (c *Cluster) DialRouter(ctx context.Context, namespace, service string) (net.Conn, error) {
	transport, err := c.upgrading()
	if err != nil {
		return nil, fmt.Errorf("preparing the connection: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(c.Config)
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's address: %w", err)
	}
	url := base.JoinPath("api", "v1", "namespaces", namespace, "services", "https:"+service+":connect", "proxy", "tunnel")
	ws, resp, err := websocket.Dial(ctx, url.String(), &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: corked{transport}}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		if resp != nil && resp.StatusCode == http.StatusForbidden {
			return nil, usererr.New(usererr.Forbidden, "ask whoever installed dayfly for the role dayfly-connect",
				"you may not get services/proxy %q in namespace %s", "https:"+service+":connect", namespace)
		}
		return nil, err
	}
	ws.SetReadLimit(-1)
	return websocket.NetConn(context.WithoutCancel(ctx), ws, websocket.MessageBinary), nil
}

// corked corks what is written to a connection that was upgraded.
type corked struct{ http.RoundTripper }

func (c corked) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if conn, ok := resp.Body.(io.ReadWriteCloser); ok {
		resp.Body = tunnel.Cork(conn)
	}
	return resp, nil
}

// Ping finds out whether the cluster answers at all, within a few seconds.
func (c *Cluster) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := c.Whoami(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return usererr.New(usererr.NoCluster, "check that the cluster runs and that its address in the kubeconfig is right",
			"the cluster does not answer")
	}
	return err
}
