package dev.tokenwire.client;

import com.google.protobuf.Message;
import dev.tokenwire.frontend.v1.Attach;
import dev.tokenwire.frontend.v1.AttachRequest;
import dev.tokenwire.frontend.v1.GenerateResponse;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.Open;
import dev.tokenwire.frontend.v1.SessionEvent;
import dev.tokenwire.frontend.v1.StreamOptions;
import dev.tokenwire.frontend.v1.TraceContext;
import io.grpc.Status;
import java.time.Duration;
import java.util.HashSet;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Function;

/**
 * Many generations on one stream; made by {@link TokenwireClient#session()}.
 *
 * <p>A generation that fails or is refused leaves the others alone, and so does one that nobody
 * reads: its deltas wait in a buffer of its own, which its credit bounds, or else what the
 * generation may produce. When the stream breaks, or its frontend is about to stop, the session
 * opens another stream: what is open is continued there, as {@link RetryPolicy} says. gRPC has no
 * deadline for one of a session's generations: use {@code time_budget}, or cancel.
 *
 * <p>Threads may share a session.
 */
public final class Session implements AutoCloseable {
  /** Time that a frontend has to end a stream after the client has; then it is cut off. */
  private static final Duration CLOSE_GRACE = Duration.ofSeconds(2);

  private final TokenwireClient client;
  private final Frontends frontends;
  private final ReentrantLock lock = new ReentrantLock();
  private final Condition streamEnded = lock.newCondition();
  private final Runnable connecting;
  private final Set<Link> links = new HashSet<>();
  private final Set<SessionRun> waiting = new HashSet<>();

  /** The stream that what is opened goes to; null: the next opens one. */
  private Link link;

  private boolean isOpen = true;

  /** @param surroundings makes of a task one that runs with the caller's contexts */
  Session(
      TokenwireClient client, Frontends frontends, Function<Runnable, Runnable> surroundings) {
    this.client = client;
    this.frontends = frontends;
    connecting = surroundings.apply(this::connect);
  }

  /** Opens a generation. */
  public SessionGeneration open(Generation generation) {
    return open(Open.newBuilder().setGeneration(generation).build());
  }

  /**
   * Opens a generation with options of its stream, and with credit: at 0 no more comes until {@link
   * SessionGeneration#grant} allows it.
   *
   * @param open its {@code id} is passed over: the session numbers its generations
   * @throws IllegalStateException the session was closed
   */
  public SessionGeneration open(Open open) {
    return new SessionGeneration(begin(open, null));
  }

  /**
   * Opens what follows of a generation that outlives its call. {@link SessionGeneration#cancel} ends
   * it; the session's end does not.
   *
   * @param attach its {@code id} is passed over
   */
  public SessionGeneration attach(Attach attach) {
    AttachRequest request = attach.getGeneration();
    TraceContext none = TraceContext.getDefaultInstance();
    Course course = course(request, request.getStream());
    SessionRun run =
        new SessionRun(lock, course, none, CreditLeft.of(attach), null);
    return new SessionGeneration(submit(run));
  }

  /** Returns the whole answer; cancelling the future stops the generation. */
  public CompletableFuture<GenerateResponse> generate(Generation generation) {
    CompletableFuture<GenerateResponse> answer = new CompletableFuture<>();
    Open open =
        Open.newBuilder()
            .setGeneration(generation)
            .setStream(TokenwireClient.WHOLE_ANSWER)
            .build();
    begin(open, answer);
    return answer;
  }

  private SessionRun begin(Open open, CompletableFuture<GenerateResponse> answer) {
    TraceContext context =
        open.hasTraceContext() ? open.getTraceContext() : client.currentTraceContext();
    Course course = course(open.getGeneration(), open.getStream());
    return submit(new SessionRun(lock, course, context, CreditLeft.of(open), answer));
  }

  private Course course(Message request, StreamOptions stream) {
    return client.course(request, stream, new Trace(), null);
  }

