package dev.tokenwire.client;

import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.GenerateResponse;
import dev.tokenwire.frontend.v1.SessionEvent;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;

/**
 * One generation between the stream that brings it and whoever reads it.
 *
 * <p>All of it is guarded by the lock. gRPC's threads take what comes, and never wait for a reader.
 */
abstract class GenerationRun {
  final ReentrantLock lock;
  final Course course;
  final Progress progress;
  private final Condition news;
  private final Deque<Delta> unread = new ArrayDeque<>();

  /** Where nobody reads deltas, but the whole answer is wanted; else null. */
  private final CompletableFuture<GenerateResponse> answer;

  /** @param answer completed with the whole answer, in place of deltas to read; null for deltas */
  GenerationRun(ReentrantLock lock, Course course, CompletableFuture<GenerateResponse> answer) {
    this.lock = lock;
    this.course = course;
    this.progress = course.progress();
    this.news = lock.newCondition();
    this.answer = answer;
    if (answer != null) {
      answer.whenComplete(
          (value, failure) -> {
            if (answer.isCancelled()) {
              letGo();
            }
          });
    }
  }

  /** Stops the generation; may be called by any thread. */
  abstract void cancel();

  /** Takes no more of it, and stops it unless it is to go on without a caller. */
  abstract void letGo();

  /** Lets more come, since a delta was read. */
  abstract void more();

  /**
   * Returns the next delta, or null where the time has passed or nothing more comes.
   *
   * @throws TokenwireException the generation failed
   */
  final Delta poll(long nanos) throws InterruptedException {
    lock.lockInterruptibly();
    try {
      long left = nanos;
      while (unread.isEmpty()) {
        if (progress.error() != null) {
          throw progress.error();
        }
        if (progress.ended() || left <= 0) {
          return null;
        }
        left = news.awaitNanos(left);
      }
      Delta delta = unread.remove();
      more();
      return delta;
    } finally {
      lock.unlock();
    }
  }

  final boolean hasEnded() {
    lock.lock();
    try {
      return progress.ended() && unread.isEmpty();
    } finally {
      lock.unlock();
    }
  }

  final int unreadCount() {
    return unread.size();
  }

  /** Takes what a stream brought, other than an error; throws on a gap. */
  final void take(SessionEvent event) {
    switch (event.getEventCase()) {
      case DELTA -> deliver(progress.take(event.getDelta()));
      case ACCEPTED -> progress.take(event.getAccepted());
      case COMPLETED -> progress.take(event.getCompleted());
      case PROMPT_LOGPROBS -> progress.take(event.getPromptLogprobs());
      default -> { } // what this version of the contract does not know
    }
    if (!event.hasDelta()) {
      course.hear();
    }
  }

  final void deliver(List<Delta> deltas) {
    deltas.forEach(this::deliver);
  }

  private void deliver(Delta delta) {
    if (answer == null) {
      unread.add(delta);
      news.signalAll();
    }
  }

  final void fail(TokenwireException error) {
    progress.fail(error);
    settle();
  }

  /** Ends it, with what came. */
  final void end() {
    progress.end();
    settle();
  }

  /** Tells whoever waits that the generation has ended. */
  final void settle() {
    news.signalAll();
    if (answer == null || answer.isDone()) {
      return;
    }
    TokenwireException error = progress.error();
    GenerateResponse whole = error == null ? progress.result() : null;
    // On another thread: what depends on the answer must not run under the lock.
    ForkJoinPool.commonPool()
        .execute(
            () -> {
              if (error == null) {
                answer.complete(whole);
              } else {
                answer.completeExceptionally(error);
              }
            });
  }
}
