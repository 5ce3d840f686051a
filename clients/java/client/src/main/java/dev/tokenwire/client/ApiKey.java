package dev.tokenwire.client;

import io.grpc.CallCredentials;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.concurrent.Executor;
import java.util.function.Supplier;
import java.util.regex.Pattern;

/** An API key, or a JWT, that each call carries as {@code authorization: Bearer ...}. */
final class ApiKey extends CallCredentials {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final Pattern ONE_LINE = Pattern.compile("[!-~]+");

  private final Supplier<String> value;

  ApiKey(Supplier<String> value) {
    this.value = value;
  }

  static String checked(String key) {
    if (key == null || !ONE_LINE.matcher(key).matches()) {
      throw new IllegalArgumentException("apiKey: must be printable ASCII without spaces");
    }
    return key;
  }

  @Override
  public void applyRequestMetadata(RequestInfo info, Executor executor, MetadataApplier applier) {
    executor.execute(
        () -> {
          Metadata headers = new Metadata();
          try {
            headers.put(AUTHORIZATION, "Bearer " + checked(value.get()));
          } catch (RuntimeException failure) {
            // Otherwise the call would wait for its key for ever.
            applier.fail(
                Status.UNAUTHENTICATED
                    .withDescription("the function that returns the API key failed: " + failure)
                    .withCause(failure));
            return;
          }
          applier.apply(headers);
        });
  }

  /** Returns what gives every call of a channel this key. */
  ClientInterceptor interceptor() {
    return new ClientInterceptor() {
      @Override
      public <Q, R> ClientCall<Q, R> interceptCall(
          MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
        return next.newCall(method, options.withCallCredentials(ApiKey.this));
      }
    };
  }
}
