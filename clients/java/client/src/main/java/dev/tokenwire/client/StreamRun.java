package dev.tokenwire.client;

import com.google.protobuf.Message;
import dev.tokenwire.frontend.v1.AttachRequest;
import dev.tokenwire.frontend.v1.AttachResponse;
import dev.tokenwire.frontend.v1.GenerateResponse;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.GenerationServiceGrpc;
import dev.tokenwire.frontend.v1.SessionEvent;
import dev.tokenwire.frontend.v1.StreamGenerateRequest;
import dev.tokenwire.frontend.v1.StreamGenerateResponse;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Function;

/** A generation that has a stream of its own, and goes on over another when that breaks. */
final class StreamRun extends GenerationRun {
  /** Deltas that wait for a slow reader; beyond, they wait at the frontend, which merges them. */
  private static final int UNREAD_DELTAS = 8;

  private final Frontends frontends;
  private final Trace trace;
  private final Runnable opening;
  private Frontend frontend;
  private ClientCall<?, ?> call;

  /** Whether the next message is to be asked for once a delta was read. */
  private boolean isHeldBack;

  /** @param surroundings makes of a task one that runs with the caller's contexts */
  StreamRun(
      Course course,
      Frontends frontends,
      Trace trace,
      Function<Runnable, Runnable> surroundings,
      CompletableFuture<GenerateResponse> answer) {
    super(new ReentrantLock(), course, answer);
    this.frontends = frontends;
    this.trace = trace;
    this.opening = surroundings.apply(this::open);
  }

  /** Asks for what has not come yet. */
  void begin() {
    lock.lock();
    try {
      if (!progress.ended()) {
        opening.run();
      }
    } finally {
      lock.unlock();
    }
  }

  @Override
  void cancel() {
    lock.lock();
    try {
      if (!progress.ended()) {
        progress.cancel();
        end();
        if (call != null) {
          call.cancel("the caller cancelled the generation", null);
        }
      }
    } finally {
      lock.unlock();
    }
  }

  @Override
  void letGo() {
    cancel();
  }

  @Override
  void more() {
    if (isHeldBack && unreadCount() < UNREAD_DELTAS) {
      isHeldBack = false;
      call.request(1);
    }
  }

  private void open() {
    try {
      Message request = course.nextRequest();
      frontend = frontends.pick();
      if (request instanceof AttachRequest attach) {
        start(GenerationServiceGrpc.getAttachMethod(), attach, StreamRun::event);
      } else {
        StreamGenerateRequest message =
            StreamGenerateRequest.newBuilder()
                .setGeneration((Generation) request)
                .setStream(course.stream())
                .build();
        start(GenerationServiceGrpc.getStreamGenerateMethod(), message, StreamRun::event);
      }
    } catch (TokenwireException error) {
      fail(error);
    } catch (RuntimeException failure) {
      // Of an interceptor: nobody else would hear of it.
      fail(TokenwireException.of(failure, progress.traceId()));
    }
  }

  private <Q, R> void start(
      MethodDescriptor<Q, R> method, Q request, Function<R, SessionEvent> asEvent) {
    CallOptions options = trace.join(CallOptions.DEFAULT);
    if (course.remaining().isPresent()) {
      long left = course.remaining().get().toNanos();
      options = options.withDeadlineAfter(left, TimeUnit.NANOSECONDS);
    }
    frontend.wake();
    ClientCall<Q, R> next = frontend.channel().newCall(method, options);
    call = next;
    isHeldBack = false;
    next.start(
        new ClientCall.Listener<R>() {
          @Override
          public void onMessage(R message) {
            locked(next, () -> receive(asEvent.apply(message)));
          }

          @Override
          public void onClose(Status status, Metadata trailers) {
            locked(next, () -> close(status, trailers));
          }
        },
        new Metadata());
    next.request(1);
    next.sendMessage(request);
    next.halfClose();
  }

  /** Runs what a call brought, unless another has taken its place or nobody wants it any more. */
  private void locked(ClientCall<?, ?> from, Runnable action) {
    lock.lock();
    try {
      if (call == from && !progress.ended()) {
        action.run();
      }
    } finally {
      lock.unlock();
    }
  }

  private void receive(SessionEvent event) {
    try {
      take(event);
    } catch (TokenwireException gap) {
      call.cancel("the stream has a gap", null);
      fail(gap);
      return;
    }
    if (!event.hasDelta()) {
      frontends.keep(frontend);
    }
    if (unreadCount() < UNREAD_DELTAS) {
      call.request(1);
    } else {
      isHeldBack = true;
    }
  }

  private void close(Status status, Metadata trailers) {
    if (progress.isWhole()) {
      end();
      return;
    }
    TokenwireException error =
        status.isOk()
            ? TokenwireException.cut(progress.traceId())
            : TokenwireException.of(status, trailers, progress.traceId());
    Course.Recovery next = course.recover(error, frontends.leave(frontend, error));
    if (next instanceof Course.Recovery.Reopen reopen) {
      if (!frontends.after(reopen.delay(), this::begin)) {
        fail(error);
      }
    } else if (next instanceof Course.Recovery.Ended ended) {
      deliver(ended.last());
      settle();
    } else {
      fail(((Course.Recovery.Failed) next).error());
    }
  }

  private static SessionEvent event(StreamGenerateResponse message) {
    SessionEvent.Builder event = SessionEvent.newBuilder();
    switch (message.getEventCase()) {
      case ACCEPTED -> event.setAccepted(message.getAccepted());
      case DELTA -> event.setDelta(message.getDelta());
      case COMPLETED -> event.setCompleted(message.getCompleted());
      case PROMPT_LOGPROBS -> event.setPromptLogprobs(message.getPromptLogprobs());
      default -> { } // what this version of the contract does not know
    }
    return event.build();
  }

  private static SessionEvent event(AttachResponse message) {
    SessionEvent.Builder event = SessionEvent.newBuilder();
    switch (message.getEventCase()) {
      case ACCEPTED -> event.setAccepted(message.getAccepted());
      case DELTA -> event.setDelta(message.getDelta());
      case COMPLETED -> event.setCompleted(message.getCompleted());
      case PROMPT_LOGPROBS -> event.setPromptLogprobs(message.getPromptLogprobs());
      default -> { } // as above
    }
    return event.build();
  }
}
