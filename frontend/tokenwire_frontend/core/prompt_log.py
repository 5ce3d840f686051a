"""Log probabilities of a generation's prompt, until every client has them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenwire_frontend.core.logprobs import Logprobs, TokenLogprob

PART_BYTES = 32
"""Most bytes of a part on the wire besides its tokens: an offset, tags, and lengths of the messages
around it."""


@dataclass(frozen=True, slots=True)
class PromptPart:
    """The next of a prompt's log probabilities."""

    token_offset: int
    """Tokens of the prompt before these."""
    logprobs: list[TokenLogprob]
    token_bytes: Mapping[int, bytes]
    """Bytes of each id that `logprobs` name."""
    wire_bytes: int
    """Most bytes of it on the wire."""
    partial: bool
    """More was there, and did not fit."""


class PromptLog:
    """What a worker has told of a prompt. It comes before the generation's tokens, and all at once.

    Args:
        token_bytes: the bytes of each id.
    """

    __slots__ = ("_dropped", "_logprobs")

    def __init__(self, token_bytes: Mapping[int, bytes]) -> None:
        self._logprobs = Logprobs(token_bytes)
        self._dropped = 0

    @property
    def token_count(self) -> int:
        """Tokens of the prompt that the worker has told of."""
        return self._dropped + len(self._logprobs)

    @property
    def bytes_held(self) -> int:
        """Bytes in memory."""
        return self._logprobs.bytes_held

    @property
    def wire_bytes(self) -> int:
        """Most bytes on the wire of all that came."""
        return PART_BYTES + self._logprobs.wire_bytes

    def unread_bytes(self, token: int) -> int:
        """Returns the most bytes on the wire of what comes after so many tokens."""
        return self._logprobs.wire_bytes - self._logprobs.wire_end(token - self._dropped)

    def append(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Adds those of the next tokens."""
        self._logprobs.extend(logprobs)

    def slice(self, token: int, max_bytes: int) -> PromptPart | None:
        """Returns what comes after so many tokens; None where there is nothing.

        Args:
            token: tokens that the reader has; not before what was trimmed.
            max_bytes: most bytes of the part on the wire; one token comes in any case.
        """
        values, first = self._logprobs, token - self._dropped
        if first >= len(values):
            return None
        before = values.wire_end(first)
        room = before + max_bytes - PART_BYTES
        places = range(first + 1, len(values) + 1)
        end = first + max(bisect_right(places, room, key=values.wire_end), 1)
        return PromptPart(
            token,
            values.part(first, end),
            values.token_bytes,
            PART_BYTES + values.wire_end(end) - before,
            partial=end < len(values),
        )

    def trim(self, token: int) -> None:
        """Drops the first so many tokens."""
        self._logprobs.drop(token - self._dropped)
        self._dropped = token
