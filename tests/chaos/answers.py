"""What came of a generation, put together by hand, and how two answers compare."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenwire import Answer
from tokenwire.frontend.v1 import generation_pb2 as pb

LOGPROB_TOLERANCE = 1e-3
"""Between two runs of a float32 model whose batches differ."""

GAP_S = 0.25
"""Shorter gaps are those of a busy machine."""


class BrokenError(Exception):
    """The stream breaks the contract: a gap, a repeat, or an end that is missing."""


@dataclass(frozen=True)
class Told:
    """One sequence, whole."""

    text: str
    token_ids: tuple[int, ...]
    reasoning: str
    calls: tuple[tuple[str, str], ...]
    """Name and arguments of each tool call; ids of calls are made up by the frontend."""
    end: str
    logprobs: tuple[float, ...]

    def difference(self, other: Told) -> str:
        """Returns in which way another differs from this one, or an empty text."""
        for name in ("token_ids", "text", "reasoning", "calls", "end"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name}: {_first_difference(mine, theirs)}"
        if len(self.logprobs) != len(other.logprobs):
            return f"logprobs: {len(other.logprobs)} instead of {len(self.logprobs)}"
        for place, (mine, theirs) in enumerate(zip(self.logprobs, other.logprobs, strict=True)):
            if abs(mine - theirs) > LOGPROB_TOLERANCE:
                return f"logprobs: {theirs} instead of {mine} at {place}"
        return ""


def _first_difference(mine: Sequence[object], theirs: Sequence[object]) -> str:
    place = next(
        (at for at, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]),
        min(len(mine), len(theirs)),
    )
    ahead = max(place - 4, 0)
    return (
        f"{theirs[ahead : place + 12]!r} instead of {mine[ahead : place + 12]!r} at {place}, "
        f"{len(theirs)} long instead of {len(mine)}"
    )


def difference(expected: Sequence[Told], told: Sequence[Told]) -> str:
    """Returns in which way an answer differs from what is expected, or an empty text."""
    if len(expected) != len(told):
        return f"{len(told)} sequences instead of {len(expected)}"
    for index, (mine, theirs) in enumerate(zip(expected, told, strict=True)):
        if found := mine.difference(theirs):
            return f"sequence {index}: {found}"
    return ""


def told_of(answer: Answer) -> list[Told]:
    """Returns what the client's answer says."""
    return [
        Told(
            each.text,
            tuple(each.token_ids),
            each.reasoning,
            tuple((call.name, str(call.arguments)) for call in each.tool_calls),
            str(each.finish_reason),
            tuple(one.logprob for one in each.logprobs),
        )
        for each in answer.sequences
    ]


class Pace:
    """When a stream's deltas came.

    Args:
        limit: ends the request once nothing has come for `hung_s`.
        hung_s: time without a delta.
    """

    def __init__(self, limit: asyncio.Timeout, hung_s: float) -> None:
        self._limit = limit
        self._hung_s = hung_s
        self.begun_s = self._last_s = time.monotonic()
        self.first_s: float | None = None
        """Time until the first delta."""
        self.gaps: list[tuple[float, float]] = []
        """Begin and end of each wait of more than GAP_S between two deltas."""

    def tick(self) -> None:
        """Notes a delta."""
        now_s = time.monotonic()
        self._limit.reschedule(now_s + self._hung_s)
        if self.first_s is None:
            self.first_s = now_s - self.begun_s
        elif now_s - self._last_s > GAP_S:
            self.gaps.append((self._last_s, now_s))
        self._last_s = now_s


@dataclass
class _Part:
    """What has come of one sequence."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    reasoning: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    logprobs: list[float] = field(default_factory=list)
    end: pb.SequenceEnd | None = None


class Collected:
    """Events of one generation, of any number of calls that go on after one another."""

    def __init__(self, sequences: int, pace: Pace) -> None:
        self._parts = [_Part() for _ in range(sequences)]
        self._pace = pace
        self.accepted: pb.Accepted | None = None
        self.completed: pb.Completed | None = None
        self.attempts: list[pb.Attempt] = []

    def take(self, event: pb.StreamGenerateResponse | pb.AttachResponse) -> None:
        """Notes an event.

        Raises:
            BrokenError: it does not begin where the one before it ended.
        """
        if event.HasField("delta"):
            self._pace.tick()
            self._take_delta(event.delta)
        elif event.HasField("accepted"):
            self.accepted = event.accepted
        elif event.HasField("completed"):
            self.completed = event.completed
            self.attempts += event.completed.attempts

    def _take_delta(self, delta: pb.Delta) -> None:
        part = self._parts[delta.sequence]
        _check("token_offset", delta.token_offset, len(part.token_ids))
        come = part.text.encode()
        if delta.text_offset < len(come) and delta.HasField("end"):
            # Only the end may change text: what was held back of it then comes instead.
            part.text = come[: delta.text_offset].decode()
        else:
            _check("text_offset", delta.text_offset, len(come))
        _check("reasoning_offset", delta.reasoning_offset, len(part.reasoning.encode()))
        part.token_ids += delta.token_ids
        part.text += delta.text
        part.reasoning += delta.reasoning
        part.logprobs += [each.logprob for each in delta.logprobs]
        for call in delta.tool_calls:
            made = part.calls.setdefault(call.index, ["", ""])
            _check("arguments_offset", call.arguments_offset, len(made[1].encode()))
            made[0] += call.name
            made[1] += call.arguments
        if delta.HasField("end"):
            part.end = delta.end

    @property
    def trace_id(self) -> str:
        """Of the last call that was accepted; empty: none was."""
        return self.accepted.trace_id if self.accepted is not None else ""

    @property
    def token_offsets(self) -> list[int]:
        """Ids of each sequence that have come."""
        return [len(part.token_ids) for part in self._parts]

    def so_far(self) -> list[pb.SequenceSoFar]:
        """Returns what another frontend is told to go on after; empty where nothing has come.

        Text of a sequence without ids is sent again, so it is let go.
        """
        if not any(part.token_ids or part.end for part in self._parts):
            self._parts = [_Part() for _ in self._parts]
            return []
        for part in self._parts:
            if not part.token_ids and part.end is None:
                part.text = ""
        return [
            pb.SequenceSoFar(token_ids=part.token_ids, ended=part.end is not None)
            for part in self._parts
        ]

    def told(self) -> list[Told]:
        """Returns the whole answer.

        Raises:
            BrokenError: an end is missing.
        """
        if self.completed is None or any(part.end is None for part in self._parts):
            raise BrokenError("the stream ended before the generation did")
        return [
            Told(
                part.text,
                tuple(part.token_ids),
                part.reasoning,
                tuple((call[0], call[1]) for _, call in sorted(part.calls.items())),
                _end(part.end),
                tuple(part.logprobs),
            )
            for part in self._parts
        ]


def _check(field_name: str, offset: int, come: int) -> None:
    if offset != come:
        raise BrokenError(f"{field_name} is {offset} after {come}")


def _end(end: pb.SequenceEnd | None) -> str:
    assert end is not None
    return pb.FinishReason.Name(end.reason).removeprefix("FINISH_REASON_").lower()


def part_of(attempt: pb.Attempt) -> dict[str, Any]:
    """Returns a worker's part in a generation by the names that the client gives."""
    return {
        "worker": attempt.worker,
        "sequence": attempt.sequence,
        "token_offset": attempt.token_offset,
        "mode": pb.AttemptMode.Name(attempt.mode).removeprefix("ATTEMPT_MODE_").lower(),
        "left_because": attempt.left_because,
    }
