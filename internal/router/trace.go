package router

import (
	"context"
	"net/http"

	"dayfly.dev/dayfly/internal/intercept"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// tracer returns what makes a span of each exchange that matched a rule, in the trace of its caller where the request says
// so. Nothing of it is forwarded: for the laptop the caller's span is the parent, as without dayfly. It names the captured
// port and who answered, not whose session it was.
func tracer(p trace.TracerProvider) func(intercept.Exchange) {
	t := p.Tracer("dayfly.dev/router")
	return func(x intercept.Exchange) {
		carrier := propagation.HeaderCarrier(http.Header{})
		carrier.Set("traceparent", x.TraceParent)
		carrier.Set("tracestate", x.TraceState)
		ctx := propagation.TraceContext{}.Extract(context.Background(), carrier)
		by := "original"
		if x.Laptop {
			by = "laptop"
		}
		_, span := t.Start(ctx, "intercept "+x.Service, trace.WithTimestamp(x.Begin), trace.WithSpanKind(trace.SpanKindInternal),
			trace.WithAttributes(attribute.String("dayfly.service", x.Service), attribute.Int("dayfly.port", x.ServicePort),
				attribute.String("dayfly.answered_by", by)))
		if x.Status > 0 {
			span.SetAttributes(attribute.Int("http.response.status_code", x.Status))
		}
		if x.Status >= 500 {
			span.SetStatus(codes.Error, "")
		}
		span.End(trace.WithTimestamp(x.End))
	}
}
