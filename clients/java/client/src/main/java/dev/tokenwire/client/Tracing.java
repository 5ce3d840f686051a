package dev.tokenwire.client;

import dev.tokenwire.frontend.v1.TraceContext;
import io.grpc.ClientInterceptor;
import io.opentelemetry.api.OpenTelemetry;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.Context;
import io.opentelemetry.instrumentation.grpc.v1_6.GrpcTelemetry;

/**
 * OpenTelemetry's part in a client: a span for each call, in which the services' spans go on.
 *
 * <p>A session's stream is one call. Each of its generations belongs to the span in which it was
 * opened, whose context goes with it.
 *
 * <p>This class alone needs {@code opentelemetry-api} and {@code opentelemetry-grpc-1.6}, which are
 * optional dependencies.
 */
public final class Tracing {
  private final ClientInterceptor interceptor;

  private Tracing(OpenTelemetry openTelemetry) {
    interceptor = GrpcTelemetry.create(openTelemetry).createClientInterceptor();
  }

  /** Returns tracing with this SDK, which the application sets up. */
  public static Tracing of(OpenTelemetry openTelemetry) {
    return new Tracing(openTelemetry);
  }

  ClientInterceptor interceptor() {
    return interceptor;
  }

  /** Returns the current span's context; empty fields where there is no span. */
  TraceContext current() {
    TraceContext.Builder context = TraceContext.newBuilder();
    W3CTraceContextPropagator.getInstance()
        .inject(
            Context.current(),
            context,
            (carrier, name, value) -> {
              switch (name) {
                case "traceparent" -> carrier.setTraceparent(value);
                case "tracestate" -> carrier.setTracestate(value);
                default -> { }
              }
            });
    return context.build();
  }

  /** Returns a task that runs within the current span, whatever thread runs it. */
  Runnable wrap(Runnable task) {
    return Context.current().wrap(task);
  }
}
