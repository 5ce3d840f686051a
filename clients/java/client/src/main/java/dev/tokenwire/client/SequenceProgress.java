package dev.tokenwire.client;

import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.FinishReason;
import dev.tokenwire.frontend.v1.Sequence;
import dev.tokenwire.frontend.v1.SequenceEnd;
import dev.tokenwire.frontend.v1.SequenceSoFar;
import dev.tokenwire.frontend.v1.ToolCall;
import dev.tokenwire.frontend.v1.ToolCallDelta;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;

/** What has come of one sequence. */
final class SequenceProgress {
  private static final SequenceEnd CUT_SHORT =
      SequenceEnd.newBuilder().setReason(FinishReason.FINISH_REASON_CANCELLED).build();

  private final int begin;
  private int offset;
  private final Sequence.Builder tokens = Sequence.newBuilder();
  private final StringBuilder text = new StringBuilder();
  private final StringBuilder reasoning = new StringBuilder();
  private final Map<Integer, Call> calls = new TreeMap<>();
  // Stands until the service says otherwise: what never got an end was cut short by the caller.
  private SequenceEnd end = CUT_SHORT;
  private boolean ended;
  private Seam seam;

  /** @param begin ids before the first that comes */
  SequenceProgress(int begin) {
    this.begin = begin;
    this.offset = begin;
  }

  /** Returns the number of ids before the next. */
  int offset() {
    return offset;
  }

  boolean ended() {
    return ended;
  }

  boolean hasText() {
    return text.length() > 0;
  }

  /** Expects what follows what came, from another stream. */
  void reopen(boolean echoes) {
    Map<Integer, String> arguments =
        calls.entrySet().stream()
            .collect(
                Collectors.toMap(Map.Entry::getKey, each -> each.getValue().arguments.toString()));
    seam =
        new Seam(
            text.toString(), reasoning.toString(), arguments, offset == 0, echoes, begin == 0);
  }

  /**
   * Notes a delta, and returns it without what came before.
   *
   * @param hasIds whether ids come, so that their offsets have to meet
   */
  Delta take(Delta delta, boolean hasIds) throws Seam.GapException {
    Delta fresh = seam == null ? delta : seam.trim(delta);
    boolean fits =
        hasIds ? fresh.getTokenOffset() == offset : fresh.getTokenOffset() >= offset;
    if (!fits) {
      throw new Seam.GapException(
          "went on at token " + fresh.getTokenOffset() + " after " + offset + " tokens");
    }
    offset = fresh.getTokenOffset() + fresh.getTokenIdsCount();
    tokens.addAllTokenIds(fresh.getTokenIdsList()).addAllLogprobs(fresh.getLogprobsList());
    text.append(fresh.getText());
    reasoning.append(fresh.getReasoning());
    for (ToolCallDelta call : fresh.getToolCallsList()) {
      calls.computeIfAbsent(call.getIndex(), index -> new Call()).take(call);
    }
    if (fresh.hasEnd()) {
      end = fresh.getEnd();
      ended = true;
    }
    return fresh;
  }

  /** Ends it with what came, since its time budget is spent; returns the delta that says so. */
  Delta runOut(int index) {
    ended = true;
    end = SequenceEnd.newBuilder().setReason(FinishReason.FINISH_REASON_TIME_BUDGET).build();
    return Delta.newBuilder().setSequence(index).setTokenOffset(offset).setEnd(end).build();
  }

  SequenceSoFar soFar() {
    return SequenceSoFar.newBuilder()
        .addAllTokenIds(tokens.getTokenIdsList())
        .setEnded(ended)
        .build();
  }

  Sequence result() {
    Sequence.Builder result =
        tokens.clone().setText(text.toString()).setReasoning(reasoning.toString()).setEnd(end);
    calls.values().forEach(call -> result.addToolCalls(call.whole()));
    return result.build();
  }

  /** What has come of one tool call. */
  private static final class Call {
    private final ToolCall.Builder head = ToolCall.newBuilder();
    private final StringBuilder arguments = new StringBuilder();

    void take(ToolCallDelta delta) {
      if (!delta.getId().isEmpty()) {
        head.setId(delta.getId());
      }
      if (!delta.getName().isEmpty()) {
        head.setName(delta.getName());
      }
      arguments.append(delta.getArguments());
    }

    ToolCall whole() {
      return head.clone().setArguments(arguments.toString()).build();
    }
  }
}
