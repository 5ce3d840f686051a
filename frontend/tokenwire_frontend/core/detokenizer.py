"""Incremental detokenisation: ids in as they come, text out as soon as it is certain.

The joined output equals what the tokenizer decodes from all ids at once, whatever the split. Three
things make that more than decoding each id alone:

* A character may span several ids. While the tail of the decoded text is U+FFFD it may still become
  a character, so that one U+FFFD is held back. (Under UTF-8's maximal-subpart replacement an
  unfinished character reads as exactly one U+FFFD, so what stands before it is final.)
* Some decoders treat the beginning of the text apart, such as by dropping a space there, so ids are
  decoded after others as context, and the context's text is cut off.
* Decoders with byte fallback replace each byte of a run of byte ids by U+FFFD when any of it is not
  UTF-8. So a run is held back until it ends or is known not to be UTF-8.

An id costs a bounded number of decodes of a bounded number of ids, whatever came before it. To that
end one thing is given up: a run of byte ids of which HELD_BYTES_LIMIT wait gives out its whole
characters. If a later byte shows that the run is not UTF-8, those characters stay, where the decode
of all ids would have U+FFFD in their place.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from tokenwire_frontend.core.token_texts import REPLACEMENT, Context, TokenTexts

SEED_IDS = 8
"""Prompt ids that give context to the first generated ones; a longer seed costs time at the first
token and changes nothing, since no decoder looks back further than the nearest visible id."""

HELD_IDS_LIMIT = 8
"""Ids decoded again while the tail stays unfinished; then the window is cut to HELD_IDS_KEPT."""

HELD_IDS_KEPT = 4
"""An unfinished UTF-8 character has at most 3 bytes, so at most 3 ids, and one more of context."""

HELD_BYTES_LIMIT = 64
"""Byte ids held back: a vocabulary's gaps are characters and short words, at most some 20
characters of 3 bytes."""


class Detokenizer:
    """Text of one sequence.

    Args:
        texts: the tokenizer's.
        seed: ids before the sequence, for context only: their text is never given out. A character
            that they leave unfinished and the sequence completes is.
    """

    __slots__ = ("_context_ids", "_emitted", "_run", "_seed_tail", "_window", "settled", "texts")

    def __init__(self, texts: TokenTexts, *, seed: Sequence[int] = ()) -> None:
        self.texts = texts
        """The tokenizer's."""
        self.settled = texts.context is Context.NOTHING
        """Nothing is held back, and where a text begins does not matter any more: `texts` alone
        answers, for ids of which it knows the text."""
        self._window: list[int] = []
        # Characters of the window's text that are given out already, or are the seed's.
        self._emitted = 0
        # Ids at the window's beginning that are context alone.
        self._context_ids = 0
        # The byte ids that came last.
        self._run: _ByteRun | None = None
        # Characters at the window's end that the seed left unfinished, read as U+FFFD.
        self._seed_tail = 0
        if self.settled and seed and texts[seed[-1]]:
            return  # it ends with a whole character, and what is before it does not matter
        for token_id in self._whole(seed[-SEED_IDS:]):
            self._step(token_id)
        if self._run is None:
            self._seed_tail = len(self.held())
        else:
            self._give_whole_characters(self._run)
            self._run.waiting = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes the next ids, at least one, and returns the text that has become certain."""
        if self.settled:
            if len(token_ids) == 1:
                text = self.texts[token_ids[0]]
                if text is not None:
                    return text
            else:
                texts = self.texts
                known = [text for token_id in token_ids if (text := texts[token_id]) is not None]
                if len(known) == len(token_ids):
                    return "".join(known)
        return "".join(map(self._step, token_ids))

    def held(self) -> str:
        """Returns the text that is held back: certain if the sequence ends here."""
        run = self._run
        if run is not None and not run.whole:
            return REPLACEMENT * run.waiting
        if self.settled or not self._window:
            return ""
        text = self.texts.decode(self._window)[self._emitted :]
        return text.removeprefix(REPLACEMENT * self._seed_tail) if run is None else text

    def _step(self, token_id: int) -> str:
        texts = self.texts
        text = texts[token_id]
        if text is not None and self.settled:
            return text
        if text == "" and texts.left_out(token_id):
            return ""
        byte = texts.byte_values.get(token_id)
        if byte is not None:
            return self._add_byte(token_id, byte)
        given = "" if self._run is None else self._end_run(self._run)
        if text is not None and self.settled:
            return given + text
        return given + self._decode_on(token_id)

    def _decode_on(self, token_id: int) -> str:
        """Returns what an id adds whose text depends on those before it."""
        texts, window = self.texts, self._unsettled_window()
        window.append(token_id)
        text = texts.decode(window)
        unfinished = texts.joins_bytes and text.endswith(REPLACEMENT)
        new = text[self._emitted : len(text) - unfinished]
        self._emitted = max(self._emitted, len(text) - unfinished)
        if self._seed_tail and new:
            # What the seed left unfinished stayed so: it is the prompt's, not the sequence's.
            new = new.removeprefix(REPLACEMENT * self._seed_tail)
            self._seed_tail = 0
        if unfinished:
            if len(window) > HELD_IDS_LIMIT:
                del window[:-HELD_IDS_KEPT]
                self._emitted = len(texts.decode(window)) - 1
        elif texts.context is Context.UNKNOWN:
            self._shrink(textless=not new)
        elif text:
            self.settled = True
        else:
            # At the beginning of a text, where nothing shows yet: what follows adds nothing.
            del window[HELD_IDS_LIMIT:]
        return new

    def _shrink(self, *, textless: bool) -> None:
        """Keeps of the window only what the next ids need as context."""
        window, decode = self._window, self.texts.decode
        if textless:
            if len(window) - self._context_ids > HELD_IDS_LIMIT:
                del window[self._context_ids : -HELD_IDS_KEPT]
                self._emitted = len(decode(window))
            return
        size = 1
        while size < len(window):
            text = decode(window[-size:])
            if text:
                del window[:-size]
                self._emitted = len(text)
                break
            size *= 2
        self._context_ids = len(window)

    def _unsettled_window(self) -> list[int]:
        """Returns the window, which begins with context for what is to be decoded next."""
        if self.settled:
            self.settled = False
            self._window = self.texts.anchor.copy()
            self._emitted = len(self.texts.anchor_text)
        return self._window

    # Byte fallback.

    def _add_byte(self, token_id: int, byte: int) -> str:
        window = self._unsettled_window()
        run = self._run
        if run is None:
            run = self._run = _ByteRun()
        run.add(byte)
        window.append(token_id)
        if run.broken:
            # The decoder has U+FFFD for each byte of such a run, whatever follows.
            del window[:-1]
            given = REPLACEMENT * run.waiting
            run.waiting = 0
            return given
        if run.waiting >= HELD_BYTES_LIMIT:
            return self._give_whole_characters(run)
        return ""

    def _end_run(self, run: _ByteRun) -> str:
        """Returns the text of a run of byte ids that has ended, as far as it was held back."""
        window, texts = self._window, self.texts
        self._run = None
        if run.whole:
            text = texts.decode(window)
            given = text[self._emitted :]
        else:
            del window[:-1]
            text = texts.decode(window)
            given = REPLACEMENT * run.waiting
        self._emitted = len(text)
        self.settled = text != "" and texts.context is Context.START
        self._context_ids = len(window)
        return given

    def _give_whole_characters(self, run: _ByteRun) -> str:
        """Returns the text of a run's whole characters, and keeps the last of them as context."""
        window, decode = self._window, self.texts.decode
        text = decode(window[: len(window) - run.unfinished])
        given = text[self._emitted :]
        if text:
            del window[: -len(text[-1].encode()) - run.unfinished]
            self._emitted = len(decode(window[: len(window) - run.unfinished]))
        run.waiting = run.unfinished
        return given

    def _whole(self, seed: Sequence[int]) -> Sequence[int]:
        """Returns the seed without the bytes at its beginning whose character began before it."""
        texts = self.texts
        for place, token_id in enumerate(seed):
            if texts[token_id] is not None or texts.byte_values.get(token_id, 0) & 0xC0 != 0x80:
                return seed[place:]
        return ()


_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class _ByteRun:
    """Byte ids in a row."""

    __slots__ = ("_utf8", "broken", "waiting")

    def __init__(self) -> None:
        self.broken = False
        """The bytes are not UTF-8, whatever follows."""
        self.waiting = 0
        """Bytes of the sequence whose text is held back."""
        self._utf8 = _Utf8Decoder()

    @property
    def unfinished(self) -> int:
        """Bytes at the end that are only the beginning of a character; 0 to 3."""
        return len(self._utf8.getstate()[0])

    @property
    def whole(self) -> bool:
        """Whether the bytes are UTF-8 if the run ends here."""
        return not (self.broken or self.unfinished)

    def add(self, byte: int) -> None:
        """Takes the next byte."""
        self.waiting += 1
        if not self.broken:
            try:
                self._utf8.decode(bytes((byte,)))
            except UnicodeDecodeError:
                self.broken = True
