package dev.tokenwire.client;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * Several frontends, of which one gets all calls until it fails.
 *
 * <p>One at a time, since what a frontend remembers, such as conversations and idempotency keys,
 * helps only there.
 */
final class Frontends {
  /** As long as a restart takes; twice as long after each further failure. */
  private static final Duration FIRST_REST = Duration.ofSeconds(1);

  /** Rests grow to this, so that a frontend that was away for long is found again. */
  private static final Duration LONGEST_REST = Duration.ofSeconds(30);

  /** Failures that are counted at most, to bound the power: rests have met their bound before. */
  private static final int FAILURES = 10;

  private final List<Frontend> order;
  private final Map<Frontend, Health> healths = new IdentityHashMap<>();
  private final ScheduledThreadPoolExecutor timer;
  private Frontend current;

  /** @param order the first gets the first call */
  Frontends(List<Frontend> order) {
    this.order = List.copyOf(order);
    this.order.forEach(each -> healths.put(each, new Health()));
    current = this.order.get(0);
    timer =
        new ScheduledThreadPoolExecutor(
            1,
            task -> {
              Thread thread = new Thread(task, "tokenwire-timer");
              thread.setDaemon(true);
              return thread;
            });
    timer.setExecuteExistingDelayedTasksAfterShutdownPolicy(false);
  }

  /** Returns the frontend that the next call goes to. */
  synchronized Frontend pick() {
    return current;
  }

  /** Notes that a frontend answers. */
  synchronized void keep(Frontend frontend) {
    Health health = healths.get(frontend);
    health.failures = 0;
    health.restsUntilNanos = System.nanoTime();
  }

  /**
   * Notes what a call of a frontend failed with. Where it says that the frontend takes no requests,
   * or broke off, the next call goes to another.
   *
   * @return whether that is one of which nothing bad is known
   */
  synchronized boolean leave(Frontend frontend, TokenwireException error) {
    if (!error.isUnavailable()) {
      return false;
    }
    long now = System.nanoTime();
    Health health = healths.get(frontend);
    if (health.restNanos(now) == 0) { // else one of the calls that failed together
      double rest =
          Math.min(
              FIRST_REST.toNanos() * Math.pow(2, health.failures), LONGEST_REST.toNanos());
      double jitter = ThreadLocalRandom.current().nextDouble();
      health.restsUntilNanos = now + (long) (rest * (1 + jitter) / 2);
      health.failures = Math.min(health.failures + 1, FAILURES);
    }
    if (frontend == current) {
      current = nextAfter(frontend, now);
    }
    return healths.get(current).restNanos(now) == 0;
  }

  /** Returns the next that does not rest, or else the one that has rested most. */
  private Frontend nextAfter(Frontend frontend, long now) {
    List<Frontend> others = new ArrayList<>(order);
    Collections.rotate(others, -order.indexOf(frontend) - 1);
    return others.stream()
        .min(Comparator.comparingLong(each -> healths.get(each).restNanos(now)))
        .orElseThrow();
  }

  /**
   * Runs a task after a time, in which the frontend that comes next may connect.
   *
   * @return false where the client was closed, so that nothing will run
   */
  boolean after(Duration delay, Runnable task) {
    pick().wake();
    try {
      timer.schedule(task, delay.toNanos(), TimeUnit.NANOSECONDS);
      return true;
    } catch (RejectedExecutionException closed) {
      return false;
    }
  }

  /** Closes all connections; calls that still run fail, and are not tried again. */
  void close() {
    timer.shutdown();
    order.forEach(Frontend::close);
  }

  /** What is known of one frontend. */
  private static final class Health {
    /** In a row. */
    private int failures;

    private long restsUntilNanos = System.nanoTime();

    long restNanos(long now) {
      return Math.max(restsUntilNanos - now, 0);
    }
  }
}
