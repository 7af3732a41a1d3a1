// Package gateway answers at the addresses of environments: it knows who may come in, leads requests to ready pods, and holds
// those for an environment that is asleep until it has woken.
package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"github.com/go-logr/logr"
	"golang.org/x/net/netutil"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Port serves visitors, FrontPort those whom a proxy of the cluster's leads here, HealthPort the kubelet and Prometheus.
const (
	Port       = 8443
	FrontPort  = 8080
	HealthPort = 8081
)

// Bounds on what visitors can take of a gateway.
const (
	mostConnections = 3000
	mostStreams     = 100 // of one HTTP/2 connection
	mostHeaderBytes = 32 << 10
	mostHeld        = 2000            // requests for one environment that wait at once
	mostUnheard     = 200             // requests that wait for what opens to their tokens to become known
	hearTime        = 2 * time.Second // for which they do
	refuseTime      = 3 * time.Second // to take an answer of the gateway's own
	holdTime        = 3 * time.Minute
	drainTime       = 25 * time.Second
)

// Options configure a gateway.
type Options struct {
	Namespace string // of dayfly
	Proxied   bool   // a proxy of the cluster's ends TLS for visitors and leads them here
	Config    *rest.Config
	Logger    *slog.Logger
}

// Gateway is one replica.
type Gateway struct {
	opts    Options
	api     client.Client // live
	table   *table
	cert    certificate
	waker   waker
	metrics *metrics
	unheard chan struct{} // the requests that wait for what opens to their tokens
}

// New returns a gateway that has not begun.
func New(o Options) (*Gateway, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("registering kinds: %w", err)
	}
	api, err := client.New(o.Config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	g := &Gateway{opts: o, api: api, table: newTable(), unheard: make(chan struct{}, mostUnheard)}
	g.metrics = newMetrics(g.table)
	g.waker = waker{api: api, log: o.Logger, busy: map[client.ObjectKey]bool{}}
	return g, nil
}

// Run serves until ctx ends, and then lets requests that are under way end.
func (g *Gateway) Run(ctx context.Context) error {
	ctrl.SetLogger(logr.FromSlogHandler(g.opts.Logger.Handler()))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil) // before Wait
	wg.Go(func() { cancel(g.serveHealth(ctx)) })
	// What is known of environments is kept up as long as requests are under way.
	serving, served := context.WithCancel(context.WithoutCancel(ctx))
	defer served()
	watched, synced, err := g.watch(serving)
	if err != nil {
		return err
	}
	wg.Go(func() { cancel(watched.Start(serving)) })
	if !toolscache.WaitForCacheSync(ctx.Done(), synced...) {
		return ended(ctx)
	}
	if err := g.cert.await(ctx, g.api, g.opts); err != nil {
		return err
	}
	wg.Go(func() { g.cert.follow(serving, g.api, g.opts) })
	wg.Go(func() { g.activity(serving) })
	if g.opts.Proxied {
		wg.Go(func() { cancel(g.serve(ctx, FrontPort, nil)) })
	}
	return cmp.Or(g.serve(ctx, Port, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: g.cert.get}), ended(ctx))
}

func ended(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// watch follows Environments, and the EndpointSlices of their Services, into the table.
func (g *Gateway) watch(ctx context.Context) (watched cache.Cache, synced []toolscache.InformerSynced, err error) {
	ofEnvironments, err := labels.NewRequirement(v1alpha1.LabelEnvironment, selection.Exists, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("selecting endpoint slices: %w", err)
	}
	watched, err = cache.New(g.opts.Config, cache.Options{Scheme: g.api.Scheme(), ByObject: map[client.Object]cache.ByObject{
		&v1alpha1.Environment{}:      {Transform: slim},
		&discoveryv1.EndpointSlice{}: {Label: labels.NewSelector().Add(*ofEnvironments), Transform: slim},
	}})
	if err != nil {
		return nil, nil, fmt.Errorf("watching environments: %w", err)
	}
	for kind, handler := range map[client.Object]toolscache.ResourceEventHandler{
		&v1alpha1.Environment{}:      handlerOf(g.table.putEnvironment, g.table.dropEnvironment),
		&discoveryv1.EndpointSlice{}: handlerOf(g.table.putSlice, g.table.dropSlice),
	} {
		informer, err := watched.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
		if err != nil {
			return nil, nil, fmt.Errorf("watching environments: %w", err)
		}
		told, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, nil, fmt.Errorf("watching environments: %w", err)
		}
		synced = append(synced, told.HasSynced) // once the table knows them all
	}
	return watched, synced, nil
}

// slim drops what the gateway never reads of an object: it holds a thousand environments.
func slim(o any) (any, error) {
	if m, ok := o.(client.Object); ok {
		m.SetManagedFields(nil)
	}
	if e, ok := o.(*v1alpha1.Environment); ok {
		e.Annotations, e.Spec.Parameters, e.Spec.Components, e.Spec.Owner = nil, nil, nil, v1alpha1.Owner{}
		e.Status.Inventory, e.Status.History, e.Status.Components, e.Status.Blocked = nil, nil, nil, nil
	}
	return o, nil
}

// handlerOf has put and drop called with objects of a type.
func handlerOf[T client.Object](put, drop func(T)) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { put(o.(T)) },
		UpdateFunc: func(was, is any) {
			if was, is := was.(T), is.(T); was.GetUID() != is.GetUID() { // its end was not seen
				drop(was)
			}
			put(is.(T))
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			drop(o.(T))
		},
	}
}

// serve answers at a port, by TLS or in cleartext, until ctx ends.
func (g *Gateway) serve(ctx context.Context, port int, secure *tls.Config) error {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	s := &http.Server{
		Handler:           g.handler(),
		TLSConfig:         secure,
		Protocols:         &http.Protocols{},
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: mostStreams},
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: mostHeaderBytes,
		ErrorLog: slog.NewLogLogger(g.opts.Logger.Handler(), slog.LevelDebug),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(secure != nil)
	s.Protocols.SetUnencryptedHTTP2(secure == nil)
	answer := func(l net.Listener) error { return s.ServeTLS(l, "", "") }
	if secure == nil {
		answer = s.Serve
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		time.Sleep(leaveTime)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		_ = s.Shutdown(end) // what has not ended by then is cut
		s.Close()
	})
	if err := answer(netutil.LimitListener(l, mostConnections)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving visitors: %w", err)
	}
	if !stop() {
		<-done
	}
	return nil
}

// leaveTime is how long a gateway that ends still takes connections: until nodes know that it does.
const leaveTime = 3 * time.Second
