"""The short way of a token: from a worker's frame into the log of the only sequence."""

from __future__ import annotations

from collections.abc import Callable

from tokenwire_service.telemetry.metrics import Count

from tokenwire_frontend.core.call_order import CallOrder
from tokenwire_frontend.core.decoder import SequenceDecoder

CHECK_TOKENS = 256
"""Tokens of a generation between two looks at how much of it waits for the client."""


class Listener:
    """Is told of what is new in a log."""

    __slots__ = ("listens",)

    def __init__(self) -> None:
        self.listens = False
        """A token more is of interest."""

    def wake(self, *, urgent: bool) -> None:
        """Something is new.

        Args:
            urgent: told at once: an end, or a sequence's first tokens.
        """
        raise NotImplementedError


class Inlet:
    """Takes tokens without log probabilities from one call, once the generation's first has come.

    All that most tokens need is done here: they are counted, their text is looked up and written
    down, and whoever listens is told. So it holds the parts of the log themselves.

    Args:
        order: what the worker may still send.
        decoder: of the sequence.
        listener: whoever reads the sequence.
        output_tokens: counts tokens.
        on_stop: called when a token has ended the sequence.
        on_fault: called with what else the above raise.
    """

    __slots__ = (
        "_closed", "_cut", "_decoder", "_ids", "_listener", "_on_stop", "_opened", "_order",
        "_output_tokens", "_room", "_text", "_texts", "_unseen_ids", "came_s", "fault",
    )  # fmt: skip

    def __init__(
        self,
        order: CallOrder,
        decoder: SequenceDecoder,
        listener: Listener,
        output_tokens: Count,
        *,
        on_stop: Callable[[], None],
        on_fault: Callable[[Exception], object],
    ) -> None:
        self.came_s = 0.0
        """time.monotonic() of the last token's frame."""
        self.fault = on_fault
        self._order = order
        self._decoder = decoder
        self._listener = listener
        self._output_tokens = output_tokens
        self._on_stop = on_stop
        self._ids, self._cut, self._text = decoder.log.columns
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
        """Takes one id that is within the vocabulary. The hot path.

        Returns False where it has to go the long way, having done nothing.
        """
        order = self._order
        if not (self._room and order.left):
            return False
        order.left -= 1
        self._room -= 1
        self.came_s = came_s
        texts = self._texts
        raw = texts[token_id] if token_id < len(texts) else None
        if raw is None or token_id in self._unseen_ids:
            stopped = self._decoder.push_one(token_id)
            self._texts = self._decoder.straight_texts
            if stopped:
                self._output_tokens.value += 1
                self._on_stop()
                return True
        else:
            cut = self._cut
            self._ids.append(token_id)
            self._text += raw
            cut.append(cut[-1] + len(raw))
        self._output_tokens.value += 1
        listener = self._listener
        if listener.listens:
            listener.wake(urgent=False)
        return True
