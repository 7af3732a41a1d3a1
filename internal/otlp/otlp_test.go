package otlp

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// A collector gets spans in OTLP's JSON, in the trace of who called, with who made them.
func TestSpansReachTheCollector(t *testing.T) {
	bodies := make(chan string, 4)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies <- r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type") + "\n" + string(b)
	}))
	defer collector.Close()
	p, err := New(Options{Endpoint: collector.URL + "/", Service: "dayfly-router", Instance: "router-0-x", Version: "v1", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	traceID, _ := trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	parent, _ := trace.SpanIDFromHex("b7ad6b7169203331")
	caller := trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: parent, TraceFlags: trace.FlagsSampled, Remote: true})
	begin := time.Unix(1, 5)
	ctx, span := p.Tracer("dayfly.dev/router").Start(trace.ContextWithRemoteSpanContext(context.Background(), caller), "intercept shop/web",
		trace.WithTimestamp(begin), trace.WithAttributes(attribute.String("service", "web"), attribute.Int("port", 80), attribute.Bool("laptop", true)))
	_, inner := p.Tracer("dayfly.dev/other").Start(ctx, "inner")
	inner.End(trace.WithTimestamp(begin))
	span.SetStatus(codes.Error, "no")
	span.End(trace.WithTimestamp(begin.Add(time.Second)))
	unsampled := trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: parent, Remote: true})
	_, quiet := p.Tracer("x").Start(trace.ContextWithRemoteSpanContext(context.Background(), unsampled), "the caller does not record")
	quiet.End()
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	head, body, _ := strings.Cut(<-bodies, "\n")
	if head != "POST /v1/traces application/json" {
		t.Errorf("asked with %s", head)
	}
	want := `{"resourceSpans":[{"resource":{"attributes":[
		{"key":"service.instance.id","value":{"stringValue":"router-0-x"}},{"key":"service.name","value":{"stringValue":"dayfly-router"}},
		{"key":"service.version","value":{"stringValue":"v1"}}]},
	"scopeSpans":[{"scope":{"name":"dayfly.dev/other"},"spans":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"INNER","parentSpanId":"SPAN",
		"name":"inner","kind":1,"startTimeUnixNano":"NOW","endTimeUnixNano":"1000000005","attributes":[],"status":{}}]},
	{"scope":{"name":"dayfly.dev/router"},"spans":[{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"SPAN","parentSpanId":"b7ad6b7169203331",
		"name":"intercept shop/web","kind":1,"startTimeUnixNano":"1000000005","endTimeUnixNano":"2000000005","attributes":[
		{"key":"service","value":{"stringValue":"web"}},{"key":"port","value":{"intValue":"80"}},{"key":"laptop","value":{"boolValue":true}}],
		"status":{"code":2,"message":"no"}}]}]}]}`
	var got, wanted any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	spans := got.(map[string]any)["resourceSpans"].([]any)[0].(map[string]any)["scopeSpans"].([]any)
	now := spans[0].(map[string]any)["spans"].([]any)[0].(map[string]any)["startTimeUnixNano"].(string)
	want = strings.NewReplacer("INNER", inner.SpanContext().SpanID().String(), "SPAN", span.SpanContext().SpanID().String(), "NOW", now).Replace(want)
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("(-want +sent):\n%s", diff)
	}
}

// A collector that is away holds nobody up, and is complained of once.
func TestCollectorThatIsAwayIsToldOnce(t *testing.T) {
	var warnings atomic.Int64
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }))
	defer down.Close()
	log := slog.New(slog.NewTextHandler(writer(func(b []byte) {
		if strings.Contains(string(b), "503") {
			warnings.Add(1)
		}
	}), nil))
	p, err := New(Options{Endpoint: down.URL, Service: "s", Instance: "i", Version: "v", Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		_, span := p.Tracer("x").Start(t.Context(), "y")
		span.End()
		if err := p.ForceFlush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := warnings.Load(); n != 1 {
		t.Errorf("%d warnings", n)
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

func TestEndpointsAreChecked(t *testing.T) {
	for _, c := range []struct {
		endpoint string
		ok       bool
	}{
		{"http://collector.monitoring:4318", true}, {"https://example.com/otlp", true}, {"collector:4318", false}, {"grpc://collector:4317", false},
		{"http://", false}, {"http://user:s3cret@host", false}, {"http://host/?x=1", false}, {":", false},
	} {
		err := CheckEndpoint(c.endpoint)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.endpoint, err)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error tells a password: %v", err)
		}
	}
}
