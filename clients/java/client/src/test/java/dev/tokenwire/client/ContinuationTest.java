package dev.tokenwire.client;

import static dev.tokenwire.client.ScriptedFrontend.accepted;
import static dev.tokenwire.client.ScriptedFrontend.completed;
import static dev.tokenwire.client.ScriptedFrontend.delta;
import static dev.tokenwire.client.ScriptedFrontend.end;
import static dev.tokenwire.client.ScriptedFrontend.error;
import static dev.tokenwire.client.ScriptedFrontend.event;
import static dev.tokenwire.client.ScriptedFrontend.next;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.tokenwire.frontend.v1.Accepted;
import dev.tokenwire.frontend.v1.AttachResponse;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.FinishReason;
import dev.tokenwire.frontend.v1.GenerateResponse;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.OnDisconnect;
import dev.tokenwire.frontend.v1.Prompt;
import dev.tokenwire.frontend.v1.StreamContent;
import dev.tokenwire.frontend.v1.StreamGenerateRequest;
import dev.tokenwire.frontend.v1.StreamGenerateResponse;
import dev.tokenwire.frontend.v1.StreamOptions;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(30)
class ContinuationTest {
  private static final Generation HELLO =
      Generation.newBuilder()
          .setPrompt(Prompt.newBuilder().setText("Hello"))
          .setTimeBudget(com.google.protobuf.Duration.newBuilder().setSeconds(100))
          .build();

  private ScriptedFrontend first;
  private ScriptedFrontend second;
  private TokenwireClient client;

  @BeforeEach
  void start() throws Exception {
    first = new ScriptedFrontend();
    second = new ScriptedFrontend();
    client =
        TokenwireClient.builder(first.target(), second.target())
            .inOrder()
            .retry(RetryPolicy.DEFAULT.withFirstDelay(Duration.ofMillis(20)))
            .build();
  }

  @AfterEach
  void stop() throws Exception {
    client.close();
    first.close();
    second.close();
  }

  /** Reads on another thread, so that the test can be the frontend meanwhile. */
  private static <T> CompletableFuture<T> beside(Supplier<T> action) {
    CompletableFuture<T> result = new CompletableFuture<>();
    new Thread(() -> result.completeAsync(action, Runnable::run)).start();
    return result;
  }

  private static String text(Iterable<Delta> deltas) {
    StringBuilder text = new StringBuilder();
    deltas.forEach(each -> text.append(each.getText()));
    return text.toString();
  }

  @Test
  void goesOnElsewhereWithoutGapOrRepeat() throws Exception {
    try (GenerationStream stream = client.stream(HELLO)) {
      CompletableFuture<String> text = beside(() -> text(stream));
      var broken = next(first.streams);
      broken.answer().onNext(accepted("ours"));
      broken.answer().onNext(event(delta(0, 0, "Grüße")));
      broken.answer().onNext(event(delta(1, 7, ", w")));
      broken.answer().onError(Status.UNAVAILABLE.asException());

      var rest = next(second.streams);
      Generation asked = rest.request().getGeneration();
      assertEquals("ours", asked.getRequestId());
      assertEquals(List.of(0, 1), asked.getOutputSoFar(0).getTokenIdsList());
      assertFalse(asked.getOutputSoFar(0).getEnded());
      assertTrue(asked.getTimeBudget().getSeconds() < 100);
      rest.answer().onNext(accepted("ours"));
      // The last three bytes had come; the text begins again within them.
      rest.answer().onNext(event(delta(2, 8, " world")));
      rest.answer().onNext(event(end(3, 14)));
      rest.answer().onNext(completed());
      rest.answer().onCompleted();

      assertEquals("Grüße, world", text.get(10, TimeUnit.SECONDS));
      assertEquals(1, stream.continued());
      GenerateResponse result = stream.result();
      assertEquals("Grüße, world", result.getSequences(0).getText());
      assertEquals(List.of(0, 1, 2), result.getSequences(0).getTokenIdsList());
    }
  }

  @Test
  void refusesAFrontendThatDoesNotKnowTheOutputSoFar() throws Exception {
    CompletableFuture<GenerateResponse> answer = client.generate(HELLO);
    var broken = next(first.streams);
    broken.answer().onNext(accepted("ours"));
    broken.answer().onNext(event(delta(0, 0, "Hello")));
    broken.answer().onError(Status.UNAVAILABLE.asException());
    var rest = next(second.streams);
    rest.answer().onNext(accepted("ours"));
    rest.answer().onNext(event(delta(0, 0, "Hello")));

    TokenwireException gap = failure(answer);
    assertEquals("STREAM_GAP", gap.reason());
    assertEquals(Status.Code.INTERNAL, gap.code());
  }

