package dev.tokenwire.client;

import static dev.tokenwire.client.ScriptedFrontend.accept;
import static dev.tokenwire.client.ScriptedFrontend.complete;
import static dev.tokenwire.client.ScriptedFrontend.delta;
import static dev.tokenwire.client.ScriptedFrontend.end;
import static dev.tokenwire.client.ScriptedFrontend.next;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.tokenwire.client.ScriptedFrontend.SessionCall;
import dev.tokenwire.frontend.v1.Accepted;
import dev.tokenwire.frontend.v1.Attach;
import dev.tokenwire.frontend.v1.AttachRequest;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.Draining;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.Open;
import dev.tokenwire.frontend.v1.Prompt;
import dev.tokenwire.frontend.v1.SessionEvent;
import io.grpc.Status;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(30)
class SessionTest {
  private ScriptedFrontend first;
  private ScriptedFrontend second;
  private TokenwireClient client;
  private Session session;

  @BeforeEach
  void start() throws Exception {
    first = new ScriptedFrontend();
    second = new ScriptedFrontend();
    client =
        TokenwireClient.builder(first.target(), second.target())
            .inOrder()
            .retry(RetryPolicy.DEFAULT.withFirstDelay(Duration.ofMillis(20)))
            .build();
    session = client.session();
  }

  @AfterEach
  void stop() throws Exception {
    session.close();
    client.close();
    first.close();
    second.close();
  }

  private static Generation prompt(String text) {
    return Generation.newBuilder().setPrompt(Prompt.newBuilder().setText(text)).build();
  }

  private static SessionEvent accepted(int id) {
    return SessionEvent.newBuilder().setId(id).setAccepted(accept("request-" + id)).build();
  }

  private static SessionEvent event(int id, Delta delta) {
    return SessionEvent.newBuilder().setId(id).setDelta(delta).build();
  }

  private static SessionEvent completed(int id) {
    return SessionEvent.newBuilder().setId(id).setCompleted(complete()).build();
  }

  private static String text(Iterable<Delta> deltas) {
    StringBuilder text = new StringBuilder();
    deltas.forEach(each -> text.append(each.getText()));
    return text.toString();
  }

  @Test
  void aBrokenSessionGoesOnWithWhatIsOpen() throws Exception {
    SessionGeneration begun = session.open(prompt("begun"));
    SessionGeneration ended = session.open(prompt("ended"));
    SessionGeneration cancelled = session.open(prompt("cancelled"));
    SessionGeneration untouched = session.open(prompt("untouched"));
    SessionCall call = next(first.sessions);
    for (int count = 0; count < 4; count++) {
      call.next();
    }
    cancelled.cancel();
    assertEquals(3, call.next().getCancel().getId());
    call.send(accepted(1), event(1, delta(0, 0, "one ")));
    call.send(accepted(2), event(2, delta(0, 0, "whole")), event(2, end(1, 5)), completed(2));
    call.answer().onError(Status.UNAVAILABLE.asException());

    SessionCall other = next(second.sessions);
    Map<String, Open> opened = new HashMap<>();
    for (int count = 0; count < 2; count++) {
      Open open = other.next().getOpen();
      opened.put(open.getGeneration().getPrompt().getText(), open);
    }
    Open again = opened.get("begun");
    assertEquals("request-1", again.getGeneration().getRequestId());
    assertEquals(List.of(0), again.getGeneration().getOutputSoFar(0).getTokenIdsList());
    Open anew = opened.get("untouched");
    assertEquals(0, anew.getGeneration().getOutputSoFarCount());
    int id = again.getId();
    other.send(accepted(id), event(id, delta(1, 4, "two")), event(id, end(2, 7)), completed(id));
    id = anew.getId();
    other.send(accepted(id), event(id, delta(0, 0, "late")), event(id, end(1, 4)), completed(id));

    assertEquals("one two", text(begun));
    assertEquals(1, begun.continued());
    assertEquals("whole", text(ended));
    assertEquals("", text(cancelled));
    assertEquals("late", text(untouched));
  }

  @Test
  void aSlowReaderHoldsUpNothingElse() throws Exception {
    Open frugal =
        Open.newBuilder().setGeneration(prompt("slow")).setCreditTokens(2).build();
    SessionGeneration slow = session.open(frugal);
    SessionGeneration fast = session.open(prompt("fast"));
    SessionCall call = next(first.sessions);
    assertEquals(2, call.next().getOpen().getCreditTokens());
    assertFalse(call.next().getOpen().hasCreditTokens());
    call.send(accepted(1), event(1, delta(0, 0, "a")), event(1, delta(1, 1, "b")));
    call.send(accepted(2), event(2, delta(0, 0, "done")), event(2, end(1, 4)), completed(2));
    assertEquals("done", text(fast));

    slow.grant(3);
    assertEquals(3, call.next().getCredits(0).getAmount());
    call.send(event(1, delta(2, 2, "c")));
    call.answer().onError(Status.UNAVAILABLE.asException());
    // Of five tokens that were granted three have come.
    SessionCall other = next(second.sessions);
    assertEquals(2, other.next().getOpen().getCreditTokens());
    other.send(accepted(1), event(1, end(3, 3)), completed(1));
    assertEquals("abc", text(slow));
    assertThrows(IllegalStateException.class, () -> fast.grant(1));
  }

