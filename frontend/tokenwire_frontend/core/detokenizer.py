"""Incremental detokenisation: ids in as they come, text out as soon as it is certain.

The joined output equals what the tokenizer decodes from all ids at once, whatever the split. Three
things make that more than decoding each id alone:

* A character may span several ids. While the tail of the decoded text is U+FFFD it may still become
  a character, so that one U+FFFD is held back. (Under UTF-8's maximal-subpart replacement an
  unfinished character reads as exactly one U+FFFD, so what stands before it is final.)
* Decoders of the SentencePiece kind drop the space before the first id they are given, so ids are
  decoded with those before them as context, and the context's text is cut off.
* Decoders with byte fallback replace a whole run of byte ids when any of it is no UTF-8, so a run
  is held back until it ends.

The window of ids decoded again at each step stays short, so a step costs the same however long the
sequence is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"

SEED_IDS = 8
"""Prompt ids that give context to the first generated ones; a longer seed costs time at the first
token and changes nothing, since no decoder looks back further than the nearest visible id."""

HELD_IDS_LIMIT = 16
"""Ids decoded again while the tail stays unfinished; then the window is cut to HELD_IDS_KEPT."""

HELD_IDS_KEPT = 4
"""An unfinished UTF-8 character has at most 3 bytes, so at most 3 ids, and one more of context."""

Decode = Callable[[Sequence[int]], str]


class Detokenizer:
    """Text of one sequence.

    Args:
        decode: the tokenizer's decode of a list of ids.
        seed: ids before the sequence, for context only: their text is never given out. A character
            that they leave unfinished and the sequence completes is.
        byte_ids: the ids of a byte-fallback vocabulary's `<0xNN>` tokens.
        context_free: no id's text depends on the ids before it, but for unfinished characters
            (byte-level vocabularies).
    """

    __slots__ = ("_byte_ids", "_context_free", "_decode", "_emitted", "_seed_tail", "_window")

    def __init__(
        self,
        decode: Decode,
        *,
        seed: Sequence[int] = (),
        byte_ids: frozenset[int] = frozenset(),
        context_free: bool = False,
    ) -> None:
        self._decode = decode
        self._byte_ids = byte_ids
        self._context_free = context_free
        self._window = list(seed[-SEED_IDS:])
        text = decode(self._window) if self._window else ""
        final = text.rstrip(REPLACEMENT)
        self._seed_tail = len(text) - len(final)
        # Characters of the window's text that are given out already, or are the seed's.
        self._emitted = len(final)

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes the next ids, at least one, and returns the text that has become certain."""
        window = self._window
        window.extend(token_ids)
        if self._byte_ids and window[-1] in self._byte_ids:
            return ""
        text = self._decode(window)
        if text.endswith(REPLACEMENT):
            new = self._advance(text, len(text) - 1)
            if len(window) > HELD_IDS_LIMIT:
                del window[:-HELD_IDS_KEPT]
                self._emitted = len(self._decode(window)) - 1
            return new
        new = self._advance(text, len(text))
        self._shrink()
        return new

    def held(self) -> str:
        """Returns the text that would be given out if the sequence ended here."""
        text = self._decode(self._window) if self._window else ""
        return text[self._emitted :].removeprefix(REPLACEMENT * self._seed_tail)

    def finish(self) -> str:
        """Returns the text still held back; the sequence has ended."""
        text = self.held()
        self._emitted += len(text)
        return text

    def _advance(self, text: str, end: int) -> str:
        new = text[self._emitted : end]
        self._emitted = max(self._emitted, end)
        if self._seed_tail and new:
            # What the seed left unfinished stayed so: it is the prompt's, not the sequence's.
            unfinished = REPLACEMENT * self._seed_tail
            self._seed_tail = 0
            new = new.removeprefix(unfinished)
        return new

    def _shrink(self) -> None:
        """Keeps of the window only what the next ids need as context."""
        if self._context_free:
            self._window.clear()
            self._emitted = 0
            return
        for size in range(1, len(self._window)):
            text = self._decode(self._window[-size:])
            if text:
                del self._window[:-size]
                self._emitted = len(text)
                return
