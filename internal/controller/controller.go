// Package controller is the role that alters and restores: it watches Sessions, drives the session engine and that of environments, keeps the
// routers' table, and issues the certificates that controller and routers know each other by. Two replicas run; one leads.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/control"
	"dayfly.dev/dayfly/internal/environment"
	"dayfly.dev/dayfly/internal/fetch"
	"dayfly.dev/dayfly/internal/identity"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/source"
	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// RouterLabel marks the routers' pods.
var RouterLabel = map[string]string{"app.kubernetes.io/name": "dayfly", "app.kubernetes.io/component": "router"}

const leaseName = "dayfly-controller"

// Options configure a controller. All but Bounds, Domain, Traces, Validity and Now are required.
type Options struct {
	Name      string // of this pod
	Namespace string // of dayfly
	Version   string
	Config    *rest.Config
	Routers   []string // Services of the router replicas
	Bounds    session.Bounds
	Domain    string // under which the gateway answers for environments; "": there is none
	Logger    *slog.Logger
	Traces    trace.TracerProvider // nil: none are made

	// Render makes the objects of environments, apart from this process.
	Render func(context.Context, source.Folder, source.Options) (*source.Rendered, error)
	// Fetch brings the sources of environments, apart from this process, too.
	Fetch func(context.Context, fetch.Request) (*fetch.Fetched, error)

	Validity identity.Validity // of the certificates that it issues
	Now      func() time.Time  // for leases; default time.Now
}

// startAgain is the pause before a controller starts over, and most the longest one.
const startAgain, startAgainMost = 300 * time.Millisecond, 3 * time.Second

// Run serves until ctx ends. Whatever else ends it, such as an API server that is away for a while, it starts over within
// this process: a container that ends would be started again later and later.
func Run(ctx context.Context, o Options) error {
	ctrl.SetLogger(logr.FromSlogHandler(o.Logger.Handler()))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var started atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil) // before Wait
	wg.Go(func() { cancel(serveHealth(ctx, &started, o.Logger)) })
	me := newCandidate(o.Name)
	pause := startAgain
	for {
		began := time.Now()
		err := runOnce(ctx, o, me, &started)
		if ctx.Err() != nil {
			return errors.Join(err, ended(ctx))
		}
		if time.Since(began) > startAgainMost {
			pause = startAgain
		}
		if kube.Away(err) {
			me.missed()
		}
		o.Logger.Warn("starting over", "reason", err)
		select {
		case <-ctx.Done():
			return ended(ctx)
		case <-time.After(pause):
		}
		pause = min(2*pause, startAgainMost)
	}
}

