"""The columns of a frame, taken piece by piece: whatever a frame holds, others run meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import repeat
from typing import TypeVar

from tokenwire.worker.v1 import execution_pb2

from tokenwire_frontend.core.logprobs import TokenLogprob
from tokenwire_frontend.workers import messages

PIECE = 256
"""Entries and ids that are taken before others may run: a few milliseconds at most, where each id
has as many alternatives as may be."""

ENTRY_IDS = 4
"""Ids of an entry that has no log probabilities, of which as many entries are a piece."""

SUMMED = 64 * 1024
"""Counts that are added up before others may run: about a millisecond."""

ItemT = TypeVar("ItemT")

Window = tuple[
    Sequence[int],
    Sequence[int],
    Sequence[int],
    Sequence[int],
    Iterable[Sequence[TokenLogprob]],
]
"""Entries: handles, sequences, counts, the ids of all of them, and log probabilities of each. An
entry of many ids is in several windows, a part in each."""


def pieces(items: Iterable[ItemT], take: Callable[[ItemT], None]) -> Iterator[None]:
    """Takes each item, and yields after it: it may begin or end a generation."""
    for item in items:
        take(item)
        yield


class Columns:
    """The entries of a frame that has more than one id of one sequence for each."""

    def __init__(self, frame: execution_pb2.ExchangeResponse) -> None:
        self._frame = frame
        self._logprobs: dict[int, Sequence[execution_pb2.TokenLogprob]] = {}

    def check(self) -> Generator[None, None, bool]:
        """Returns whether the columns go together; yields where others may run."""
        frame = self._frame
        entries, given = len(frame.handles), len(frame.counts)
        if len(frame.sequences) not in (0, entries) or given not in (0, entries):
            return False
        ids = 0 if given else entries
        for start in range(0, given, SUMMED):
            ids += sum(frame.counts[start : start + SUMMED])
            if start:
                yield
        yield from pieces(frame.logprobs, self._take_logprobs)
        return ids == len(frame.token_ids)

    def _take_logprobs(self, message: execution_pb2.EntryLogprobs) -> None:
        self._logprobs[message.entry] = message.tokens

    def windows(self) -> Iterator[Window]:
        """Yields the entries, in order; a window has so few that others may run after it."""
        frame, most_ids = self._frame, PIECE if self._logprobs else ENTRY_IDS * PIECE
        start = 0
        for first in range(0, len(frame.handles), PIECE):
            entries = slice(first, first + PIECE)
            handles = frame.handles[entries]
            sequences = frame.sequences[entries] or [0] * len(handles)
            counts = frame.counts[entries] or [1] * len(handles)
            ids = sum(counts)
            if ids <= most_ids:
                scores = self._scores(first, counts) if self._logprobs else repeat(())
                yield handles, sequences, counts, frame.token_ids[start : start + ids], scores
                start += ids
                continue
            for entry, count in enumerate(counts):
                for at in range(0, count or 1, PIECE):
                    run = min(PIECE, count - at)
                    yield (
                        handles[entry : entry + 1],
                        sequences[entry : entry + 1],
                        [run],
                        frame.token_ids[start : start + run],
                        [self._scores_of(first + entry, count, slice(at, at + run))],
                    )
                    start += run

    def _scores(self, first: int, counts: Sequence[int]) -> Iterator[Sequence[TokenLogprob]]:
        for entry, count in enumerate(counts, first):
            yield self._scores_of(entry, count, slice(None))

    def _scores_of(self, entry: int, count: int, part: slice) -> Sequence[TokenLogprob]:
        """Returns log probabilities of an entry; none where there is not one for each id."""
        tokens = self._logprobs.get(entry, ())
        return messages.token_logprobs(tokens[part]) if len(tokens) == count else ()
