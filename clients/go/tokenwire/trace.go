package tokenwire

import (
	"context"
	"crypto/rand"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc/metadata"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// scope names this package to OpenTelemetry.
const scope = "example.com/tokenwire/clients/go/tokenwire"

// spanName is the name of a generation's span; each attempt's call has one of its own within it.
const spanName = "tokenwire generation"

var w3c = propagation.TraceContext{}

// tracing puts calls into traces: that of the caller's span, or else a new one.
type tracing struct {
	tracer trace.Tracer
}

func newTracing(provider trace.TracerProvider) tracing {
	if provider == nil {
		provider = noop.NewTracerProvider()
	}
	return tracing{provider.Tracer(scope)}
}

// begin starts a generation's span, and returns the context for its calls.
func (t tracing) begin(ctx context.Context) (context.Context, trace.Span) {
	ctx, span := t.tracer.Start(ctx, spanName, trace.WithSpanKind(trace.SpanKindInternal))
	return t.join(ctx), span
}

// join returns the context for calls, whose metadata carry its trace. A call outside any trace
// begins one, so that an error can name it.
func (t tracing) join(ctx context.Context) context.Context {
	carried, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		carried = metadata.MD{}
	}
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = w3c.Extract(ctx, carrier(carried))
	}
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, fresh())
	}
	w3c.Inject(ctx, carrier(carried))
	return metadata.NewOutgoingContext(ctx, carried)
}

// fresh returns the context of a new trace. It is sampled, because nobody upstream has decided
// otherwise: the services' own settings do.
func fresh() trace.SpanContext {
	var config trace.SpanContextConfig
	_, _ = rand.Read(config.TraceID[:]) // never fails
	_, _ = rand.Read(config.SpanID[:])
	config.TraceFlags = trace.FlagsSampled
	return trace.NewSpanContext(config)
}

func traceID(ctx context.Context) string {
	return trace.SpanContextFromContext(ctx).TraceID().String()
}

// traceContext returns the context's trace as a session carries it for one generation.
func traceContext(ctx context.Context) *frontendv1.TraceContext {
	headers := propagation.MapCarrier{}
	w3c.Inject(ctx, headers)
	return &frontendv1.TraceContext{Traceparent: headers["traceparent"], Tracestate: headers["tracestate"]}
}

// endSpan ends a generation's span; err: what it ended with.
func endSpan(span trace.Span, err *Error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// carrier is a call's metadata as OpenTelemetry writes into it.
type carrier metadata.MD

func (c carrier) Get(key string) string {
	if values := metadata.MD(c).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}
