package dev.tokenwire.client;

import dev.tokenwire.frontend.v1.GenerationServiceGrpc;
import dev.tokenwire.frontend.v1.SessionEvent;
import dev.tokenwire.frontend.v1.SessionRequest;
import dev.tokenwire.frontend.v1.SessionResponse;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.locks.ReentrantLock;

/** One stream of a session: what is sent on it, and which generations are open there. */
final class Link {
  /** What a session does with what its streams bring; called under the session's lock. */
  interface Receiver {
    void take(Link link, SessionEvent event);

    /** @param error what the stream failed with; null where it ended with OK */
    void closed(Link link, TokenwireException error);
  }

  final Frontend frontend;
  private final Trace trace = new Trace();
  private final ReentrantLock lock;
  private final Receiver receiver;
  private final ClientCall<SessionRequest, SessionResponse> call;
  private final Map<Integer, SessionRun> open = new HashMap<>();
  private int lastId;
  private boolean isLeft;
  private boolean isFinished;

  /** Opens the stream. */
  Link(Frontend frontend, ReentrantLock lock, Receiver receiver) {
    this.frontend = frontend;
    this.lock = lock;
    this.receiver = receiver;
    frontend.wake();
    call =
        frontend
            .channel()
            .newCall(GenerationServiceGrpc.getSessionMethod(), trace.join(CallOptions.DEFAULT));
    call.start(new Listener(), new Metadata());
    // The reader never waits: a generation that is to wait for its reader has credit.
    call.request(Integer.MAX_VALUE);
  }

  String traceId() {
    return trace.id();
  }

  /** Returns the number of one more generation. */
  int add(SessionRun run) {
    // Ascending, so that a cancel that crossed a generation's end never meets the next one. Numbers
    // are unsigned; 0 is none.
    do {
      lastId = lastId == -1 ? 1 : lastId + 1;
    } while (open.containsKey(lastId));
    open.put(lastId, run);
    return lastId;
  }

  SessionRun get(int id) {
    return open.get(id);
  }

  List<SessionRun> runs() {
    return new ArrayList<>(open.values());
  }

  /** Notes that a number is free again. */
  void remove(int id) {
    open.remove(id);
    finishOnceEmpty();
  }

  /** Sends a command, after those before it. */
  void send(SessionRequest command) {
    if (!isFinished) {
      call.sendMessage(command);
    }
  }

  /** Notes that nothing more will be opened: the stream ends when nothing is open. */
  void leave() {
    isLeft = true;
    finishOnceEmpty();
  }

  private void finishOnceEmpty() {
    if (isLeft && open.isEmpty()) {
      finish();
    }
  }

  /** Ends the sending side. */
  void finish() {
    if (!isFinished) {
      isFinished = true;
      call.halfClose();
    }
  }

  void cut() {
    call.cancel("the session has ended", null);
  }

  private final class Listener extends ClientCall.Listener<SessionResponse> {
    @Override
    public void onMessage(SessionResponse response) {
      lock.lock();
      try {
        for (SessionEvent event : response.getEventsList()) {
          receiver.take(Link.this, event);
        }
      } finally {
        lock.unlock();
      }
    }

    @Override
    public void onClose(Status status, Metadata trailers) {
      lock.lock();
      try {
        isFinished = true;
        receiver.closed(
            Link.this, status.isOk() ? null : TokenwireException.of(status, trailers, traceId()));
      } finally {
        lock.unlock();
      }
    }
  }
}