  @Test
  void anErrorEndsItsGenerationAlone() throws Exception {
    SessionGeneration refused = session.open(prompt("refused"));
    SessionGeneration fine = session.open(prompt("fine"));
    SessionCall call = next(first.sessions);
    com.google.rpc.Status status =
        com.google.rpc.Status.newBuilder()
            .setCode(Status.Code.INVALID_ARGUMENT.value())
            .setMessage("bad")
            .build();
    call.send(SessionEvent.newBuilder().setId(1).setError(status).build());
    call.send(accepted(2), event(2, delta(0, 0, "fine")), event(2, end(1, 4)), completed(2));
    TokenwireException error = assertThrows(TokenwireException.class, () -> text(refused));
    assertEquals(Status.Code.INVALID_ARGUMENT, error.code());
    assertEquals("fine", text(fine));
  }

  @Test
  void whileAFrontendDrainsWhatIsNewGoesElsewhere() throws Exception {
    SessionGeneration old = session.open(prompt("old"));
    SessionCall call = next(first.sessions);
    call.send(
        accepted(1),
        SessionEvent.newBuilder().setDraining(Draining.getDefaultInstance()).build(),
        event(1, delta(0, 0, "old")));
    assertEquals("old", old.iterator().next().getText());
    SessionGeneration fresh = session.open(prompt("new"));
    SessionCall other = next(second.sessions);
    other.send(accepted(1), event(1, delta(0, 0, "new")), event(1, end(1, 3)), completed(1));
    assertEquals("new", text(fresh));
    call.send(event(1, delta(1, 3, "er")), event(1, end(2, 5)), completed(1));
    assertEquals("er", text(old));
    assertEquals(0, old.continued());
  }

  @Test
  void whatOutlivesItsCallIsAttachedAgainAndNotCancelled() throws Exception {
    AttachRequest request =
        AttachRequest.newBuilder().setResumeToken("token").addTokenOffsets(4).build();
    SessionGeneration attached =
        session.attach(
            Attach.newBuilder().setGeneration(request).setCreditMessages(3).build());
    SessionCall call = next(first.sessions);
    assertEquals(List.of(4), call.next().getAttaches(0).getGeneration().getTokenOffsetsList());
    Accepted accepted = accept("ours").toBuilder().setResumeToken("token").build();
    SessionEvent acceptance = SessionEvent.newBuilder().setId(1).setAccepted(accepted).build();
    call.send(acceptance, event(1, delta(4, 20, "five")));
    call.answer().onError(Status.UNAVAILABLE.asException());

    SessionCall other = next(second.sessions);
    Attach again = other.next().getAttaches(0);
    assertEquals(List.of(5), again.getGeneration().getTokenOffsetsList());
    assertEquals(2, again.getCreditMessages());
    // What the last delta had may come again.
    other.send(acceptance, event(1, delta(5, 20, "five six")));
    assertEquals("five", attached.iterator().next().getText());
    assertEquals(" six", attached.iterator().next().getText());
    session.close();
    assertTrue(other.commands().isEmpty());
  }

  @Test
  void aCancelBetweenTwoStreamsIsToldWithTheNext() throws Exception {
    SessionGeneration detached = session.open(prompt("detached"));
    SessionCall call = next(first.sessions);
    Accepted accepted = accept("ours").toBuilder().setResumeToken("token").build();
    SessionEvent acceptance = SessionEvent.newBuilder().setId(1).setAccepted(accepted).build();
    call.send(acceptance, event(1, delta(0, 0, "Hello")));
    assertEquals("Hello", detached.iterator().next().getText());
    call.answer().onError(Status.UNAVAILABLE.asException());
    detached.cancel();
    // Whether the cancel comes before the client hears of the break, or before it has reopened.
    SessionCall other = next(second.sessions);
    assertEquals("token", other.next().getAttaches(0).getGeneration().getResumeToken());
    assertEquals(1, other.next().getCancel().getId());
    other.send(acceptance, event(1, end(1, 5)), completed(1));
    assertEquals("", text(detached));
    assertEquals("Hello", detached.result().getSequences(0).getText());
  }

  @Test
  void closingCancelsWhatIsOpen() throws Exception {
    SessionGeneration open = session.open(prompt("open"));
    SessionCall call = next(first.sessions);
    call.next();
    session.close();
    assertEquals(1, call.next().getCancel().getId());
    assertEquals("", text(open));
    assertTrue(open.hasEnded());
    assertThrows(IllegalStateException.class, () -> session.open(prompt("late")));
  }
}
