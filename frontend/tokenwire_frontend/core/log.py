"""What one sequence has brought so far, and deltas cut from it for any number of readers.

The log is written once, by the sequence's decoder. Each reader owns a cursor into it, and a delta
is made when the reader's transport can take one, so that what waits is never kept twice. Token ids
stay to the end, since whoever holds them can continue the sequence; text and log probabilities are
dropped once every reader has them.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from tokenwire_frontend.core.channels import CallDelta, Channel, Piece, Runs
from tokenwire_frontend.core.fast_path import ID_BYTES, TRIM_BYTES, Columns, Cursor
from tokenwire_frontend.core.logprobs import TOKEN_WIRE_BYTES, Logprobs, TokenLogprob
from tokenwire_frontend.core.token_bytes import NO_BYTES

DELTA_BYTES = 128
"""Most bytes of a delta besides ids, text, log probabilities and a stop string: numbers, tags and
lengths of nine fields, of a call that began before, and of the messages around them."""

NO_LOGPROBS = Logprobs()
"""Of a sequence that has none."""


class Finish(Enum):
    """Why a sequence ended."""

    UNSPECIFIED = "unspecified"
    """The worker gave a reason that this frontend does not know."""
    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    """As STOP, of a sequence that has called tools."""
    LENGTH = "length"
    TIME_BUDGET = "time_budget"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Its worker was lost, and no other can go on with exactly what was sent."""


@dataclass(frozen=True, slots=True)
class End:
    """How a sequence ended."""

    finish: Finish
    stop: str | None = None
    """The stop string that was found."""
    stop_token_id: int | None = None
    """The stop token that was generated, where it is not one of the model's own."""


@dataclass(slots=True)
class Delta:
    """What is new of one sequence."""

    sequence: int
    token_offset: int
    """Ids of the sequence before these."""
    text_offset: int
    """UTF-8 bytes of the sequence's own text before this one; an echoed prompt is not counted."""
    token_ids: Sequence[int]
    text: str
    logprobs: list[TokenLogprob]
    token_bytes: Mapping[int, bytes]
    """Bytes of each id that `logprobs` name."""
    end: End | None
    wire_bytes: int
    """Most bytes of it on the wire."""
    partial: bool
    """More was there, and did not fit."""
    reasoning: str = ""
    reasoning_offset: int = 0
    """UTF-8 bytes of the sequence's reasoning before this one."""
    calls: Sequence[CallDelta] = ()


