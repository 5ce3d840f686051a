package dev.tokenwire.client;

import com.google.protobuf.Message;
import dev.tokenwire.frontend.v1.AttachRequest;
import dev.tokenwire.frontend.v1.GenerateResponse;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.StreamGenerateRequest;
import dev.tokenwire.frontend.v1.StreamOptions;
import dev.tokenwire.frontend.v1.TraceContext;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptor;
import io.grpc.Context;
import io.grpc.InsecureChannelCredentials;
import io.grpc.MethodDescriptor;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.Supplier;
import java.util.regex.Pattern;

/**
 * Connections to Tokenwire frontends.
 *
 * <pre>{@code
 * try (TokenwireClient client = TokenwireClient.builder("127.0.0.1:50051").build();
 *     GenerationStream stream = client.stream(generation)) {
 *   for (Delta delta : stream) {
 *     System.out.print(delta.getText());
 *   }
 * }
 * }</pre>
 *
 * <p>Requests and answers are the messages of the contract. Of several targets all calls go to one,
 * until it can't be reached or says UNAVAILABLE; then to the next. A generation whose stream breaks
 * is continued there with the token ids that have come: nothing comes twice, and nothing is missing.
 *
 * <p>Threads may share a client. What fails is a {@link TokenwireException}.
 */
public final class TokenwireClient implements AutoCloseable {
  /**
   * How an answer that nobody watches is streamed: few messages, and where its frontend is lost at
   * most a second is generated again.
   */
  static final StreamOptions WHOLE_ANSWER =
      StreamOptions.newBuilder()
          .setMaxDelay(com.google.protobuf.Duration.newBuilder().setSeconds(1))
          .build();

  private final Frontends frontends;
  private final Duration timeout;
  private final RetryPolicy retry;
  private final int requestBytes;
  private final Tracing tracing;

  private TokenwireClient(Builder builder) {
    List<Frontend> order = new ArrayList<>();
    for (String target : builder.targets) {
      order.add(new Frontend(target, builder.credentials, builder.interceptors()));
    }
    if (builder.isShuffled) {
      // So that many clients spread, and so does what a frontend's clients go to when it fails.
      Collections.shuffle(order);
    }
    frontends = new Frontends(order);
    timeout = builder.timeout;
    retry = builder.retry;
    requestBytes = builder.maxRequestBytes;
    tracing = builder.tracing;
  }

  /**
   * Returns a builder of clients.
   *
   * @param targets {@code HOST:PORT} each, or another name that gRPC resolves, such as {@code
   *     dns:///HOST:PORT}, among whose addresses calls go round
   */
  public static Builder builder(String... targets) {
    return new Builder(List.of(targets));
  }

  /**
   * Returns the whole answer. It is streamed in large parts, so that it is continued where its
   * frontend is lost. Cancelling the future stops the generation.
   */
  public CompletableFuture<GenerateResponse> generate(Generation generation) {
    return generate(generation, timeout);
  }

  /**
   * As {@link #generate(Generation)}.
   *
   * @param timeout the gRPC deadline, from now; null means none
   */
  public CompletableFuture<GenerateResponse> generate(Generation generation, Duration timeout) {
    CompletableFuture<GenerateResponse> answer = new CompletableFuture<>();
    begin(generation, WHOLE_ANSWER, timeout, answer);
    return answer;
  }

  /** Returns the answer as it comes. */
  public GenerationStream stream(Generation generation) {
    return stream(StreamGenerateRequest.newBuilder().setGeneration(generation).build(), timeout);
  }

  /**
   * Returns the answer as it comes, with options of its stream.
   *
   * @param timeout the gRPC deadline, from now, over all streams together; null means none
   */
  public GenerationStream stream(StreamGenerateRequest request, Duration timeout) {
    return new GenerationStream(
        begin(request.getGeneration(), request.getStream(), timeout, null));
  }

  /**
   * Returns what follows of a generation that outlives its call; what the caller has is not in its
   * result. Closing the stream leaves the generation alone.
   */
  public GenerationStream attach(AttachRequest request) {
    return attach(request, timeout);
  }

  /** As {@link #attach(AttachRequest)}, with a gRPC deadline from now; null means none. */
  public GenerationStream attach(AttachRequest request, Duration timeout) {
    return new GenerationStream(begin(request, request.getStream(), timeout, null));
  }

  /** Returns a session: many generations on one stream. It connects with its first generation. */
  public Session session() {
    // It outlives the call of a server in whose handler it may have been made.
    return new Session(this, frontends, task -> Context.ROOT.wrap(traced(task)));
  }

  /**
   * Returns what a unary method of the contract answers, such as {@code
   * ModelServiceGrpc.getListWorkersMethod()}.
   */
  public <Q, R> CompletableFuture<R> call(MethodDescriptor<Q, R> method, Q request) {
    return call(method, request, timeout);
  }

  /** As {@link #call(MethodDescriptor, Object)}, with a gRPC deadline from now; null means none. */
  public <Q, R> CompletableFuture<R> call(
      MethodDescriptor<Q, R> method, Q request, Duration timeout) {
    return new UnaryCall<>(method, request, frontends, attempts(timeout), this::surrounded)
        .begin();
  }

