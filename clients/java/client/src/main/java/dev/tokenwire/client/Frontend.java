package dev.tokenwire.client;

import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;

/** A connection to one frontend; it connects with its first call. */
final class Frontend {
  /** Below the 60 s after which common load balancers drop an idle connection. */
  private static final int PING_INTERVAL_S = 20;

  /** A peer that answers no ping for this long is gone. */
  private static final int PING_ANSWER_S = 10;

  /** Largest unary answer; a stream's messages stay below 1 MiB. */
  private static final int RESPONSE_BYTES = 4 * 1024 * 1024;

  /** Metadata of one call by gRPC's count, which has 32 bytes for each entry beside its text. */
  private static final int METADATA_BYTES = 128 * 1024;

  /** Time that one attempt to connect may take, so that another frontend is tried soon. */
  private static final int CONNECT_MS = 2_000;

  private static final Pattern LOOPBACK =
      Pattern.compile(
          "(dns:/*)?(localhost\\.?|127(\\.\\d+){3}|\\[?::1\\]?)(:\\d+)?", Pattern.CASE_INSENSITIVE);

  private final ManagedChannel connection;
  private final Channel channel;

  /** @param interceptors the first sees a call first */
  Frontend(String target, ChannelCredentials credentials, List<ClientInterceptor> interceptors) {
    NettyChannelBuilder builder =
        NettyChannelBuilder.forTarget(target, credentials)
            .keepAliveTime(PING_INTERVAL_S, TimeUnit.SECONDS)
            .keepAliveTimeout(PING_ANSWER_S, TimeUnit.SECONDS)
            .keepAliveWithoutCalls(true)
            .maxInboundMessageSize(RESPONSE_BYTES)
            .maxInboundMetadataSize(METADATA_BYTES)
            .withOption(ChannelOption.CONNECT_TIMEOUT_MILLIS, CONNECT_MS)
            // Retries are decided here, where it is known what a request may do twice.
            .disableRetry();
    if (isLoopback(target)) {
      // A proxy of the environment's never stands between.
      builder.proxyDetector(address -> null);
    }
    if (target.startsWith("dns:")) {
      // The name may have several addresses.
      builder.defaultLoadBalancingPolicy("round_robin");
    }
    connection = builder.build();
    channel = ClientInterceptors.interceptForward(connection, interceptors);
  }

  static boolean isLoopback(String target) {
    return LOOPBACK.matcher(target).matches();
  }

  Channel channel() {
    return channel;
  }

  /** Connects at once where gRPC would wait, for up to two minutes, since it failed before. */
  void wake() {
    if (connection.getState(true) == ConnectivityState.TRANSIENT_FAILURE) {
      connection.resetConnectBackoff();
    }
  }

  /** Closes the connection; calls that still run are cancelled. */
  void close() {
    connection.shutdownNow();
  }
}
