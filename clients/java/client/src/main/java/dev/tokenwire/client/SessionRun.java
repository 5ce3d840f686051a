package dev.tokenwire.client;

import com.google.protobuf.Message;
import dev.tokenwire.frontend.v1.Attach;
import dev.tokenwire.frontend.v1.AttachRequest;
import dev.tokenwire.frontend.v1.Cancel;
import dev.tokenwire.frontend.v1.Credit;
import dev.tokenwire.frontend.v1.GenerateResponse;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.Open;
import dev.tokenwire.frontend.v1.SessionEvent;
import dev.tokenwire.frontend.v1.SessionRequest;
import dev.tokenwire.frontend.v1.TraceContext;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.locks.ReentrantLock;

/** A generation of a session: what has come of it, and the stream that it is open on. */
final class SessionRun extends GenerationRun {
  private final TraceContext traceContext;
  private final CreditLeft credit;
  private Link link;
  private int id;

  /** @param lock the session's */
  SessionRun(
      ReentrantLock lock,
      Course course,
      TraceContext traceContext,
      CreditLeft credit,
      CompletableFuture<GenerateResponse> answer) {
    super(lock, course, answer);
    this.traceContext = traceContext;
    this.credit = credit;
  }

  /** Opens it on a stream, for all that has not come yet. */
  void openOn(Link on) {
    Message request;
    try {
      request = course.nextRequest();
    } catch (TokenwireException error) {
      fail(error);
      return;
    }
    link = on;
    id = on.add(this);
    SessionRequest.Builder command = SessionRequest.newBuilder();
    if (request instanceof AttachRequest attach) {
      command.addAttaches(attach(attach));
    } else {
      command.setOpen(open((Generation) request));
    }
    on.send(command.build());
    if (progress.cancelled()) {
      sendCancel();
    }
  }

  private Open open(Generation generation) {
    Open.Builder open =
        Open.newBuilder().setId(id).setGeneration(generation).setStream(course.stream());
    if (!traceContext.getTraceparent().isEmpty()) {
      open.setTraceContext(traceContext);
    }
    credit.putInto(open);
    return open.build();
  }

  private Attach attach(AttachRequest request) {
    Attach.Builder attach = Attach.newBuilder().setId(id).setGeneration(request);
    credit.putInto(attach);
    return attach.build();
  }

  /** Takes an event; returns what the stream's part of the generation failed with, or null. */
  TokenwireException receive(SessionEvent event) {
    if (event.hasError()) {
      // Before it was accepted, only the stream's own trace is known.
      String traceId = progress.traceId().isEmpty() ? link.traceId() : progress.traceId();
      close();
      return TokenwireException.of(event.getError(), traceId);
    }
    if (event.hasDelta() && progress.ended()) {
      return null; // Nobody wants it, and the cancel is on its way.
    }
    try {
      take(event);
    } catch (TokenwireException gap) {
      fail(gap);
      sendCancel();
      return null;
    }
    if (event.hasDelta()) {
      credit.use(event.getDelta());
    } else if (event.hasCompleted()) {
      close();
      end();
    }
    return null;
  }

  /** Returns how long to wait before it is opened again; empty where it has ended. */
  Optional<Duration> recover(TokenwireException error, boolean elsewhere) {
    link = null;
    if (progress.ended() || (progress.cancelled() && !isDetached())) {
      end();
      return Optional.empty();
    }
    Course.Recovery next = course.recover(error, elsewhere);
    if (next instanceof Course.Recovery.Reopen reopen) {
      return Optional.of(reopen.delay());
    }
    if (next instanceof Course.Recovery.Ended ended) {
      deliver(ended.last());
      settle();
    } else {
      fail(((Course.Recovery.Failed) next).error());
    }
    return Optional.empty();
  }

  /** Ends it because the session has ended. */
  void breakOff(TokenwireException error) {
    link = null;
    if (progress.cancelled()) {
      end();
    } else if (!progress.ended()) {
      fail(error);
    }
  }

  @Override
  void cancel() {
    lock.lock();
    try {
      if (progress.ended()) {
        return;
      }
      progress.cancel();
      if (link != null) {
        sendCancel();
      } else if (!isDetached()) {
        end();
      }
      // What outlives its streams goes on between two of them: it is told with the next one.
    } finally {
      lock.unlock();
    }
  }

  @Override
  void letGo() {
    lock.lock();
    try {
      if (progress.ended()) {
        return;
      }
      if (!isDetached()) {
        cancel();
      }
      progress.cancel();
      end();
    } finally {
      lock.unlock();
    }
  }

  /** Whether it outlives the session. */
  boolean isDetached() {
    return progress.accepted() != null && !progress.accepted().getResumeToken().isEmpty();
  }

  @Override
  void more() {
    // What may come is bounded by credit, which is the reader's to grant.
  }

  void grant(int amount) {
    lock.lock();
    try {
      credit.grant(amount);
      if (link != null) {
        Credit more = Credit.newBuilder().setId(id).setAmount(amount).build();
        link.send(SessionRequest.newBuilder().addCredits(more).build());
      }
    } finally {
      lock.unlock();
    }
  }

  private void sendCancel() {
    if (link != null) {
      Cancel cancel = Cancel.newBuilder().setId(id).build();
      link.send(SessionRequest.newBuilder().setCancel(cancel).build());
    }
  }

  /** Notes that its number on the stream is free again. */
  private void close() {
    if (link != null) {
      link.remove(id);
      link = null;
    }
  }
}
