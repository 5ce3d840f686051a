package dev.tokenwire.client;

import static java.nio.charset.StandardCharsets.UTF_8;

import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.ToolCallDelta;
import java.io.ByteArrayOutputStream;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

/**
 * Where a sequence's output goes on in another stream: nothing comes twice, nothing is missing.
 *
 * <p>The other frontend begins after the ids that it was given, with the text that is certain after
 * them. So the offsets most often meet exactly. What comes again is dropped if it is the same;
 * anything else is a fault that must not go unseen.
 */
final class Seam {
  /** What came of one run of text, and where its next byte goes; -1 where that is not known. */
  record Run(String came, long offset) {
    static final Run UNSEEN = new Run("", -1);

    /** Returns a run that came from its first byte on. */
    static Run whole(String came) {
      return new Run(came, came.getBytes(UTF_8).length);
    }
  }

  private final Run unseenCall;
  private final Place text;
  private final Place reasoning;
  private final Map<Integer, Place> calls = new HashMap<>();

  /**
   * @param arguments of each call, by the call's index
   * @param isRepeated the text comes again from its beginning, an echoed prompt included
   * @param unseenCall the arguments of a call that has not been seen
   */
  Seam(Run text, Run reasoning, Map<Integer, Run> arguments, boolean isRepeated, Run unseenCall) {
    this.unseenCall = unseenCall;
    this.text = new Place("text", text, isRepeated);
    this.reasoning = new Place("reasoning", reasoning, false);
    arguments.forEach((index, came) -> calls.put(index, call(index, came)));
  }

  /**
   * Returns a delta without what came before.
   *
   * @throws GapException something is missing before it, or what came again is not the same
   */
  Delta trim(Delta delta) throws GapException {
    Delta.Builder trimmed = delta.toBuilder();
    if (!delta.getText().isEmpty()) {
      Piece piece = text.fit(delta.getText(), delta.getTextOffset());
      trimmed.setText(piece.text).setTextOffset(piece.offset);
    }
    if (!delta.getReasoning().isEmpty()) {
      Piece piece = reasoning.fit(delta.getReasoning(), delta.getReasoningOffset());
      trimmed.setReasoning(piece.text).setReasoningOffset(piece.offset);
    }
    for (ToolCallDelta.Builder call : trimmed.getToolCallsBuilderList()) {
      Place place = calls.get(call.getIndex());
      if (place == null) {
        place = call(call.getIndex(), unseenCall);
        calls.put(call.getIndex(), place);
      } else if (!call.getId().isEmpty()) {
        throw new GapException("tool call " + call.getIndex() + " began again");
      }
      if (!call.getArguments().isEmpty()) {
        Piece piece = place.fit(call.getArguments(), call.getArgumentsOffset());
        call.setArguments(piece.text).setArgumentsOffset(piece.offset);
      }
    }
    return trimmed.build();
  }

  private static Place call(int index, Run arguments) {
    return new Place("tool call " + index, arguments, false);
  }

  /** What is new of a piece of text, and where it is in its run. */
  private record Piece(String text, long offset) {}

  /** How far one run of text has come, in UTF-8 bytes. */
  private static final class Place {
    private final String name;
    private final ByteArrayOutputStream came = new ByteArrayOutputStream();

    /** What is still to come again. */
    private byte[] again;

    /** -1: the next piece's own. */
    private long offset;

    Place(String name, Run run, boolean isRepeated) {
      this.name = name;
      byte[] bytes = run.came.getBytes(UTF_8);
      came.writeBytes(bytes);
      again = isRepeated ? bytes : new byte[0];
      offset = again.length == 0 ? run.offset : -1;
    }

    Piece fit(String piece, long pieceOffset) throws GapException {
      byte[] bytes = piece.getBytes(UTF_8);
      if (again.length > 0) {
        byte[] expected = Arrays.copyOf(again, Math.min(again.length, bytes.length));
        again = Arrays.copyOfRange(again, expected.length, again.length);
        byte[] fresh = after(expected, bytes);
        came.writeBytes(fresh);
        return new Piece(new String(fresh, UTF_8), pieceOffset);
      }
      if (offset < 0) {
        offset = pieceOffset;
      }
      long known = offset - pieceOffset;
      if (known < 0 || known > came.size()) {
        throw new GapException(
            name + " went on at byte " + pieceOffset + " after " + offset + " bytes");
      }
      if (known > 0) {
        byte[] all = came.toByteArray();
        int begin = all.length - (int) known;
        int end = Math.min(all.length, begin + bytes.length);
        bytes = after(Arrays.copyOfRange(all, begin, end), bytes);
      }
      long began = offset;
      came.writeBytes(bytes);
      offset += bytes.length;
      return new Piece(new String(bytes, UTF_8), began);
    }

    private byte[] after(byte[] expected, byte[] bytes) throws GapException {
      int cut = expected.length;
      boolean same = Arrays.equals(expected, 0, cut, bytes, 0, cut);
      // A cut within a character would not leave text.
      if (!same || (cut < bytes.length && (bytes[cut] & 0xC0) == 0x80)) {
        throw new GapException(name + " that came again is not the same");
      }
      return Arrays.copyOfRange(bytes, cut, bytes.length);
    }
  }

  /** Says what does not fit. */
  static final class GapException extends Exception {
    private static final long serialVersionUID = 1;

    GapException(String message) {
      super(message);
    }
  }
}
