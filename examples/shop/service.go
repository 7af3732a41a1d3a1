package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	maxRequest = 16 << 10 // bytes of a request's body
	maxTrail   = 4 << 10  // bytes of the X-Trail header; a longer one is left out
)

// service is what the four services have in common.
type service struct {
	cfg      config
	log      *slog.Logger
	tel      telemetry
	client   *http.Client
	kept     store // of orders
	started  time.Time
	requests atomic.Int64
	draining atomic.Bool
}

func newService(cfg config, log *slog.Logger) *service {
	tel := newTelemetry()
	return &service{cfg: cfg, log: log, tel: tel, client: newHTTPClient(cfg, tel), kept: &memory{}, started: time.Now()}
}

// telemetry is OpenTelemetry as the shop uses it: trace ids and baggage go along with every call. Spans are not
// exported; an application of yours would add an exporter here, and nothing else would change.
type telemetry struct {
	tracers     *sdktrace.TracerProvider
	propagators propagation.TextMapPropagator
}

func newTelemetry() telemetry {
	return telemetry{
		tracers: sdktrace.NewTracerProvider(),
		// Both are needed: TraceContext carries traceparent, Baggage carries the routing key.
		propagators: propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	}
}

func (t telemetry) options() []otelhttp.Option {
	return []otelhttp.Option{otelhttp.WithTracerProvider(t.tracers), otelhttp.WithPropagators(t.propagators)}
}

// handler is what the service's port serves.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	switch s.cfg.Service {
	case "storefront":
		newStorefront(s).register(mux)
	case "catalog":
		newCatalog(s).register(mux)
	case "orders":
		newOrders(s).register(mux)
	case "stock":
		newStock(s).register(mux)
	}
	mux.HandleFunc("GET /whoami", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, http.StatusOK, s.hop(r), &reply{})
	})

	// Probes are neither traced nor logged: there are too many of them.
	outer := http.NewServeMux()
	outer.Handle("/", otelhttp.NewHandler(keepSession(s.logged(mux)), s.cfg.Service, s.tel.options()...))
	outer.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	outer.HandleFunc("GET /readyz", s.readyz)
	return s.signed(outer)
}

// readyz does not ask downstreams: a dead leaf must not take the services that can do without it out of the graph.
func (s *service) readyz(w http.ResponseWriter, _ *http.Request) {
	if s.draining.Load() {
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// signed names the service on every answer, errors and probes included. While draining it also asks the caller to
// open its next connection elsewhere, so that none is in use when the server closes.
func (s *service) signed(next http.Handler) http.Handler {
	self := Hop{Service: s.cfg.Service, Version: s.cfg.Version, Host: s.cfg.Hostname}.String()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Served-By", self)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if s.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		next.ServeHTTP(w, r)
	})
}

// logged writes one line for each request. Queries, bodies and headers stay out of it: they may be private.
func (s *service) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		s.requests.Add(1)
		s.log.Info("request", "method", r.Method, "path", r.URL.Path, "status", rec.status,
			"took", time.Since(begin).Round(time.Microsecond).String(), "routing_key", routingKey(r.Context()),
			"trace_id", trace.SpanContextFromContext(r.Context()).TraceID().String())
	})
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// hop is this service as it answers r, with those it asked for it.
func (s *service) hop(r *http.Request, calls ...Hop) Hop {
	return Hop{
		Service: s.cfg.Service, Version: s.cfg.Version, Host: s.cfg.Hostname,
		RoutingKey: routingKey(r.Context()), Session: session(r.Context()), Calls: calls,
	}
}

// signer is a reply, or a struct that embeds one.
type signer interface{ sign(by Hop) }

func (r *reply) sign(by Hop) { r.AnsweredBy = by }

// answer writes v, signed, as JSON.
func (s *service) answer(w http.ResponseWriter, status int, by Hop, v signer) {
	v.sign(by)
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		s.log.Error("encoding an answer", "error", err)
		http.Error(w, "encoding the answer", http.StatusInternalServerError)
		return
	}
	setTrail(w, by)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	w.Write(append(body, '\n')) // an error here means that the caller has gone
}

func setTrail(w http.ResponseWriter, by Hop) {
	if t := by.Trail(); len(t) <= maxTrail {
		w.Header().Set("X-Trail", t)
	}
}

// refuse answers with a problem and no data.
func (s *service) refuse(w http.ResponseWriter, status int, by Hop, problem string) {
	s.answer(w, status, by, &reply{Error: problem})
}

// badRequest is a request that cannot be understood; it never leaves the service.
type badRequest struct {
	status  int
	problem string
}

func (b *badRequest) Error() string { return b.problem }

// readJSON decodes one JSON object of at most maxRequest bytes, without fields that v does not have.
func readJSON(r *http.Request, v any) *badRequest {
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" {
		return &badRequest{http.StatusUnsupportedMediaType, "send application/json"}
	}
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, end := dec.Token(); end != io.EOF {
			err = errors.New("there is more after it")
		}
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return &badRequest{http.StatusRequestEntityTooLarge, fmt.Sprintf("send at most %d bytes", large.Limit)}
	}
	if err != nil {
		return &badRequest{http.StatusBadRequest, "send one JSON object: " + err.Error()}
	}
	return nil
}
