"""What nearly every token goes through: from a worker's frame into a log, and on to a reader.

Everything here is done for each token, or for each delta. `fast_path.pxd` gives this module C types
where it is compiled; it means the same where it is not.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tokenwire_service.telemetry.metrics import Count

if TYPE_CHECKING:
    from tokenwire_frontend.core.decoder import SequenceDecoder

COMPILED = not __file__.endswith(".py")
"""Whether this is the compiled module."""

CHECK_TOKENS = 256
"""Tokens of a generation between two looks at how much of it waits for the client."""

ID_BYTES = 5
"""Most bytes of a token id on the wire: a varint of 32 bits."""

TRIM_BYTES = 4096
"""Text and log probabilities are dropped in steps of at least this, so that a reader which keeps
up pays for it once in some hundred tokens."""

Plain = tuple[int, int, Sequence[int], "bytes | bytearray"]
"""A delta of a lone sequence that has ids and text alone: token offset, text offset, the ids, and
the text in UTF-8."""


class TokenQuota:
    """How many tokens may still come of a generation, from one worker."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class Columns:
    """A sequence's ids and text."""

    __slots__ = ("_add_cut", "_add_id", "base_text", "certain", "cut", "ids", "is_plain", "text")

    def __init__(self) -> None:
        self.ids = array("I")
        """Every id so far."""
        self.cut = array("I", [0])
        """Bytes of text that are certain after so many ids: one entry more than ids."""
        self.certain = 0
        """The last of `cut`."""
        self.text = bytearray()
        """In UTF-8, from `base_text` on, or from 0 where that is below."""
        self.base_text = 0
        self.is_plain = True
        """A reader is given ids and text alone."""
        self._add_id, self._add_cut = self.ids.append, self.cut.append

    def append_one(self, token_id: int, raw: bytes) -> None:
        """Adds one id and its text in UTF-8, of a sequence without log probabilities."""
        self._add_id(token_id)
        if raw:
            self.text += raw
            self.certain += len(raw)
        self._add_cut(self.certain)

    def plain(self, cursor: Cursor, max_bytes: int) -> Plain | None:
        """Returns what is new after the cursor, and moves it there, where that is plain.

        None where nothing is new, or there is more to tell of it than ids and text.
        """
        if not self.is_plain:
            return None
        token, text = cursor.token, cursor.text
        ids, base, whole = self.ids, self.base_text, self.certain
        count = len(ids) - token
        if not count or not text >= base >= 0 or ID_BYTES * count + whole - text > max_bytes:
            return None
        cursor.token, cursor.text = token + count, whole
        told: Sequence[int] = (ids[token],) if count == 1 else ids[token:]
        return token, text, told, self.text[text - base : whole - base]


class Cursor:
    """How far one reader has come in one sequence."""

    __slots__ = ("ended", "text", "token")

    def __init__(self, token: int = 0, text: int = 0, ended: bool = False) -> None:
        self.token = token
        """Ids read."""
        self.text = text
        """Bytes of the sequence's own output read; below 0 within an echoed prompt before it."""
        self.ended = ended
        """The end was read."""


class Listener:
    """Is told when something is new.

    Args:
        on_news: called then; not again until it was taken.
    """

    __slots__ = ("at_once", "listens", "on_news")

    def __init__(self, on_news: Callable[[], None]) -> None:
        self.listens = False
        """Any news is of interest."""
        self.at_once = False
        """Then `on_news` is called, whatever is new."""
        self.on_news = on_news

    def wake(self, *, urgent: bool) -> None:  # noqa: ARG002 - who holds news back overrides it
        """Something is new.

        Args:
            urgent: not held back: an end, or a sequence's first tokens. Here nothing is.
        """
        if self.listens:
            self.listens = False
            self.on_news()


class Outlet(Listener):
    """Takes what is plain of one sequence."""

    __slots__ = ("_columns", "_cursor", "_deltas", "_part", "_untrimmed_bytes")

    def __init__(self, on_news: Callable[[], None]) -> None:
        super().__init__(on_news)
        self._columns: Columns | None = None
        # None: nothing is plain.
        self._cursor = Cursor()
        self._part: Callable[[Cursor, int], Plain | None] | None = None
        # Takes it where not all of it may be.
        self._deltas: Count
        self._untrimmed_bytes = 0

    def take_plain(self, max_bytes: int) -> Plain | None:
        """Returns what is new where that is one plain delta; else None, and takes nothing."""
        columns = self._columns
        if columns is None:
            return None
        if self._part is None:
            plain = columns.plain(self._cursor, max_bytes)
        else:
            plain = self._part(self._cursor, max_bytes)
        if plain is None:
            return None
        self._deltas.value += 1
        self._untrimmed_bytes += len(plain[3])
        if not self.at_once or self._untrimmed_bytes >= TRIM_BYTES:
            self.taken()
        self.listens = True
        return plain

    def taken(self) -> None:
        """Is called once something was, if it was not told at once or TRIM_BYTES have been."""