  @Test
  void refusesTextThatIsMissing() throws Exception {
    CompletableFuture<GenerateResponse> answer = client.generate(HELLO);
    var broken = next(first.streams);
    broken.answer().onNext(accepted("ours"));
    broken.answer().onNext(event(delta(0, 0, "Hello")));
    broken.answer().onCompleted(); // before `completed`, which is a break too
    var rest = next(second.streams);
    rest.answer().onNext(accepted("ours"));
    rest.answer().onNext(event(delta(1, 6, "world")));
    assertEquals("STREAM_GAP", failure(answer).reason());
  }

  @Test
  void asksForNothingWhereOnlyTheFiguresAreMissing() throws Exception {
    CompletableFuture<GenerateResponse> answer = client.generate(HELLO);
    var broken = next(first.streams);
    broken.answer().onNext(accepted("ours"));
    broken.answer().onNext(event(delta(0, 0, "Hello")));
    broken.answer().onNext(event(end(1, 5)));
    broken.answer().onError(Status.UNAVAILABLE.asException());
    GenerateResponse whole = answer.get(10, TimeUnit.SECONDS);
    assertEquals("Hello", whole.getSequences(0).getText());
    assertEquals(5, whole.getUsage().getPromptTokens());
    assertTrue(second.streams.isEmpty());
  }

  @Test
  void endsWithWhatCameWhereTheBudgetDoesNotSuffice() throws Exception {
    try (GenerationStream stream = client.stream(HELLO)) {
      var broken = next(first.streams);
      broken.answer().onNext(accepted("ours"));
      broken.answer().onNext(event(delta(0, 0, "Hello")));
      broken.answer().onError(Status.UNAVAILABLE.asException());
      var refused = next(second.streams);
      com.google.rpc.RetryInfo later =
          com.google.rpc.RetryInfo.newBuilder()
              .setRetryDelay(com.google.protobuf.Duration.newBuilder().setSeconds(1))
              .build();
      refused
          .answer()
          .onError(error(Status.Code.RESOURCE_EXHAUSTED, "BUDGET_TOO_SHORT", later));

      Delta last = null;
      for (Delta delta : stream) {
        last = delta;
      }
      assertEquals(FinishReason.FINISH_REASON_TIME_BUDGET, last.getEnd().getReason());
      assertEquals(1, last.getTokenOffset());
      assertEquals("Hello", stream.result().getSequences(0).getText());
    }
  }

  @Test
  void aDetachedGenerationIsAttachedAndThenContinued() throws Exception {
    Generation detached =
        HELLO.toBuilder().setOnDisconnect(OnDisconnect.ON_DISCONNECT_DETACH).build();
    CompletableFuture<GenerateResponse> answer = client.generate(detached);
    var broken = next(first.streams);
    Accepted accepted =
        accepted("ours").getAccepted().toBuilder().setResumeToken("token").build();
    broken.answer().onNext(StreamGenerateResponse.newBuilder().setAccepted(accepted).build());
    broken.answer().onNext(event(delta(0, 0, "Hello")));
    broken.answer().onError(Status.UNAVAILABLE.asException());

    var attached = next(second.attaches);
    assertEquals("token", attached.request().getResumeToken());
    assertEquals(List.of(1), attached.request().getTokenOffsetsList());
    AttachResponse.Builder event = AttachResponse.newBuilder();
    attached.answer().onNext(event.setAccepted(accepted).build());
    attached.answer().onNext(event.setDelta(delta(1, 5, "!")).build());
    attached.answer().onError(Status.UNAVAILABLE.asException());

    // Both have failed by now, and rest for times of which neither is always the shorter.
    var gone = next(first.attaches, second.attaches);
    assertEquals(List.of(2), gone.request().getTokenOffsetsList());
    gone.answer().onError(error(Status.Code.NOT_FOUND, "UNKNOWN_GENERATION"));

    var rest = next(first.streams, second.streams);
    assertEquals(
        List.of(0, 1), rest.request().getGeneration().getOutputSoFar(0).getTokenIdsList());
    rest.answer().onNext(accepted("ours"));
    rest.answer().onNext(event(end(2, 6)));
    rest.answer().onNext(completed());
    rest.answer().onCompleted();
    assertEquals("Hello!", answer.get(10, TimeUnit.SECONDS).getSequences(0).getText());
  }

