package dev.tokenwire.client;

import com.google.protobuf.Any;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import dev.tokenwire.frontend.v1.Accepted;
import dev.tokenwire.frontend.v1.AttachRequest;
import dev.tokenwire.frontend.v1.AttachResponse;
import dev.tokenwire.frontend.v1.Completed;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.FinishReason;
import dev.tokenwire.frontend.v1.GenerationServiceGrpc.GenerationServiceImplBase;
import dev.tokenwire.frontend.v1.SequenceEnd;
import dev.tokenwire.frontend.v1.SessionEvent;
import dev.tokenwire.frontend.v1.SessionRequest;
import dev.tokenwire.frontend.v1.SessionResponse;
import dev.tokenwire.frontend.v1.StreamGenerateRequest;
import dev.tokenwire.frontend.v1.StreamGenerateResponse;
import dev.tokenwire.frontend.v1.Usage;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerCredentials;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.InsecureServerCredentials;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** A frontend on a loopback port that does what a test says, and nothing by itself. */
final class ScriptedFrontend implements AutoCloseable {
  /** One call that came, and the way to answer it. */
  record Call<Q, R>(Q request, ServerCallStreamObserver<R> answer) {}

  /** One session that came. */
  record SessionCall(
      BlockingQueue<SessionRequest> commands, ServerCallStreamObserver<SessionResponse> answer) {
    SessionRequest next() throws InterruptedException {
      return ScriptedFrontend.next(commands);
    }

    void send(SessionEvent... events) {
      answer.onNext(SessionResponse.newBuilder().addAllEvents(List.of(events)).build());
    }
  }

  final BlockingQueue<Call<StreamGenerateRequest, StreamGenerateResponse>> streams =
      new LinkedBlockingQueue<>();
  final BlockingQueue<Call<AttachRequest, AttachResponse>> attaches = new LinkedBlockingQueue<>();
  final BlockingQueue<SessionCall> sessions = new LinkedBlockingQueue<>();
  final List<Metadata> headers = new CopyOnWriteArrayList<>();
  private final Server server;

  ScriptedFrontend() throws IOException {
    this(InsecureServerCredentials.create());
  }

  ScriptedFrontend(ServerCredentials credentials) throws IOException {
    server =
        NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0), credentials)
            .addService(new Service())
            .intercept(new HeaderReader())
            .build()
            .start();
  }

  String target() {
    return "127.0.0.1:" + server.getPort();
  }

  @Override
  public void close() throws InterruptedException {
    server.shutdownNow();
    server.awaitTermination();
  }

  /** Returns what comes next; fails the test where nothing does. */
  static <T> T next(BlockingQueue<T> queue) throws InterruptedException {
    T next = queue.poll(10, TimeUnit.SECONDS);
    if (next == null) {
      throw new AssertionError("nothing came within 10 s");
    }
    return next;
  }

  /** Returns what comes next at either of two; fails the test where nothing does. */
  static <T> T next(BlockingQueue<T> one, BlockingQueue<T> other) throws InterruptedException {
    for (int waited = 0; waited < 1000; waited++) {
      T next = one.poll();
      next = next == null ? other.poll(10, TimeUnit.MILLISECONDS) : next;
      if (next != null) {
        return next;
      }
    }
    throw new AssertionError("nothing came within 10 s");
  }

  static StreamGenerateResponse accepted(String requestId) {
    return StreamGenerateResponse.newBuilder()
        .setAccepted(accept(requestId))
        .build();
  }

  static Accepted accept(String requestId) {
    return Accepted.newBuilder()
        .setRequestId(requestId)
        .setTraceId("0af7651916cd43dd8448eb211c80319c")
        .setPromptTokenCount(5)
        .build();
  }

  /** A delta of the first sequence, whose one token is the number of those before it. */
  static Delta delta(int tokenOffset, int textOffset, String text) {
    return Delta.newBuilder()
        .setTokenOffset(tokenOffset)
        .addTokenIds(tokenOffset)
        .setTextOffset(textOffset)
        .setText(text)
        .build();
  }

  static Delta end(int tokenOffset, int textOffset) {
    SequenceEnd stop =
        SequenceEnd.newBuilder().setReason(FinishReason.FINISH_REASON_STOP).build();
    return Delta.newBuilder()
        .setTokenOffset(tokenOffset)
        .setTextOffset(textOffset)
        .setEnd(stop)
        .build();
  }

  static StreamGenerateResponse event(Delta delta) {
    return StreamGenerateResponse.newBuilder().setDelta(delta).build();
  }

  static StreamGenerateResponse completed() {
    return StreamGenerateResponse.newBuilder().setCompleted(complete()).build();
  }

  static Completed complete() {
    return Completed.newBuilder()
        .setUsage(Usage.newBuilder().setPromptTokens(5).setCompletionTokens(2))
        .build();
  }

  static StatusRuntimeException error(Status.Code code, String reason, Message... details) {
    com.google.rpc.Status.Builder status =
        com.google.rpc.Status.newBuilder().setCode(code.value()).setMessage(reason);
    status.addDetails(
        Any.pack(ErrorInfo.newBuilder().setReason(reason).setDomain("tokenwire").build()));
    for (Message detail : details) {
      status.addDetails(Any.pack(detail));
    }
    return StatusProto.toStatusRuntimeException(status.build());
  }

  private final class HeaderReader implements ServerInterceptor {
    @Override
    public <Q, R> ServerCall.Listener<Q> interceptCall(
        ServerCall<Q, R> call, Metadata metadata, ServerCallHandler<Q, R> next) {
      headers.add(metadata);
      return next.startCall(call, metadata);
    }
  }

  private final class Service extends GenerationServiceImplBase {
    @Override
    public void streamGenerate(
        StreamGenerateRequest request, StreamObserver<StreamGenerateResponse> answer) {
      streams.add(new Call<>(request, quiet(answer)));
    }

    @Override
    public void attach(AttachRequest request, StreamObserver<AttachResponse> answer) {
      attaches.add(new Call<>(request, quiet(answer)));
    }

    @Override
    public StreamObserver<SessionRequest> session(StreamObserver<SessionResponse> answer) {
      SessionCall call = new SessionCall(new LinkedBlockingQueue<>(), quiet(answer));
      sessions.add(call);
      return new StreamObserver<>() {
        @Override
        public void onNext(SessionRequest command) {
          call.commands.add(command);
        }

        @Override
        public void onError(Throwable failure) {}

        @Override
        public void onCompleted() {
          answer.onCompleted();
        }
      };
    }

    /** A call that the client has cancelled takes further answers without an exception. */
    private <R> ServerCallStreamObserver<R> quiet(StreamObserver<R> answer) {
      ServerCallStreamObserver<R> call = (ServerCallStreamObserver<R>) answer;
      call.setOnCancelHandler(() -> {});
      return call;
    }
  }
}