class Inbox:
    """What has news, in order of it.

    Args:
        on_first: called when there is something again.
    """

    __slots__ = ("_on_first", "told")

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.told: list[Any] = []
        self._on_first = on_first

    def add(self, told: Any) -> None:
        """Adds one."""
        if not self.told:
            self._on_first()
        self.told.append(told)


class Inlet:
    """Takes tokens without log probabilities from one call, once the generation's first has come.

    Args:
        quota: what the worker may still send.
        decoder: of the sequence.
        listener: whoever reads the sequence.
        output_tokens: counts tokens.
        on_stop: called when a token has ended the sequence.
        on_fault: called with what else the above raise.
    """

    __slots__ = (
        "_closed", "_columns", "_decoder", "_listener", "_on_stop", "_opened", "_quota", "_room",
        "_texts", "_unseen_ids", "came_s", "fault", "output_tokens",
    )  # fmt: skip

    def __init__(
        self,
        quota: TokenQuota,
        decoder: SequenceDecoder,
        listener: Listener,
        output_tokens: Count,
        on_stop: Callable[[], None],
        on_fault: Callable[[Exception], object],
    ) -> None:
        self.came_s = 0.0
        """time.monotonic() of the last token's frame."""
        self.fault = on_fault
        self._quota = quota
        self._decoder = decoder
        self._columns: Columns = decoder.log
        self._listener = listener
        self.output_tokens = output_tokens
        """To be added to by whoever gives tokens."""
        self._on_stop = on_stop
        self._unseen_ids = decoder.unseen_ids
        self._texts: list[bytes | None] = []
        # Texts of ids, where an id's text is all that the log is given; else empty.
        self._closed = False
        self._opened = self._room = 0
        # Tokens that may come before `open` is called again: at its last call, and now.

    def open(self) -> int:
        """Lets CHECK_TOKENS tokens come this way; returns how many have come since the last call.

        It is called after each that went the long way.
        """
        taken = self._opened - self._room
        if self._closed:
            self._opened = self._room = 0
        else:
            self._opened = self._room = CHECK_TOKENS
            self._texts = self._decoder.straight_texts
        return taken

    def close(self) -> None:
        """Lets no further token come this way."""
        self._closed = True
        self._opened -= self._room
        self._room = 0

    def take(self, token_id: int, came_s: float) -> bool:
        """Takes one id that is within the vocabulary.

        Returns False where it has to go the long way, having done nothing.
        """
        quota = self._quota
        if not self._room or quota.left < 1:
            return False
        quota.left -= 1
        self._room -= 1
        self.came_s = came_s
        texts = self._texts
        raw = texts[token_id] if token_id < len(texts) else None
        if raw is not None and token_id not in self._unseen_ids:
            self._columns.append_one(token_id, raw)
        elif self._decode(token_id):
            return True
        listener = self._listener
        if listener.listens:
            if listener.at_once:
                listener.listens = False
                listener.on_news()
            else:
                listener.wake(urgent=False)
        return True

    def _decode(self, token_id: int) -> bool:
        """Takes an id whose text is not all that counts; returns whether it ends the sequence."""
        stopped = self._decoder.push_one(token_id)
        self._texts = self._decoder.straight_texts
        if stopped:
            self._on_stop()
        return stopped


def take_tokens(
    inlets: dict[int, Inlet], handles: list[int], token_ids: list[int], came_s: float
) -> list[int]:
    """Gives each handle's inlet its id; returns the places of those that have to go the long way.

    Args:
        inlets: by handle.
        handles: whose the ids are; as many.
        token_ids: within the vocabulary.
        came_s: time.monotonic() of their frame.
    """
    left = []
    counted, tokens = None, 0
    for place in range(len(handles)):
        inlet = inlets.get(handles[place])
        if inlet is None:
            left.append(place)
            continue
        try:
            if not inlet.take(token_ids[place], came_s):
                left.append(place)
                continue
        except Exception as error:  # noqa: BLE001 - ends this generation alone
            inlet.fault(error)
            continue
        if inlet.output_tokens is not counted:  # most are of one model, and have one count
            if counted is not None:
                counted.value += tokens
            counted, tokens = inlet.output_tokens, 0
        tokens += 1
    if counted is not None:
        counted.value += tokens
    return left
