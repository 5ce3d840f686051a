package dev.tokenwire.client;

import java.time.Duration;

/**
 * How often a call is made again, and how long to wait before.
 *
 * <p>A call is repeated when the service could not be reached or takes no requests now, or when it
 * is overloaded, or a conversation has yet to end its turn, and it says when to come back. A
 * generation that had begun is not repeated but continued, at another frontend where there is one:
 * nothing that was received comes again.
 *
 * @param attempts attempts in all; 1 never repeats a call
 * @param continuations attempts to continue a generation that had begun, over all its time; 0 never
 *     does
 * @param firstDelay before the second attempt; a random half of it is left out, so that clients
 *     spread
 * @param growth each further delay is so many times the one before
 * @param longestDelay delays grow to this; if the service asks for a longer wait, the error is
 *     thrown at once
 */
public record RetryPolicy(
    int attempts, int continuations, Duration firstDelay, double growth, Duration longestDelay) {

  /**
   * Rides out some four seconds without a frontend before a generation has begun, and half a minute
   * after.
   */
  public static final RetryPolicy DEFAULT =
      new RetryPolicy(6, 10, Duration.ofMillis(200), 2.0, Duration.ofSeconds(10));

  /** Checks the values. */
  public RetryPolicy {
    if (attempts < 1 || continuations < 0) {
      throw new IllegalArgumentException("attempts: at least 1; continuations: at least 0");
    }
    if (firstDelay.isNegative() || longestDelay.isNegative() || growth < 1) {
      throw new IllegalArgumentException("delays: at least 0; growth: at least 1");
    }
  }

  /** Returns this policy with another number of attempts. */
  public RetryPolicy withAttempts(int attempts) {
    return new RetryPolicy(attempts, continuations, firstDelay, growth, longestDelay);
  }

  /** Returns this policy with another number of continuations. */
  public RetryPolicy withContinuations(int continuations) {
    return new RetryPolicy(attempts, continuations, firstDelay, growth, longestDelay);
  }

  /** Returns this policy with another first delay. */
  public RetryPolicy withFirstDelay(Duration firstDelay) {
    return new RetryPolicy(attempts, continuations, firstDelay, growth, longestDelay);
  }
}
