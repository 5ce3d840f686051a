package dev.tokenwire.client;

import dev.tokenwire.frontend.v1.Accepted;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.GenerateResponse;
import io.grpc.Status;
import java.time.Duration;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.function.Supplier;

/**
 * The deltas of one generation, in order, each once.
 *
 * <p>One thread reads; any thread may cancel. Closing the stream stops the engine; a generation that
 * was begun with {@code ON_DISCONNECT_DETACH} goes on.
 */
public class GenerationStream implements Iterable<Delta>, AutoCloseable {
  private final GenerationRun run;

  GenerationStream(GenerationRun run) {
    this.run = run;
  }

  /**
   * Returns the deltas that have not been read yet. The iterator waits for the next; it ends with
   * the generation, and throws {@link TokenwireException} where that fails.
   */
  @Override
  public Iterator<Delta> iterator() {
    return new Deltas();
  }

  /**
   * Returns the next delta; empty where none came in time, and where {@link #hasEnded()}.
   *
   * @throws TokenwireException the generation failed
   */
  public Optional<Delta> poll(Duration timeout) throws InterruptedException {
    return Optional.ofNullable(run.poll(timeout.toNanos()));
  }

  /** Whether every delta was read, and no more comes. */
  public boolean hasEnded() {
    return run.hasEnded();
  }

  /** Returns the request's id, prompt length and so on; empty until a worker took the request. */
  public Optional<Accepted> accepted() {
    return locked(() -> Optional.ofNullable(run.progress.accepted()));
  }

  /** Returns the trace id, by which the services' logs and traces name the request. */
  public String traceId() {
    return locked(run.progress::traceId);
  }

  /** Returns how often the client continued the generation on another stream. */
  public int continued() {
    return locked(run.progress::continued);
  }

  /**
   * Returns the whole generation, once it has ended. After {@link #cancel()} it holds what had come;
   * a sequence without an end of its own then has {@code FINISH_REASON_CANCELLED}.
   *
   * @throws TokenwireException the generation failed
   * @throws IllegalStateException it has not ended yet
   */
  public GenerateResponse result() {
    return locked(
        () -> {
          if (run.progress.error() != null) {
            throw run.progress.error();
          }
          if (!run.progress.ended()) {
            throw new IllegalStateException("the generation has not ended; read it first");
          }
          return run.progress.result();
        });
  }

  /** Stops the generation; what had come can still be read. Nothing happens where it has ended. */
  public void cancel() {
    run.cancel();
  }

  /** Takes no more of the generation, and stops it unless it outlives its call. */
  @Override
  public void close() {
    run.letGo();
  }

  private <T> T locked(Supplier<T> read) {
    run.lock.lock();
    try {
      return read.get();
    } finally {
      run.lock.unlock();
    }
  }

  private final class Deltas implements Iterator<Delta> {
    private Delta next;

    @Override
    public boolean hasNext() {
      if (next == null) {
        try {
          next = run.poll(Long.MAX_VALUE);
        } catch (InterruptedException interrupted) {
          Thread.currentThread().interrupt();
          throw TokenwireException.own(
              Status.Code.CANCELLED, "INTERRUPTED", "the thread was interrupted", traceId());
        }
      }
      return next != null;
    }

    @Override
    public Delta next() {
      if (!hasNext()) {
        throw new NoSuchElementException();
      }
      Delta read = next;
      next = null;
      return read;
    }
  }
}
