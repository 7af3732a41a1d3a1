package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"dayfly.dev/dayfly/deploy"
	"dayfly.dev/dayfly/internal/controller"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/fetch"
	"dayfly.dev/dayfly/internal/gateway"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/otlp"
	"dayfly.dev/dayfly/internal/router"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/source"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// pod is what the manifests tell a role about itself.
type pod struct {
	name, namespace string
	config          *rest.Config
	log             *slog.Logger
}

// thisPod reads what this process is told. others is what processes beside it may take of the container's memory, in bytes.
func thisPod(others int64) (pod, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return pod{}, fmt.Errorf("finding the API server: %w", err)
	}
	kube.QuickPings() // for good: nothing inherits a role's environment
	config.Dial = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	if wrap := faultPoint(); wrap != nil {
		config.Wrap(wrap)
	}
	level := slog.LevelInfo
	if err := level.UnmarshalText([]byte(os.Getenv("DAYFLY_LOG"))); err != nil {
		level = slog.LevelInfo
	}
	p := pod{os.Getenv("POD_NAME"), os.Getenv("POD_NAMESPACE"), config,
		slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))}
	limitMemory(os.Getenv("DAYFLY_MEMORY"), others)
	if p.name == "" || p.namespace == "" {
		return p, fmt.Errorf("POD_NAME and POD_NAMESPACE must be set: this command is for dayfly's own pods")
	}
	return p, nil
}

// boundsOf reads how many sessions there may be; what is not set is not bounded.
func boundsOf(env func(string) string) (session.Bounds, error) {
	var b session.Bounds
	for name, into := range map[string]*int{"DAYFLY_SESSIONS_PER_NAMESPACE": &b.Namespace, "DAYFLY_SESSIONS_PER_OWNER": &b.Owner} {
		text := env(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return b, fmt.Errorf("reading %s: %q is no number of sessions", name, text)
		}
		*into = n
	}
	return b, nil
}

// limitMemory has the garbage collector keep the heap well below the container's limit, in bytes, whatever that was set to.
// GOMEMLIMIT, if it is set, holds instead. What others in the container may take is left to them.
func limitMemory(limit string, others int64) {
	n, err := strconv.ParseInt(limit, 10, 64)
	if n -= others; err == nil && n > 0 && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(n / 5 * 4)
	}
}

// openTraces returns where a role's spans go, nil if nobody wants them, and what sends the last of them.
func openTraces(p pod, role string) (trace.TracerProvider, func(), error) {
	endpoint := os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")
	if endpoint == "" {
		return nil, func() {}, nil
	}
	t, err := otlp.New(otlp.Options{Endpoint: endpoint, Service: "dayfly-" + role, Instance: p.name, Version: version, Logger: p.log})
	if err != nil {
		return nil, nil, fmt.Errorf("reading OTEL_EXPORTER_OTLP_ENDPOINT: %w", err)
	}
	return t, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = t.Shutdown(ctx) // who cannot be told was told so already
	}, nil
}

func newControllerCmd() *cobra.Command {
	return &cobra.Command{
		Use: "controller", Short: "Run the controller (in the cluster)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := thisPod(environment.RendersAtOnce*source.ApartMemory + environment.FetchesAtOnce*fetch.Memory)
			if err != nil {
				return err
			}
			count, err := strconv.Atoi(os.Getenv("DAYFLY_ROUTERS"))
			if err != nil {
				return fmt.Errorf("reading DAYFLY_ROUTERS: %w", err)
			}
			var routers []string
			for i := range count {
				routers = append(routers, deploy.RouterService(i))
			}
			bounds, err := boundsOf(os.Getenv)
			if err != nil {
				return err
			}
			traces, flush, err := openTraces(p, "controller")
			if err != nil {
				return err
			}
			defer flush()
			return controller.Run(cmd.Context(), controller.Options{
				Name: p.name, Namespace: p.namespace, Version: version, Config: p.config, Routers: routers, Bounds: bounds, Logger: p.log, Traces: traces,
				Domain: os.Getenv("DAYFLY_DOMAIN"), Render: renderApart, Fetch: fetchApart, Validity: faultValidity(), Now: faultClock(),
			})
		},
	}
}

func newRouterCmd() *cobra.Command {
	return &cobra.Command{
		Use: "router", Short: "Run a router (in the cluster)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := thisPod(0)
			if err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(50) // what it carries makes no garbage: memory is worth more than the time to collect it
			}
			p.config.QPS, p.config.Burst = 50, 100
			clients, err := kubernetes.NewForConfig(p.config)
			if err != nil {
				return fmt.Errorf("making a client: %w", err)
			}
			traces, flush, err := openTraces(p, "router")
			if err != nil {
				return err
			}
			defer flush()
			r, err := router.New(router.Options{
				Name: p.name, Namespace: p.namespace, Version: version, Kubernetes: clients, Logger: p.log, Traces: traces, At: faultAt(),
				TokenFile: "/var/run/dayfly/token", Controller: "controller." + p.namespace + ".svc:9443",
			})
			if err != nil {
				return err
			}
			return r.Run(cmd.Context())
		},
	}
}

func newGatewayCmd() *cobra.Command {
	return &cobra.Command{
		Use: "gateway", Short: "Run a gateway (in the cluster)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := thisPod(0)
			if err != nil {
				return err
			}
			p.config.QPS, p.config.Burst = 50, 100
			p.config.UserAgent = "dayfly-gateway/" + version
			g, err := gateway.New(gateway.Options{Namespace: p.namespace, Proxied: os.Getenv("DAYFLY_PROXIED") == "true", Config: p.config, Logger: p.log})
			if err != nil {
				return err
			}
			return g.Run(cmd.Context())
		},
	}
}