class SequenceLog(Columns):
    """Ids, output and end of one sequence.

    The output is one stream of bytes, most often all of them text. Where reasoning and tool calls
    are told from it, they stand in it as they came, and `Runs` knows where.

    Args:
        index: which sequence of the generation, from 0.
        echo: UTF-8 text to put before the sequence's own.
        token_bytes: bytes of each id, which go with log probabilities.
    """

    __slots__ = (
        "_base_token", "_echo", "_logprobs", "_runs", "_scored", "_token_bytes", "end", "index",
        "resumed", "told",
    )  # fmt: skip

    def __init__(
        self, index: int, *, echo: bytes = b"", token_bytes: Mapping[int, bytes] = NO_BYTES
    ) -> None:
        super().__init__()
        self.index = index
        self.end: End | None = None
        self.resumed = 0
        """Ids that existed before this generation began: readers begin after them."""
        self.told = False
        """The end was told before this generation began."""
        self._echo = echo
        self._token_bytes = token_bytes
        self._logprobs = NO_LOGPROBS
        # Whether ids have log probabilities.
        self._scored = False
        self._runs: Runs | None = None
        # Where `text` and `_logprobs` begin.
        self.base_text = -len(echo)
        self._base_token = 0

    @property
    def token_count(self) -> int:
        """Ids so far."""
        return len(self.ids)

    @property
    def bytes_held(self) -> int:
        """Bytes of ids, output and log probabilities in memory."""
        text = len(self.text) + max(-self.base_text, 0)
        return 8 * len(self.ids) + text + self._logprobs.bytes_held

    @property
    def wire_bytes(self) -> int:
        """Most bytes of the whole sequence on the wire."""
        text = len(self._echo) + len(self.text)
        return DELTA_BYTES + len(self.ids) * ID_BYTES + self._logprobs.wire_bytes + text

    def start(self) -> Cursor:
        """Returns a new cursor at the oldest place that readers begin at, and that is there yet."""
        text = self.base_text
        if self.resumed:
            text = max(text, self.cut[self.resumed])
        return Cursor(self._base_token, text, self.told)

    def resume(self, *, ended: bool) -> None:
        """Makes what was written so far what every reader has already.

        Its text stays until it is trimmed: see `output`.

        Args:
            ended: they have the end, too.
        """
        if self.ids:
            self.resumed = self._base_token = len(self.ids)
            self._echo, self.base_text = b"", 0
        if ended:
            self.told = True
            self.close("", self.end or End(Finish.UNSPECIFIED))

    def after(self, token: int, *, ended: bool = False) -> Cursor:
        """Returns a new cursor after so many ids, with all text that was certain there.

        It is not before where the log starts; after none it is before an echoed prompt.

        Args:
            token: at most `token_count`.
            ended: after the end, if that has come.
        """
        if ended and self.end is not None:
            return Cursor(self.token_count, self._text_end(), ended=True)
        return self.start() if token <= self._base_token else Cursor(token, self.cut[token])

    # What the decoder writes.

    def append(
        self,
        token_ids: Sequence[int],
        text: str,
        logprobs: Sequence[TokenLogprob] = (),
        pieces: Sequence[Piece] = (),
    ) -> None:
        """Adds ids, at least one, and the output that is certain now, which may be none.

        It is either `text`, or `pieces` where more than text is told apart.

        Raises:
            ValueError: there is not one log probability for each id of the sequence.
        """
        ids, cut = self.ids, self.cut
        certain = self.certain
        if len(token_ids) == 1:
            ids.append(token_ids[0])
        else:
            ids.extend(token_ids)
            cut.extend([certain] * (len(token_ids) - 1))
        if text:
            raw = text.encode()
            self.text += raw
            certain += len(raw)
        elif pieces:
            certain += self._write(pieces)
        cut.append(certain)
        self.certain = certain
        if logprobs:
            if not self._scored:
                self._scored, self._logprobs = True, Logprobs(self._token_bytes)
                self.is_plain = False
            self._logprobs.extend(logprobs)
            if self._base_token + len(self._logprobs) != len(ids):
                raise ValueError("log probabilities came for some ids and not for others")

    def close(self, text: str, end: End, pieces: Sequence[Piece] = ()) -> None:
        """Ends the sequence with the output that was held back until now; see `append`."""
        self.text += text.encode()
        if pieces:
            self._write(pieces)
        self.end = end
        self.is_plain = False

    def seal(self) -> None:
        """Notes that its generation is over, with or without its own end."""
        self.is_plain = False

    def _write(self, pieces: Sequence[Piece]) -> int:
        """Adds output; returns its bytes."""
        began = self._text_end()
        for piece in pieces:
            raw = piece.encode()
            if self._runs is None and piece.channel is not Channel.TEXT:
                self._runs = Runs()
                self.is_plain = False
            if self._runs is not None:
                self._runs.add(piece, self._text_end(), len(raw))
            self.text += raw
        return self._text_end() - began

    # What readers take.

    def unread_bytes(self, cursor: Cursor) -> int:
        """Returns the most bytes on the wire of what is new after the cursor."""
        count = len(self.ids) - cursor.token
        return self._ids_bytes(cursor.token, count) + self._text_end() - cursor.text

    def slice(self, cursor: Cursor, max_bytes: int, max_tokens: int = sys.maxsize) -> Delta | None:
        """Returns what is new after the cursor and moves it there; None where nothing is.

        The delta has whole ids, with all the text that is certain after the last of them. Only an
        echoed prompt, the text of a single id, or what was held back to the end can be larger than
        the delta; then that text is split between characters and goes on in the next. One id comes
        in any case, whatever its log probabilities take.

        Args:
            cursor: the reader's; not before what was trimmed.
            max_bytes: most bytes of the delta on the wire; at least 8 KiB, for a stop string and
                one token's alternatives, unless their own bytes are many.
            max_tokens: most ids of the delta; 0 only where no id is new.
        """
        end, token, text = self.end, cursor.token, cursor.text
        count = len(self.ids) - token
        whole = self.cut[-1] if end is None else self._text_end()
        if not count and text == whole and (end is None or cursor.ended):
            return None
        wire_bytes = DELTA_BYTES
        if end is not None and end.stop is not None:
            wire_bytes += 4 * len(end.stop)
        partial = count > max_tokens
        if partial:
            count, whole, end = max_tokens, self.cut[token + max_tokens], None
        if wire_bytes + self._ids_bytes(token, count) + whole - text > max_bytes:
            least = self._ids_bytes(token, min(count, 1)) + 4
            count, whole = self._fitting(cursor, max(max_bytes - wire_bytes, least))
            partial = token + count < len(self.ids) or whole < self._text_end()
            if partial:
                end = None
        base = self.base_text
        if self._runs is not None:
            new = ""
        elif text >= base >= 0:
            new = self.text[text - base : whole - base].decode()
        else:
            new = self._raw(text, whole).decode()
        cursor.token, cursor.text, cursor.ended = token + count, whole, end is not None
        first = token - self._base_token
        delta = Delta(
            self.index,
            token,
            text if text > 0 else 0,
            self.ids[token : token + count],
            new,
            self._logprobs.part(first, first + count) if self._scored else [],
            self._token_bytes,
            end,
            wire_bytes + self._ids_bytes(token, count) + whole - text,
            partial,
        )
        if self._runs is not None:
            self._tell_apart(self._runs, delta, text, whole)
        return delta

    def whole(self) -> Delta:
        """Returns everything that was not dropped."""
        delta = self.slice(self.start(), sys.maxsize)
        return delta or Delta(
            self.index, 0, 0, [], "", [], {}, self.end, DELTA_BYTES, partial=False
        )

    def output(self) -> Delta | None:
        """Returns the sequence's whole output, an echoed prompt left out, if it has any.

        What it has of ids that existed before is in it, too. Nothing must have been trimmed.
        """
        return self.slice(Cursor(self._base_token), sys.maxsize)

    def _tell_apart(self, runs: Runs, delta: Delta, start: int, end: int) -> None:
        """Fills a delta with a part of an output that is not all text."""
        raw = self._raw(start, end)
        delta.text, delta.reasoning, delta.calls = runs.read(start, end, raw)
        delta.text_offset, delta.reasoning_offset = runs.offsets(start)

    def trim(self, slowest: Cursor) -> None:
        """Drops text and log probabilities before the slowest reader's cursor; ids stay."""
        text = slowest.text - self.base_text
        tokens = slowest.token - self._base_token if self._logprobs else 0
        if text + tokens * TOKEN_WIRE_BYTES < TRIM_BYTES:
            return
        if slowest.text >= 0:
            del self.text[: slowest.text - max(self.base_text, 0)]
            self._echo = b""
        else:
            self._echo = self._echo[text:]
        self._logprobs.drop(tokens)
        if self._runs is not None:
            self._runs.drop(slowest.text)
        self._base_token, self.base_text = slowest.token, slowest.text

    def _text_end(self) -> int:
        return max(self.base_text, 0) + len(self.text)

    def _ids_bytes(self, token: int, count: int) -> int:
        """Returns the most bytes on the wire of ids after a token, with their log probabilities."""
        if not self._scored:
            return count * ID_BYTES
        first, wire_end = token - self._base_token, self._logprobs.wire_end
        return count * ID_BYTES + wire_end(first + count) - wire_end(first)

    def _fitting(self, cursor: Cursor, room: int) -> tuple[int, int]:
        """Returns how many ids after the cursor fit, and up to where their text does."""
        token, text, cut = cursor.token, cursor.text, self.cut
        left = len(self.ids) - token
        count = bisect_right(
            range(1, left + 1),
            room,
            key=lambda n: self._ids_bytes(token, n) + cut[token + n] - text,
        )
        if not count and left and cut[token] == text:
            count = 1
        end = cut[token + count] if count < left else self._text_end()
        most = text + room - self._ids_bytes(token, count)
        return count, end if end <= most else self._between_characters(text, most)

    def _between_characters(self, start: int, end: int) -> int:
        """Returns the last place up to `end` that splits no character of the text."""
        tail = self._raw(max(start, end - 3), end + 1)
        back = len(tail) - 1
        while back and tail[back] & 0xC0 == 0x80:
            back -= 1
        return end - (len(tail) - 1 - back)

    def _raw(self, start: int, end: int) -> bytes | bytearray:
        if start >= 0:
            base = max(self.base_text, 0)
            return self.text[start - base : end - base]
        size = len(self._echo)
        echo = self._echo[size + start : size + min(end, 0)]
        return echo + self.text[:end] if end > 0 else echo
