package dev.tokenwire.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.security.SecureRandom;
import java.util.HexFormat;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The W3C trace context of one request over all its calls: every request has a trace id that the
 * caller can name, whether or not spans are made.
 */
final class Trace {
  private static final Metadata.Key<String> TRACEPARENT =
      Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER);
  private static final Pattern FORM =
      Pattern.compile("[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}");
  private static final CallOptions.Key<Trace> TRACE = CallOptions.Key.create("tokenwire-trace");
  private static final SecureRandom RANDOM = new SecureRandom();

  private String traceparent;

  /** Returns the options of a call that belongs to this trace. */
  CallOptions join(CallOptions options) {
    return options.withOption(TRACE, this);
  }

  /** Returns the trace id, 32 hex digits; empty before the first call. */
  synchronized String id() {
    if (traceparent == null) {
      return "";
    }
    Matcher matcher = FORM.matcher(traceparent);
    return matcher.matches() ? matcher.group(1) : "";
  }

  /**
   * Returns what gives a call its {@code traceparent} where nothing else did, and notes it. It must
   * come after the interceptor that makes spans.
   */
  static ClientInterceptor interceptor() {
    return new ClientInterceptor() {
      @Override
      public <Q, R> ClientCall<Q, R> interceptCall(
          MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
        Trace trace = options.getOption(TRACE);
        ClientCall<Q, R> call = next.newCall(method, options);
        if (trace == null) {
          return call;
        }
        return new SimpleForwardingClientCall<>(call) {
          @Override
          public void start(Listener<R> listener, Metadata headers) {
            trace.apply(headers);
            super.start(listener, headers);
          }
        };
      }
    };
  }

  private synchronized void apply(Metadata headers) {
    String known = headers.get(TRACEPARENT);
    if (known != null) {
      traceparent = known;
      return;
    }
    if (traceparent == null) {
      byte[] digits = new byte[24];
      RANDOM.nextBytes(digits);
      String hex = HexFormat.of().formatHex(digits);
      // Sampled (01), because nobody upstream has decided otherwise: the services' settings do.
      traceparent = "00-" + hex.substring(0, 32) + "-" + hex.substring(32) + "-01";
    }
    headers.put(TRACEPARENT, traceparent);
  }
}