  /**
   * Returns the channel of the frontend that calls go to now, with this client's credentials, for
   * generated stubs. It neither retries nor changes to another frontend.
   */
  public Channel channel() {
    return frontends.pick().channel();
  }

  /** Closes the connections; what still runs fails. */
  @Override
  public void close() {
    frontends.close();
  }

  Course course(Message request, StreamOptions stream, Trace trace, Duration timeout) {
    return new Course(request, stream, trace, attempts(timeout), requestBytes);
  }

  TraceContext currentTraceContext() {
    return tracing == null ? TraceContext.getDefaultInstance() : tracing.current();
  }

  private StreamRun begin(
      Message request,
      StreamOptions stream,
      Duration timeout,
      CompletableFuture<GenerateResponse> answer) {
    Trace trace = new Trace();
    Course course = course(request, stream, trace, timeout);
    StreamRun run = new StreamRun(course, frontends, trace, this::surrounded, answer);
    run.begin();
    return run;
  }

  private Attempts attempts(Duration timeout) {
    return new Attempts(
        retry, timeout, System::nanoTime, () -> ThreadLocalRandom.current().nextDouble());
  }

  private Runnable surrounded(Runnable task) {
    return Context.current().wrap(traced(task));
  }

  private Runnable traced(Runnable task) {
    return tracing == null ? task : tracing.wrap(task);
  }

  /** Settings of a client. */
  public static final class Builder {
    private static final Pattern TARGET =
        Pattern.compile("(\\[[^\\]]+\\]|[^\\[\\]:/]+):[0-9]{1,5}|(dns|unix|xds):.+");

    private final List<String> targets;
    private ChannelCredentials credentials = InsecureChannelCredentials.create();
    private ApiKey apiKey;
    private boolean isOverPlainText;
    private Duration timeout;
    private RetryPolicy retry = RetryPolicy.DEFAULT;
    private int maxRequestBytes = 4 * 1024 * 1024; // what a service takes by default
    private Tracing tracing;
    private boolean isShuffled = true;
    private final List<ClientInterceptor> interceptors = new ArrayList<>();

    private Builder(List<String> targets) {
      if (targets.isEmpty()) {
        throw new IllegalArgumentException("targets: at least one is required");
      }
      for (String target : targets) {
        if (!TARGET.matcher(target).matches()) {
          throw new IllegalArgumentException(
              "targets: '" + target + "' is not HOST:PORT, such as 127.0.0.1:50051");
        }
      }
      this.targets = List.copyOf(new LinkedHashSet<>(targets));
    }

    /** TLS, such as {@link io.grpc.TlsChannelCredentials}. Without it calls are plain text. */
    public Builder credentials(ChannelCredentials credentials) {
      this.credentials = credentials;
      return this;
    }

    /** An API key, or a JWT, that each call carries. */
    public Builder apiKey(String apiKey) {
      ApiKey.checked(apiKey);
      return apiKey(() -> apiKey);
    }

    /** A function that returns the key, asked before each call; so a JWT can be renewed. */
    public Builder apiKey(Supplier<String> apiKey) {
      this.apiKey = new ApiKey(apiKey);
      return this;
    }

    /** Sends the key without TLS to other hosts too, where whoever is on the way can read it. */
    public Builder apiKeyOverPlainText() {
      isOverPlainText = true;
      return this;
    }

    /** The gRPC deadline of calls that name none of their own. By default there is none. */
    public Builder timeout(Duration timeout) {
      this.timeout = timeout;
      return this;
    }

    /** How often failed calls are made again. */
    public Builder retry(RetryPolicy retry) {
      this.retry = retry;
      return this;
    }

    /** Largest request, as the deployment sets it; 4 MiB by default. */
    public Builder maxRequestBytes(int maxRequestBytes) {
      this.maxRequestBytes = maxRequestBytes;
      return this;
    }

    /** Makes spans, and sends their context. */
    public Builder tracing(Tracing tracing) {
      this.tracing = tracing;
      return this;
    }

    /** Goes to the targets in their order, in place of a random one for each client. */
    public Builder inOrder() {
      isShuffled = false;
      return this;
    }

    /** Further interceptors of all calls; the first sees a call first. */
    public Builder intercept(ClientInterceptor... interceptors) {
      this.interceptors.addAll(List.of(interceptors));
      return this;
    }

    /**
     * Returns the client.
     *
     * @throws IllegalArgumentException the API key would cross a network in plain text
     */
    public TokenwireClient build() {
      boolean isPlain = credentials instanceof InsecureChannelCredentials;
      if (apiKey != null && isPlain && !isOverPlainText) {
        for (String target : targets) {
          if (!Frontend.isLoopback(target)) {
            throw new IllegalArgumentException(
                "apiKey: would be sent to " + target + " in plain text; use TLS credentials, or "
                    + "allow it with apiKeyOverPlainText()");
          }
        }
      }
      return new TokenwireClient(this);
    }

    private List<ClientInterceptor> interceptors() {
      List<ClientInterceptor> all = new ArrayList<>(interceptors);
      if (tracing != null) {
        all.add(tracing.interceptor());
      }
      all.add(Trace.interceptor());
      if (apiKey != null) {
        all.add(apiKey.interceptor());
      }
      return all;
    }
  }
}
