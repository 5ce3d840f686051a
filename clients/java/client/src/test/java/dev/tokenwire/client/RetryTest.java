package dev.tokenwire.client;

import static dev.tokenwire.client.ScriptedFrontend.accepted;
import static dev.tokenwire.client.ScriptedFrontend.completed;
import static dev.tokenwire.client.ScriptedFrontend.end;
import static dev.tokenwire.client.ScriptedFrontend.event;
import static dev.tokenwire.client.ScriptedFrontend.next;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.rpc.BadRequest;
import com.google.rpc.RetryInfo;
import dev.tokenwire.frontend.v1.GenerateResponse;
import dev.tokenwire.frontend.v1.Generation;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(30)
class RetryTest {
  private static final TokenwireException UNREACHABLE =
      TokenwireException.of(Status.UNAVAILABLE, new Metadata(), "");

  private long nowNanos;

  private Attempts attempts(Duration timeout) {
    return new Attempts(RetryPolicy.DEFAULT, timeout, () -> nowNanos, () -> 1.0);
  }

  private static TokenwireException overloaded(Duration asked) {
    return refused(Status.Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", asked);
  }

  private static TokenwireException refused(Status.Code code, String reason, Duration asked) {
    RetryInfo info =
        RetryInfo.newBuilder()
            .setRetryDelay(
                com.google.protobuf.Duration.newBuilder()
                    .setSeconds(asked.getSeconds())
                    .setNanos(asked.getNano()))
            .build();
    StatusRuntimeException error = ScriptedFrontend.error(code, reason, info);
    return TokenwireException.of(error.getStatus(), error.getTrailers(), "");
  }

  @Test
  void delaysGrowUpToTheNumberOfAttempts() {
    Attempts attempts = attempts(null);
    for (int expected : List.of(200, 400, 800, 1600, 3200)) {
      assertEquals(
          Optional.of(Duration.ofMillis(expected)), attempts.delay(UNREACHABLE, false, false));
    }
    assertEquals(Optional.empty(), attempts.delay(UNREACHABLE, false, false));
  }

  @Test
  void theTimeThatTheServiceAsksForIsWaitedOnTop() {
    assertEquals(
        Optional.of(Duration.ofMillis(3200)),
        attempts(null).delay(overloaded(Duration.ofSeconds(3)), false, false));
    assertEquals(
        Optional.empty(), attempts(null).delay(overloaded(Duration.ofSeconds(11)), false, false));
    assertEquals(
        Optional.empty(), attempts(null).delay(overloaded(Duration.ofSeconds(3)), false, true));
    TokenwireException busy =
        refused(Status.Code.ABORTED, "CONVERSATION_BUSY", Duration.ofSeconds(1));
    assertEquals(
        Optional.of(Duration.ofMillis(1200)), attempts(null).delay(busy, false, false));
  }

  @Test
  void noAttemptBeginsAfterTheDeadline() {
    Attempts attempts = attempts(Duration.ofMillis(500));
    assertTrue(attempts.delay(UNREACHABLE, false, false).isPresent());
    nowNanos = Duration.ofMillis(200).toNanos();
    assertEquals(Optional.of(Duration.ofMillis(300)), attempts.remaining());
    assertEquals(Optional.empty(), attempts.delay(UNREACHABLE, false, false));
  }

  @Test
  void anOverloadedFrontendIsAskedAgainAfterItsTime() throws Exception {
    RetryPolicy soon = RetryPolicy.DEFAULT.withFirstDelay(Duration.ofMillis(1));
    try (ScriptedFrontend frontend = new ScriptedFrontend();
        TokenwireClient client =
            TokenwireClient.builder(frontend.target()).retry(soon).build()) {
      CompletableFuture<GenerateResponse> answer =
          client.generate(Generation.getDefaultInstance());
      RetryInfo later =
          RetryInfo.newBuilder()
              .setRetryDelay(com.google.protobuf.Duration.newBuilder().setNanos(150_000_000))
              .build();
      var refused = next(frontend.streams);
      long refusedNanos = System.nanoTime();
      refused
          .answer()
          .onError(
              ScriptedFrontend.error(Status.Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", later));
      var taken = next(frontend.streams);
      assertTrue(System.nanoTime() - refusedNanos >= 150_000_000);
      taken.answer().onNext(accepted("ours"));
      taken.answer().onNext(event(end(0, 0)));
      taken.answer().onNext(completed());
      taken.answer().onCompleted();
      assertEquals("ours", answer.get(10, TimeUnit.SECONDS).getRequestId());
    }
  }

  @Test
  void errorsNameTheFields() throws Exception {
    try (ScriptedFrontend frontend = new ScriptedFrontend();
        TokenwireClient client = TokenwireClient.builder(frontend.target()).build()) {
      CompletableFuture<GenerateResponse> answer =
          client.generate(Generation.getDefaultInstance());
      BadRequest.FieldViolation fault =
          BadRequest.FieldViolation.newBuilder()
              .setField("generation.sampling.top_p")
              .setDescription("above 0, at most 1")
              .build();
      next(frontend.streams)
          .answer()
          .onError(
              ScriptedFrontend.error(
                  Status.Code.INVALID_ARGUMENT,
                  "INVALID_FIELD",
                  BadRequest.newBuilder().addFieldViolations(fault).build()));
      ExecutionException failure =
          assertThrows(ExecutionException.class, () -> answer.get(10, TimeUnit.SECONDS));
      TokenwireException error = (TokenwireException) failure.getCause();
      assertEquals(Status.Code.INVALID_ARGUMENT, error.code());
      assertEquals("INVALID_FIELD", error.reason());
      assertEquals(List.of(fault), error.fields());
      String traceparent =
          frontend
              .headers
              .get(0)
              .get(Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER));
      assertEquals(traceparent.substring(3, 35), error.traceId());
    }
  }
}