  private SessionRun submit(SessionRun run) {
    lock.lock();
    try {
      if (!isOpen) {
        throw new IllegalStateException("the session was closed");
      }
      openOnLink(run);
      return run;
    } finally {
      lock.unlock();
    }
  }

  private void openOnLink(SessionRun run) {
    if (link == null) {
      connecting.run();
    }
    run.openOn(link);
  }

  private void connect() {
    link = new Link(frontends.pick(), lock, new Streams());
    links.add(link);
  }

  /** Lets what is opened go to another stream; what is open on this one goes on there. */
  private void leave(Link left) {
    if (link == left) {
      link = null;
    }
    left.leave();
  }

  /** Opens a generation again for what has not come of it, or lets it end. */
  private void recover(SessionRun run, TokenwireException error, boolean elsewhere) {
    if (!isOpen) {
      run.breakOff(error);
      return;
    }
    Optional<Duration> delay = run.recover(error, elsewhere);
    if (delay.isPresent()) {
      waiting.add(run);
      if (!frontends.after(delay.get(), () -> reopen(run))) {
        waiting.remove(run);
        run.breakOff(error);
      }
    }
  }

  private void reopen(SessionRun run) {
    lock.lock();
    try {
      if (waiting.remove(run) && !run.progress.ended() && isOpen) {
        openOnLink(run);
      }
    } catch (RuntimeException failure) {
      // Of an interceptor: nobody else would hear of it.
      run.fail(TokenwireException.of(failure, run.progress.traceId()));
    } finally {
      lock.unlock();
    }
  }

  /**
   * Cancels what is open, unless it is to outlive the session, and ends the stream. It waits for the
   * frontend to end it, for at most 2 s.
   */
  @Override
  public void close() {
    lock.lock();
    try {
      if (!isOpen) {
        return;
      }
      isOpen = false;
      waiting.forEach(this::leaveOff);
      waiting.clear();
      for (Link each : links) {
        each.runs().stream().filter(run -> !run.isDetached()).forEach(SessionRun::cancel);
        each.finish();
      }
      awaitStreams();
      links.forEach(Link::cut);
    } finally {
      lock.unlock();
    }
  }

  /** Ends what is between two streams. */
  private void leaveOff(SessionRun run) {
    if (run.isDetached()) {
      run.breakOff(
          TokenwireException.own(
              Status.Code.CANCELLED, "SESSION_CLOSED", "the session was closed", run.progress.traceId()));
    } else {
      run.cancel();
    }
  }

  private void awaitStreams() {
    long left = CLOSE_GRACE.toNanos();
    try {
      while (!links.isEmpty() && left > 0) {
        left = streamEnded.awaitNanos(left);
      }
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  /** What the streams bring. */
  private final class Streams implements Link.Receiver {
    @Override
    public void take(Link from, SessionEvent event) {
      SessionRun run = from.get(event.getId());
      if (run == null) {
        if (event.hasDraining()) {
          leave(from);
          frontends.leave(from.frontend, draining(from));
        } else if (event.hasMove()) {
          leave(from);
        }
        return;
      }
      TokenwireException error = run.receive(event);
      if (event.hasAccepted()) {
        frontends.keep(from.frontend);
      } else if (error != null) {
        boolean elsewhere = frontends.leave(from.frontend, error);
        if (elsewhere || error.reason().equals("DRAINING")) {
          leave(from);
        }
        recover(run, error, elsewhere);
      }
    }

    @Override
    public void closed(Link from, TokenwireException error) {
      links.remove(from);
      if (link == from) {
        link = null;
      }
      // A stream that ends as it was asked to says nothing bad of its frontend.
      boolean elsewhere = error != null && frontends.leave(from.frontend, error);
      TokenwireException fault = error == null ? TokenwireException.cut(from.traceId()) : error;
      from.runs().forEach(run -> recover(run, fault, elsewhere));
      streamEnded.signalAll();
    }

    private TokenwireException draining(Link from) {
      return TokenwireException.own(
          Status.Code.UNAVAILABLE, "DRAINING", "the frontend drains", from.traceId());
    }
  }
}
