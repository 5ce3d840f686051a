package dev.tokenwire.client;

import com.google.protobuf.Message;
import dev.tokenwire.frontend.v1.AttachRequest;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.OnDisconnect;
import dev.tokenwire.frontend.v1.StreamOptions;
import java.time.Duration;
import java.util.List;
import java.util.Optional;

/** A generation's way over the streams that bring it: what the next is asked for, and when. */
final class Course {
  /** Of a message, for what stands around a request, such as a session's trace context. */
  private static final int AROUND_BYTES = 1024;

  private final Message first;
  private Generation generation;
  private final StreamOptions stream;
  private final Progress progress;
  private final Attempts attempts;
  private final int requestBytes;
  private final long beganNanos = System.nanoTime();
  private String resumeToken;
  private boolean isAttaching;
  private boolean isHeard;

  /**
   * @param first the first request: a Generation or an AttachRequest
   * @param requestBytes largest request
   */
  Course(
      Message first, StreamOptions stream, Trace trace, Attempts attempts, int requestBytes) {
    this.first = first;
    this.generation = first instanceof Generation asked ? asked : null;
    this.stream = stream;
    this.attempts = attempts;
    this.requestBytes = requestBytes;
    boolean isAttach = first instanceof AttachRequest;
    this.resumeToken = isAttach ? ((AttachRequest) first).getResumeToken() : "";
    List<Integer> offsets =
        isAttach ? ((AttachRequest) first).getTokenOffsetsList() : List.of();
    this.progress = new Progress(trace, generation, stream, offsets);
  }

  Progress progress() {
    return progress;
  }

  StreamOptions stream() {
    return stream;
  }

  /** Returns the time that the next stream may take; empty means any. */
  Optional<Duration> remaining() {
    return attempts.remaining();
  }

  /** Whether the stream was accepted. */
  boolean isHeard() {
    return isHeard;
  }

  /**
   * Returns what the next stream is to be asked for: a Generation or an AttachRequest.
   *
   * @throws TokenwireException more than a message holds, which is then the answer
   */
  Message nextRequest() {
    isHeard = false;
    if (progress.accepted() == null) {
      checkSize(first, "generation.prompt");
      return first;
    }
    progress.reopen();
    if (!resumeToken.isEmpty() || generation == null) {
      isAttaching = true;
      return AttachRequest.newBuilder()
          .setResumeToken(resumeToken)
          .addAllTokenOffsets(progress.tokenOffsets())
          .setStream(stream)
          .build();
    }
    Generation.Builder next =
        generation.toBuilder().setRequestId(progress.accepted().getRequestId());
    if (progress.hasBegun()) {
      next.clearOutputSoFar().addAllOutputSoFar(progress.soFar(count()));
    }
    budgetLeft()
        .ifPresent(
            left ->
                next.getTimeBudgetBuilder()
                    .setSeconds(left.getSeconds())
                    .setNanos(left.getNano()));
    Generation request = next.build();
    checkSize(request, "generation.output_so_far");
    return request;
  }

  /** Notes that the stream has brought an event other than a delta. */
  void hear() {
    if (isHeard || progress.accepted() == null) {
      return;
    }
    isHeard = true;
    if (attempts.hasBegun()) {
      progress.noteContinued();
    }
    attempts.begin();
    String token = progress.accepted().getResumeToken();
    resumeToken = token.isEmpty() ? resumeToken : token;
  }

  /** What to do after a stream has failed. */
  sealed interface Recovery {
    /** Ask again after this time. */
    record Reopen(Duration delay) implements Recovery {}

    /** The generation has ended with what came, and with these deltas. */
    record Ended(List<Delta> last) implements Recovery {}

    /** The error is the answer. */
    record Failed(TokenwireException error) implements Recovery {}
  }

  /**
   * Says what to do next.
   *
   * @param error what the stream failed with
   * @param elsewhere the next goes to another frontend, of which nothing bad is known
   */
  Recovery recover(TokenwireException error, boolean elsewhere) {
    if (isRefusedAttach(error)) {
      resumeToken = "";
      isAttaching = false;
      return new Recovery.Reopen(Duration.ZERO);
    }
    if (isKeyOfAnother(error)) {
      // By the ids alone: that generates twice, and brings the rest.
      Generation.Builder without = generation.toBuilder().clearIdempotencyKey();
      if (without.getOnDisconnect() != OnDisconnect.ON_DISCONNECT_DETACH) {
        without.clearDetachTtl(); // which needs one of both
      }
      generation = without.build();
      return new Recovery.Reopen(Duration.ZERO);
    }
    if (Attempts.isRetryable(error, isHeard)) {
      Optional<List<Delta>> last = conclude(error);
      if (last.isPresent()) {
        return new Recovery.Ended(last.get());
      }
      if (progress.hasBegun() && !progress.hasIds()) {
        String why = "not continued: with STREAM_CONTENT_TEXT the token ids are not known";
        return new Recovery.Failed(error.noting(why));
      }
    }
    Optional<Duration> delay = attempts.delay(error, elsewhere, isHeard);
    return delay.isPresent()
        ? new Recovery.Reopen(delay.get())
        : new Recovery.Failed(error);
  }

  /** Ends the generation where nothing is left to ask for; returns the deltas that say so. */
  private Optional<List<Delta>> conclude(TokenwireException error) {
    if (generation == null || progress.accepted() == null) {
      return Optional.empty();
    }
    boolean isSpent = budgetLeft().map(Duration::isZero).orElse(false);
    if (isSpent || error.reason().equals("BUDGET_TOO_SHORT")) {
      return Optional.of(progress.runOut(count()));
    }
    return progress.conclude(count()) ? Optional.of(List.of()) : Optional.empty();
  }

  /** Whether its frontend does not have it any more: then the ids so far do. */
  private boolean isRefusedAttach(TokenwireException error) {
    return isAttaching && !isHeard && !error.isBreak() && generation != null;
  }

  /** Whether another client of the idempotency key goes on with it, from other ids. */
  private boolean isKeyOfAnother(TokenwireException error) {
    return error.reason().equals("IDEMPOTENCY_CONFLICT")
        && progress.accepted() != null
        && generation != null
        && !generation.getIdempotencyKey().isEmpty();
  }

  private Optional<Duration> budgetLeft() {
    if (generation == null || !generation.hasTimeBudget()) {
      return Optional.empty();
    }
    var budget = generation.getTimeBudget();
    Duration left =
        Duration.ofSeconds(budget.getSeconds(), budget.getNanos())
            .minusNanos(System.nanoTime() - beganNanos);
    return Optional.of(left.isNegative() ? Duration.ZERO : left);
  }

  private int count() {
    return Math.max(generation.getSequenceCount(), 1);
  }

  /** gRPC would say RESOURCE_EXHAUSTED, and end a session with all that is open. */
  private void checkSize(Message request, String field) {
    int bytes = request.getSerializedSize();
    if (bytes > requestBytes - AROUND_BYTES) {
      String fault =
          "too long: the request has " + bytes + " bytes, and a message at most " + requestBytes;
      throw TokenwireException.field("REQUEST_TOO_LARGE", field, fault);
    }
  }
}
