package dev.tokenwire.client;

import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.FinishReason;
import dev.tokenwire.frontend.v1.Sequence;
import dev.tokenwire.frontend.v1.SequenceEnd;
import dev.tokenwire.frontend.v1.SequenceSoFar;
import dev.tokenwire.frontend.v1.ToolCall;
import dev.tokenwire.frontend.v1.ToolCallDelta;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.TreeMap;

/** What has come of one sequence. */
final class SequenceProgress {
  private static final SequenceEnd CUT_SHORT =
      SequenceEnd.newBuilder().setReason(FinishReason.FINISH_REASON_CANCELLED).build();

  private final int begin;
  private int offset;
  private final Sequence.Builder tokens = Sequence.newBuilder();
  private final Pieces text;
  private final Pieces reasoning;
  private final Map<Integer, Call> calls = new TreeMap<>();
  // Stands until the service says otherwise: what never got an end was cut short by the caller.
  private SequenceEnd end = CUT_SHORT;
  private boolean ended;
  private Seam seam;

  /** @param begin ids before the first that comes */
  SequenceProgress(int begin) {
    this.begin = begin;
    this.offset = begin;
    text = new Pieces(begin == 0);
    reasoning = new Pieces(begin == 0);
  }

  /** Returns the number of ids before the next. */
  int offset() {
    return offset;
  }

  boolean ended() {
    return ended;
  }

  boolean hasText() {
    return !text.isEmpty();
  }

  /** Expects what follows what came, from another stream. */
  void reopen(boolean echoes) {
    Map<Integer, Seam.Run> arguments = new TreeMap<>();
    calls.forEach((index, call) -> arguments.put(index, call.arguments.run()));
    // The offsets do not count a prompt that was echoed before the first id.
    boolean isCounted = begin > 0 || !echoes;
    seam =
        new Seam(
            isCounted ? text.run() : new Seam.Run(text.toString(), -1),
            reasoning.run(),
            arguments,
            offset == 0,
            begin == 0 ? Seam.Run.whole("") : Seam.Run.UNSEEN);
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
    text.append(fresh.getText(), fresh.getTextOffset());
    reasoning.append(fresh.getReasoning(), fresh.getReasoningOffset());
    for (ToolCallDelta call : fresh.getToolCallsList()) {
      calls.computeIfAbsent(call.getIndex(), index -> new Call(begin == 0)).take(call);
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

  /** A run of text, piece by piece. */
  private static final class Pieces {
    private final boolean isFromStart;
    private final StringBuilder joined = new StringBuilder();
    private String last = "";
    private long lastOffset;

    /** @param isFromStart what comes first is the run's first byte */
    Pieces(boolean isFromStart) {
      this.isFromStart = isFromStart;
    }

    void append(String piece, long offset) {
      if (!piece.isEmpty()) {
        joined.append(piece);
        last = piece;
        lastOffset = offset;
      }
    }

    boolean isEmpty() {
      return joined.isEmpty();
    }

    Seam.Run run() {
      if (isFromStart) {
        return Seam.Run.whole(toString());
      }
      long end = lastOffset + last.getBytes(StandardCharsets.UTF_8).length;
      return isEmpty() ? Seam.Run.UNSEEN : new Seam.Run(toString(), end);
    }

    @Override
    public String toString() {
      return joined.toString();
    }
  }

  /** What has come of one tool call. */
  private static final class Call {
    private final ToolCall.Builder head = ToolCall.newBuilder();
    private final Pieces arguments;

    Call(boolean isFromStart) {
      arguments = new Pieces(isFromStart);
    }

    void take(ToolCallDelta delta) {
      if (!delta.getId().isEmpty()) {
        head.setId(delta.getId());
      }
      if (!delta.getName().isEmpty()) {
        head.setName(delta.getName());
      }
      arguments.append(delta.getArguments(), delta.getArgumentsOffset());
    }

    ToolCall whole() {
      return head.clone().setArguments(arguments.toString()).build();
    }
  }
}