  @Test
  void aKeyWithWhichAnotherClientGoesOnIsGivenUp() throws Exception {
    CompletableFuture<GenerateResponse> answer =
        client.generate(HELLO.toBuilder().setIdempotencyKey("shared").build());
    var broken = next(first.streams);
    broken.answer().onNext(accepted("ours"));
    broken.answer().onNext(event(delta(0, 0, "Hello")));
    broken.answer().onError(Status.UNAVAILABLE.asException());
    var conflict = next(second.streams);
    assertEquals("shared", conflict.request().getGeneration().getIdempotencyKey());
    conflict.answer().onError(error(Status.Code.ALREADY_EXISTS, "IDEMPOTENCY_CONFLICT"));
    var rest = next(second.streams);
    assertEquals("", rest.request().getGeneration().getIdempotencyKey());
    assertEquals(1, rest.request().getGeneration().getOutputSoFar(0).getTokenIdsCount());
    rest.answer().onNext(accepted("ours"));
    rest.answer().onNext(event(end(1, 5)));
    rest.answer().onNext(completed());
    rest.answer().onCompleted();
    assertEquals("Hello", answer.get(10, TimeUnit.SECONDS).getSequences(0).getText());
  }

  @Test
  void withTextAloneTheBreakIsTheAnswer() throws Exception {
    StreamGenerateRequest request =
        StreamGenerateRequest.newBuilder()
            .setGeneration(HELLO)
            .setStream(
                StreamOptions.newBuilder().setContent(StreamContent.STREAM_CONTENT_TEXT))
            .build();
    try (GenerationStream stream = client.stream(request, null)) {
      var broken = next(first.streams);
      broken.answer().onNext(accepted("ours"));
      broken.answer().onNext(event(Delta.newBuilder().setText("Hello").build()));
      broken.answer().onError(Status.UNAVAILABLE.asException());
      TokenwireException error =
          assertThrows(TokenwireException.class, () -> text(stream));
      assertEquals(Status.Code.UNAVAILABLE, error.code());
      assertTrue(error.getMessage().contains("not continued"), error.getMessage());
      assertTrue(second.streams.isEmpty());
    }
  }

  @Test
  void cancelWhileItWaitsToReopenEndsIt() throws Exception {
    CountDownLatch closed = new CountDownLatch(1);
    try (TokenwireClient patient =
            TokenwireClient.builder(first.target(), second.target())
                .inOrder()
                .retry(RetryPolicy.DEFAULT.withFirstDelay(Duration.ofHours(1)))
                .intercept(telling(closed))
                .build();
        GenerationStream stream = patient.stream(HELLO)) {
      var broken = next(first.streams);
      broken.answer().onNext(accepted("ours"));
      broken.answer().onNext(event(delta(0, 0, "Hello")));
      broken.answer().onError(Status.UNAVAILABLE.asException());
      assertEquals("Hello", stream.iterator().next().getText());
      assertTrue(closed.await(10, TimeUnit.SECONDS));
      stream.cancel();
      assertFalse(stream.iterator().hasNext());
      assertEquals(
          FinishReason.FINISH_REASON_CANCELLED,
          stream.result().getSequences(0).getEnd().getReason());
      assertTrue(second.streams.isEmpty());
    }
  }

  /** Tells when a call has ended and the client has heard of it. */
  private static ClientInterceptor telling(CountDownLatch closed) {
    return new ClientInterceptor() {
      @Override
      public <Q, R> ClientCall<Q, R> interceptCall(
          MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
        return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
          @Override
          public void start(Listener<R> listener, Metadata headers) {
            super.start(
                new SimpleForwardingClientCallListener<>(listener) {
                  @Override
                  public void onClose(Status status, Metadata trailers) {
                    super.onClose(status, trailers);
                    closed.countDown();
                  }
                },
                headers);
          }
        };
      }
    };
  }

  private static TokenwireException failure(CompletableFuture<?> answer) {
    ExecutionException failure =
        assertThrows(ExecutionException.class, () -> answer.get(10, TimeUnit.SECONDS));
    return (TokenwireException) failure.getCause();
  }
}
