package dev.tokenwire.client;

import io.grpc.Status;
import java.time.Duration;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.function.DoubleSupplier;
import java.util.function.LongSupplier;

/** The attempts of one call: what is left of its time, and whether to go on after an error. */
final class Attempts {
  /** Steps by which delays grow at most, to bound the power: they have met their bound before. */
  private static final int STEPS = 64;

  private final RetryPolicy policy;
  private final LongSupplier nanoTime;
  private final DoubleSupplier jitter;
  private final OptionalLong deadlineNanos;
  private int failuresInARow;
  private int continuations;
  private boolean hasBegun;

  /**
   * @param timeout for all attempts together; null means any time
   * @param nanoTime as {@link System#nanoTime()}
   * @param jitter from 0 to 1
   */
  Attempts(RetryPolicy policy, Duration timeout, LongSupplier nanoTime, DoubleSupplier jitter) {
    this.policy = policy;
    this.nanoTime = nanoTime;
    this.jitter = jitter;
    this.deadlineNanos =
        timeout == null
            ? OptionalLong.empty()
            : OptionalLong.of(nanoTime.getAsLong() + timeout.toNanos());
  }

  /** Returns the time that the next attempt may take; empty means any. */
  Optional<Duration> remaining() {
    return deadlineNanos.isEmpty()
        ? Optional.empty()
        : Optional.of(Duration.ofNanos(Math.max(leftNanos(), 0)));
  }

  /** Notes that a generation was accepted: from now on it is continued. */
  void begin() {
    hasBegun = true;
    failuresInARow = 0;
  }

  /** Whether it is a generation that was accepted. */
  boolean hasBegun() {
    return hasBegun;
  }

  /**
   * Returns how long to wait before the next attempt; empty where the error is the answer.
   *
   * @param error what the last attempt failed with
   * @param elsewhere the next goes to another frontend, of which nothing bad is known
   * @param heard it was a stream that had been accepted
   */
  Optional<Duration> delay(TokenwireException error, boolean elsewhere, boolean heard) {
    failuresInARow++;
    boolean exhausted =
        hasBegun
            ? ++continuations > policy.continuations()
            : failuresInARow >= policy.attempts();
    if (exhausted || !isRetryable(error, heard)) {
      return Optional.empty();
    }
    Duration asked = error.retryAfter().orElse(Duration.ZERO);
    if (asked.compareTo(policy.longestDelay()) > 0 && !elsewhere) {
      return Optional.empty();
    }
    double nanos = policy.firstDelay().toNanos();
    if (elsewhere) {
      // A part of the shortest delay, so that what one frontend had does not come at once.
      nanos *= jitter.getAsDouble();
    } else {
      nanos *= Math.pow(policy.growth(), Math.min(failuresInARow - 1, STEPS));
      nanos = Math.min(nanos, policy.longestDelay().toNanos());
      nanos = asked.toNanos() + nanos * (1 + jitter.getAsDouble()) / 2;
    }
    Duration delay = Duration.ofNanos((long) nanos);
    boolean tooLate = deadlineNanos.isPresent() && delay.toNanos() >= leftNanos();
    return tooLate ? Optional.empty() : Optional.of(delay);
  }

  /** Whether another attempt may succeed; {@code heard}: the failed one had been accepted. */
  static boolean isRetryable(TokenwireException error, boolean heard) {
    // RESOURCE_EXHAUSTED without a RetryInfo is no overload: gRPC says it of too large a message.
    // After the acceptance it is a bound that this generation has met. ABORTED with one is a
    // conversation whose turn before is about to end.
    boolean mayPass =
        error.code() == Status.Code.RESOURCE_EXHAUSTED || error.code() == Status.Code.ABORTED;
    return error.isUnavailable() || (mayPass && error.retryAfter().isPresent() && !heard);
  }

  private long leftNanos() {
    return deadlineNanos.getAsLong() - nanoTime.getAsLong();
  }
}
