// Package otlp sends spans to an OpenTelemetry collector: OTLP over HTTP in its JSON encoding. The SDK makes and batches them;
// its own exporter is not used because of what it weighs (docs/decisions/0007-seeing-it-run.md).
package otlp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// Options say who sends spans, and where to. All are required.
type Options struct {
	Endpoint string // of the collector, such as http://collector.monitoring:4318
	Service  string // service.name
	Instance string // service.instance.id
	Version  string // service.version
	Logger   *slog.Logger
}

// CheckEndpoint says what is wrong with a collector's address.
func CheckEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return fmt.Errorf("%q is no URL", endpoint)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return fmt.Errorf("%q does not begin with http:// or https:// and a host", endpoint)
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return fmt.Errorf("%q holds more than a host and a path", u.Redacted())
	}
	return nil
}

// New returns a provider whose spans go to the collector, in batches, from a goroutine that ends with its Shutdown. Traces
// whose callers have begun them are recorded as the caller decided, all others are.
func New(o Options) (*sdk.TracerProvider, error) {
	if err := CheckEndpoint(o.Endpoint); err != nil {
		return nil, err
	}
	who := resource.NewSchemaless(attribute.String("service.name", o.Service), attribute.String("service.instance.id", o.Instance),
		attribute.String("service.version", o.Version))
	e := &exporter{url: strings.TrimSuffix(o.Endpoint, "/") + "/v1/traces", log: o.Logger, client: &http.Client{Timeout: 5 * time.Second}}
	return sdk.NewTracerProvider(sdk.WithResource(who), sdk.WithBatcher(e), sdk.WithSampler(sdk.ParentBased(sdk.AlwaysSample()))), nil
}

// exporter posts spans. What the collector does not take is lost: nobody waits for it.
type exporter struct {
	url    string
	client *http.Client
	log    *slog.Logger
	failed bool // the last post; the SDK never exports two batches at once
}

// ExportSpans implements sdk.SpanExporter.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := e.post(ctx, spans)
	if err != nil && !e.failed {
		e.log.Warn("the collector does not take spans", "reason", err)
	}
	e.failed = err != nil
	return nil
}

func (e *exporter) post(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	data, err := json.Marshal(encode(spans))
	if err != nil {
		return fmt.Errorf("encoding spans: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is kept
	if resp.StatusCode >= 300 {
		return fmt.Errorf("posting spans: %s", resp.Status)
	}
	return nil
}

// Shutdown implements sdk.SpanExporter.
func (e *exporter) Shutdown(context.Context) error {
	e.client.CloseIdleConnections()
	return nil
}

// The JSON of opentelemetry-proto's ExportTraceServiceRequest, as far as it is used: IDs are hexadecimal, 64-bit numbers text.
type (
	request struct {
		ResourceSpans []resourceSpans `json:"resourceSpans"`
	}
	resourceSpans struct {
		Resource   attributes   `json:"resource"`
		ScopeSpans []scopeSpans `json:"scopeSpans"`
	}
	scopeSpans struct {
		Scope scope  `json:"scope"`
		Spans []span `json:"spans"`
	}
	scope struct {
		Name string `json:"name"`
	}
	attributes struct {
		Attributes []keyValue `json:"attributes"`
	}
	span struct {
		TraceID      string `json:"traceId"`
		SpanID       string `json:"spanId"`
		ParentSpanID string `json:"parentSpanId,omitempty"`
		TraceState   string `json:"traceState,omitempty"`
		Name         string `json:"name"`
		Kind         int    `json:"kind"`
		Begin        string `json:"startTimeUnixNano"`
		End          string `json:"endTimeUnixNano"`
		attributes
		Status status `json:"status"`
	}
	status struct {
		Code    int    `json:"code,omitempty"`
		Message string `json:"message,omitempty"`
	}
	keyValue struct {
		Key   string         `json:"key"`
		Value map[string]any `json:"value"`
	}
)

// encode puts the spans of one provider together by who made them.
func encode(spans []sdk.ReadOnlySpan) request {
	if len(spans) == 0 {
		return request{}
	}
	byScope := map[string]int{}
	rs := resourceSpans{Resource: attributes{keyValues(spans[0].Resource().Attributes())}}
	for _, s := range spans {
		name := s.InstrumentationScope().Name
		at, ok := byScope[name]
		if !ok {
			at = len(rs.ScopeSpans)
			byScope[name] = at
			rs.ScopeSpans = append(rs.ScopeSpans, scopeSpans{Scope: scope{name}})
		}
		rs.ScopeSpans[at].Spans = append(rs.ScopeSpans[at].Spans, encodeSpan(s))
	}
	return request{[]resourceSpans{rs}}
}

func encodeSpan(s sdk.ReadOnlySpan) span {
	out := span{
		TraceID: s.SpanContext().TraceID().String(), SpanID: s.SpanContext().SpanID().String(), TraceState: s.SpanContext().TraceState().String(),
		Name: s.Name(), Kind: int(s.SpanKind()), // the same numbers
		Begin: strconv.FormatInt(s.StartTime().UnixNano(), 10), End: strconv.FormatInt(s.EndTime().UnixNano(), 10),
		attributes: attributes{keyValues(s.Attributes())},
		Status:     status{Message: s.Status().Description},
	}
	if s.Parent().SpanID().IsValid() {
		out.ParentSpanID = s.Parent().SpanID().String()
	}
	switch s.Status().Code { // other numbers than the API's
	case 1:
		out.Status.Code = 2 // error
	case 2:
		out.Status.Code = 1 // ok
	}
	return out
}

func keyValues(in []attribute.KeyValue) []keyValue {
	out := make([]keyValue, 0, len(in))
	for _, a := range in {
		kv := keyValue{Key: string(a.Key)}
		switch a.Value.Type() {
		case attribute.INT64:
			kv.Value = map[string]any{"intValue": strconv.FormatInt(a.Value.AsInt64(), 10)}
		case attribute.BOOL:
			kv.Value = map[string]any{"boolValue": a.Value.AsBool()}
		default:
			kv.Value = map[string]any{"stringValue": a.Value.Emit()}
		}
		out = append(out, kv)
	}
	return out
}
