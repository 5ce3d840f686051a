package dev.tokenwire.client;

import dev.tokenwire.frontend.v1.Accepted;
import dev.tokenwire.frontend.v1.Completed;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.GenerateResponse;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.PromptLogprobs;
import dev.tokenwire.frontend.v1.SequenceSoFar;
import dev.tokenwire.frontend.v1.StreamContent;
import dev.tokenwire.frontend.v1.StreamOptions;
import dev.tokenwire.frontend.v1.TokenLogprob;
import dev.tokenwire.frontend.v1.Usage;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;

/** Puts a generation's events together, and checks that none is missing. */
final class Progress {
  private final Trace trace;
  private final boolean hasIds;
  private final boolean hasText;
  private final boolean echoes;
  private final SortedMap<Integer, SequenceProgress> sequences = new TreeMap<>();
  private final List<TokenLogprob> promptLogprobs = new ArrayList<>();
  private Accepted accepted;
  private Completed completed;
  private TokenwireException error;
  private int continued;
  private boolean cancelled;
  private boolean ended;

  /**
   * @param generation what was asked for; null where it was begun by another call
   * @param tokenOffsets ids of each sequence that the caller has already
   */
  Progress(Trace trace, Generation generation, StreamOptions stream, List<Integer> tokenOffsets) {
    this.trace = trace;
    hasIds = stream.getContent() != StreamContent.STREAM_CONTENT_TEXT;
    hasText = stream.getContent() != StreamContent.STREAM_CONTENT_IDS;
    echoes = generation == null || generation.getOutput().getEcho();
    for (int index = 0; index < tokenOffsets.size(); index++) {
      sequences.put(index, new SequenceProgress(tokenOffsets.get(index)));
    }
  }

  Accepted accepted() {
    return accepted;
  }

  /** Returns the request's trace id as far as it is known: the service's word, else the client's. */
  String traceId() {
    return accepted != null ? accepted.getTraceId() : trace.id();
  }

  /** Returns how often it went on from another stream. */
  int continued() {
    return continued;
  }

  void noteContinued() {
    continued++;
  }

  /** Whether nothing more comes. */
  boolean ended() {
    return ended;
  }

  void end() {
    ended = true;
  }

  /** Whether the caller has cancelled it. */
  boolean cancelled() {
    return cancelled;
  }

  void cancel() {
    cancelled = true;
  }

  /** Returns what it failed with; null where it has not. */
  TokenwireException error() {
    return error;
  }

  /** Notes that the generation failed. */
  void fail(TokenwireException failure) {
    ended = true;
    error = failure;
  }

  void take(Accepted message) {
    accepted = message;
  }

  void take(Completed message) {
    completed = message;
  }

  void take(PromptLogprobs message) {
    if (message.getTokenOffset() != promptLogprobs.size()) {
      throw gap(
          "the prompt went on at token "
              + message.getTokenOffset()
              + " after "
              + promptLogprobs.size());
    }
    promptLogprobs.addAll(message.getTokensList());
  }

  /** Notes new tokens or text, and returns what of them is new; throws on a gap. */
  Delta take(Delta message) {
    int index = message.getSequence();
    SequenceProgress sequence = sequences.computeIfAbsent(index, any -> fresh());
    try {
      return sequence.take(message, hasIds);
    } catch (Seam.GapException fault) {
      throw gap("sequence " + index + ": " + fault.getMessage());
    }
  }

  private SequenceProgress fresh() {
    SequenceProgress sequence = new SequenceProgress(0);
    if (!hasIds) {
      // Which only the text's own offsets can check.
      sequence.reopen(echoes);
    }
    return sequence;
  }

  private TokenwireException gap(String message) {
    return TokenwireException.own(Status.Code.INTERNAL, "STREAM_GAP", message, traceId());
  }

  /** Whether its stream brought it to its end. */
  boolean isWhole() {
    return completed != null || cancelled;
  }

  // How it goes on from another stream.

  boolean hasIds() {
    return hasIds;
  }

  /** Whether ids have come, or text of which the ids do not, or an end. */
  boolean hasBegun() {
    return sequences.values().stream()
        .anyMatch(each -> each.offset() > 0 || each.ended() || (each.hasText() && !hasIds));
  }

  /** Returns what there is of so many sequences. */
  List<SequenceSoFar> soFar(int count) {
    List<SequenceSoFar> all = new ArrayList<>();
    for (int index = 0; index < count; index++) {
      SequenceProgress sequence = sequences.get(index);
      all.add(sequence == null ? SequenceSoFar.getDefaultInstance() : sequence.soFar());
    }
    return all;
  }

  /** Returns how many ids of each sequence are known, up to the last of which any are. */
  List<Integer> tokenOffsets() {
    List<Integer> offsets = new ArrayList<>();
    int count = sequences.isEmpty() ? 0 : sequences.lastKey() + 1;
    for (int index = 0; index < count; index++) {
      SequenceProgress sequence = sequences.get(index);
      offsets.add(sequence == null ? 0 : sequence.offset());
    }
    return offsets;
  }

  /** Expects what follows what came, from another stream. */
  void reopen() {
    if (!hasBegun()) {
      promptLogprobs.clear();
    }
    if (hasText) {
      sequences.values().forEach(each -> each.reopen(echoes));
    }
  }

  /** Ends the generation if of so many sequences only the figures are missing. */
  boolean conclude(int count) {
    if (sequences.values().stream().filter(SequenceProgress::ended).count() < count) {
      return false;
    }
    completed = Completed.newBuilder().setUsage(counted()).build();
    ended = true;
    return true;
  }

  /** Ends the generation with what came, since its time budget is spent; returns the last deltas. */
  List<Delta> runOut(int count) {
    List<Delta> last = new ArrayList<>();
    for (int index = 0; index < count; index++) {
      SequenceProgress sequence =
          sequences.computeIfAbsent(index, any -> new SequenceProgress(0));
      if (!sequence.ended()) {
        last.add(sequence.runOut(index));
      }
    }
    conclude(count);
    return last;
  }

  /** Returns the whole generation, or what came of it where it was cancelled. */
  GenerateResponse result() {
    GenerateResponse.Builder result =
        GenerateResponse.newBuilder().setTraceId(traceId()).addAllPromptLogprobs(promptLogprobs);
    sequences.values().forEach(each -> result.addSequences(each.result()));
    if (accepted != null) {
      result.setRequestId(accepted.getRequestId());
      if (accepted.hasConversation()) {
        result.setConversation(accepted.getConversation());
      }
    }
    if (completed == null) {
      return result.setUsage(counted()).build();
    }
    return result
        .setUsage(completed.getUsage())
        .setTimings(completed.getTimings())
        .addAllAttempts(completed.getAttemptsList())
        .build();
  }

  private Usage counted() {
    int completion = sequences.values().stream().mapToInt(SequenceProgress::offset).sum();
    int prompt = accepted == null ? 0 : accepted.getPromptTokenCount();
    return Usage.newBuilder().setPromptTokens(prompt).setCompletionTokens(completion).build();
  }
}