// ended is why ctx ended, if that is an error.
func ended(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func runOnce(ctx context.Context, o Options, me *candidate, started *atomic.Bool) error {
	mgr, err := newManager(o, me)
	if err != nil {
		return err
	}
	live, err := client.New(o.Config, client.Options{Scheme: mgr.GetScheme()})
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	writer := client.WithFieldOwner(mgr.GetClient(), v1alpha1.FieldManager)
	certs := &identity.Holder{}
	ca, err := establishAuthority(ctx, live, o.Namespace)
	if err != nil {
		return err
	}
	ca.Validity = o.Validity
	own, err := issueOwn(ca, o.Name)
	if err != nil {
		return err
	}
	certs.Set(own)
	near, err := newNeighbours(o.Config, mgr.GetScheme())
	if err != nil {
		return err
	}
	fleet := newFleet(o, mgr.GetClient(), live, certs, me, near)
	near.news = fleet.poke
	system, err := describeSystem(ctx, live, o, ca)
	if err != nil {
		return err
	}
	engine := session.New(session.Options{Client: writer, Reader: live, Fleet: fleet, System: system, Logger: o.Logger, Bounds: o.Bounds, Neighbours: near.all, Now: o.Now, Relisting: me.relisting,
		Events: mgr.GetEventRecorder("dayfly-controller"), Traces: o.Traces})
	unregister, err := register(engine, &inventory{fleet: fleet, cached: mgr.GetClient(), version: o.Version})
	defer unregister()
	if err != nil {
		return err
	}
	if err := watch(mgr, engine, fleet, o); err != nil {
		return err
	}
	accounts, err := environment.NewAccounts(o.Config)
	if err != nil {
		return err
	}
	fetcher := environment.Fetcher{Reach: fetch.Reach, Fetch: o.Fetch, Account: o.Namespace + ":controller",
		Refused: func(ctx context.Context) ([]netip.Addr, error) { return ownAddresses(ctx, live, o.Namespace) }}
	wakes := &wakes{}
	environments := environment.New(environment.Options{Client: writer, Reader: live, Accounts: accounts, System: o.Namespace, Domain: o.Domain, Render: o.Render, Fetcher: fetcher, Get: askHealth,
		Logger: o.Logger, Events: mgr.GetEventRecorder("dayfly-controller"), Now: o.Now,
		Policies: policies(mgr.GetClient()), Labels: labelsOf(mgr.GetClient()), Wake: wakes.wake})
	if err := watchEnvironments(mgr, environments, wakes); err != nil {
		return err
	}
	for _, r := range []manager.Runnable{
		everywhere(func(ctx context.Context) error { return serveEnrolment(ctx, ca, certs, writer, o) }),
		everywhere(func(ctx context.Context) error { return renew(ctx, ca, certs, o.Name) }),
		everywhere(func(ctx context.Context) error { return noticeAbsence(ctx, live, o, me) }),
		near.cache,
		leading(fleet.run),
		leading(environments.Run),
		leading(func(ctx context.Context) error { return keepWildcard(ctx, live, o.Namespace, o.Domain, o.Logger) }),
	} {
		if err := mgr.Add(r); err != nil {
			return fmt.Errorf("adding to the manager: %w", err)
		}
	}
	started.Store(true)
	return mgr.Start(ctx)
}

func newManager(o Options, me *candidate) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering kinds: %w", err)
	}
	o.Config.QPS, o.Config.Burst = 200, 400
	o.Config.UserAgent = "dayfly-controller/" + o.Version
	lock, err := me.lock(o)
	if err != nil {
		return nil, err
	}
	watched := watchedOfEnvironments()
	watched[&corev1.Pod{}] = cache.ByObject{Namespaces: map[string]cache.Config{o.Namespace: {LabelSelector: labels.SelectorFromSet(RouterLabel)}}}
	mgr, err := ctrl.NewManager(o.Config, ctrl.Options{
		Scheme:                              scheme,
		Metrics:                             metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress:              "0",
		LeaderElection:                      true,
		LeaderElectionResourceLockInterface: lock,
		LeaderElectionReleaseOnCancel:       true,
		LeaseDuration:                       new(8 * time.Second),
		RenewDeadline:                       new(renewDeadline),
		RetryPeriod:                         new(time.Second),
		GracefulShutdownTimeout:             new(5 * time.Second),
		Cache:                               cache.Options{ByObject: watched, DefaultTransform: cache.TransformStripManagedFields()},
	})
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	return mgr, nil
}

// everywhere runs on every replica, leading only on the one that leads.
type everywhere func(context.Context) error

func (f everywhere) Start(ctx context.Context) error { return f(ctx) }
func (everywhere) NeedLeaderElection() bool          { return false }

type leading func(context.Context) error

func (f leading) Start(ctx context.Context) error { return f(ctx) }
func (leading) NeedLeaderElection() bool          { return true }

func describeSystem(ctx context.Context, live client.Reader, o Options, ca *identity.CA) (session.System, error) {
	var ns corev1.Namespace
	if err := live.Get(ctx, client.ObjectKey{Name: o.Namespace}, &ns); err != nil {
		return session.System{}, fmt.Errorf("reading namespace %s: %w", o.Namespace, err)
	}
	return session.System{
		Namespace: o.Namespace, NamespaceLabels: ns.Labels, RouterLabels: RouterLabel, Version: o.Version,
		Tunnel: v1alpha1.Tunnel{Namespace: o.Namespace, Routers: o.Routers, CA: string(ca.CertificatePEM())},
	}, nil
}

func serveEnrolment(ctx context.Context, ca *identity.CA, certs *identity.Holder, c client.Client, o Options) error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(control.ControlPort))
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler:           control.EnrolHandler(ca.Issue, reviewer(c, o.Namespace), o.Logger),
		TLSConfig:         certs.ServerTLS(),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving enrolment: %w", err)
	}
	return nil
}

// serveHealth answers the kubelet: a controller is ready once it has found its authority.
func serveHealth(ctx context.Context, started *atomic.Bool, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !started.Load() {
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", metricsHandler())
	s := &http.Server{
		Addr: ":" + strconv.Itoa(control.HealthPort), Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health: %w", err)
	}
	return nil
}
