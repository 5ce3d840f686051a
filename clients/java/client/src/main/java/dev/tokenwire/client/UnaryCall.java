package dev.tokenwire.client;

import io.grpc.CallOptions;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/** A unary call, over all its attempts. */
final class UnaryCall<Q, R> {
  private final MethodDescriptor<Q, R> method;
  private final Q request;
  private final Frontends frontends;
  private final Attempts attempts;
  private final Trace trace = new Trace();
  private final CompletableFuture<R> answer = new CompletableFuture<>();
  private final Runnable attempting;

  /** @param surroundings makes of a task one that runs with the caller's contexts */
  UnaryCall(
      MethodDescriptor<Q, R> method,
      Q request,
      Frontends frontends,
      Attempts attempts,
      Function<Runnable, Runnable> surroundings) {
    this.method = method;
    this.request = request;
    this.frontends = frontends;
    this.attempts = attempts;
    attempting =
        surroundings.apply(
            () -> {
              try {
                attempt();
              } catch (RuntimeException failure) {
                // Of an interceptor: nobody else would hear of it.
                answer.completeExceptionally(TokenwireException.of(failure, trace.id()));
              }
            });
  }

  /** Makes the first attempt; cancelling the future cancels the call. */
  CompletableFuture<R> begin() {
    attempting.run();
    return answer;
  }

  private void attempt() {
    if (answer.isDone()) {
      return;
    }
    Frontend frontend = frontends.pick();
    CallOptions options = trace.join(CallOptions.DEFAULT);
    Optional<Duration> left = attempts.remaining();
    if (left.isPresent()) {
      options = options.withDeadlineAfter(left.get().toNanos(), TimeUnit.NANOSECONDS);
    }
    frontend.wake();
    var call = frontend.channel().newCall(method, options);
    answer.whenComplete(
        (value, failure) -> {
          if (answer.isCancelled()) {
            call.cancel("the caller cancelled the call", null);
          }
        });
    ClientCalls.asyncUnaryCall(
        call,
        request,
        new StreamObserver<R>() {
          @Override
          public void onNext(R response) {
            frontends.keep(frontend);
            answer.complete(response);
          }

          @Override
          public void onError(Throwable failure) {
            recover(frontend, failure);
          }

          @Override
          public void onCompleted() {}
        });
  }

  private void recover(Frontend frontend, Throwable failure) {
    if (answer.isDone()) {
      return;
    }
    TokenwireException error =
        TokenwireException.of(
            Status.fromThrowable(failure), Status.trailersFromThrowable(failure), trace.id());
    boolean elsewhere = frontends.leave(frontend, error);
    Optional<Duration> delay = attempts.delay(error, elsewhere, false);
    if (delay.isEmpty() || !frontends.after(delay.get(), attempting)) {
      answer.completeExceptionally(error);
    }
  }
}
