"""Numbers the KV cache's events and keeps the latest, so that a broken watch can be resumed.

Numbers run 1, 2, 3 and so on without a gap over the worker's life. A watch holds nothing of its
own: it reads on from a number, and one that is too slow finds that number gone and has to start
over.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tokenwire_worker.engines.port import KvCleared, KvEvent, KvRemoved, KvStored

KEPT_EVENTS = 65_536
"""Most events kept in a process: at 1,000 a second, which is a busy one, the last minute."""

KEPT_WORDS = 4_194_304
"""Most token ids and hashes of the kept events together: about 20 MiB."""


EVENT_WORDS = 65_536
"""Most token ids and hashes of one event, unless it is of one block: its message stays under 1 MiB,
at 10 bytes for each. An event of more is divided, each part the child of the one before."""


class NumberGoneError(LookupError):
    """A number that is no longer kept, or was never given out in this worker's life."""

    def __init__(self, number: int, oldest: int, next_number: int) -> None:
        super().__init__(f"event {number} is not within {oldest} to {next_number}")
        self.number = number
        self.oldest = oldest
        """First number that is kept; `next_number` where none is."""
        self.next_number = next_number
        """Number of the next event to come."""


class KvEventLog:
    """The latest events, by number."""

    def __init__(self, kept_events: int = KEPT_EVENTS, kept_words: int = KEPT_WORDS) -> None:
        """Starts empty, with the most events, and token ids and hashes in all, to keep."""
        self.next_number = 1
        """Number of the next event to come."""
        self._kept: deque[KvEvent] = deque()
        self._words = 0
        self._kept_events = kept_events
        self._kept_words = kept_words

    @property
    def oldest(self) -> int:
        """First number that is kept; `next_number` where none is."""
        return self.next_number - len(self._kept)

    def append(self, events: Iterable[KvEvent]) -> None:
        """Numbers events and keeps them, dropping the oldest where there are too many.

        Raises:
            Exception: one is not what the port has; those before it are kept.
        """
        kept = self._kept
        for event in events:
            for compact in _divided(_compact(event)):
                words = _words(compact)
                kept.append(compact)
                self._words += words
                self.next_number += 1
        # The last stays whatever its size, so that a watch always gets on.
        while len(kept) > self._kept_events or (self._words > self._kept_words and len(kept) > 1):
            self._words -= _words(kept.popleft())

    def batch(self, number: int, most_words: int) -> list[KvEvent]:
        """Returns the events from a number on, of so many words in all or one; none: it is next.

        Raises:
            NumberGoneError: it is not kept any more, or lies beyond the next.
        """
        events: list[KvEvent] = []
        words = 0
        while (event := self.get(number + len(events))) is not None:
            words += _words(event) + 1  # its number
            if events and words > most_words:
                break
            events.append(event)
        return events

    def get(self, number: int) -> KvEvent | None:
        """Returns an event, or None where it is the next to come.

        Raises:
            NumberGoneError: it is not kept any more, or lies beyond the next.
        """
        if not self.oldest <= number <= self.next_number:
            raise NumberGoneError(number, self.oldest, self.next_number)
        at = number - self.oldest
        return self._kept[at] if at < len(self._kept) else None


def _compact(event: KvEvent) -> KvEvent:
    """Returns the event in 4 bytes for each id and 8 for each hash; as lists they take 36."""
    if isinstance(event, KvStored):
        return replace(
            event,
            block_hashes=array("Q", event.block_hashes),
            token_ids=array("I", event.token_ids),
        )
    if isinstance(event, KvRemoved):
        return KvRemoved(array("Q", event.block_hashes))
    if isinstance(event, KvCleared):
        return event
    raise TypeError(f"{event!r} is no event of a KV cache")


def _divided(event: KvEvent) -> Iterator[KvEvent]:
    """Yields the event, in parts where it is large."""
    if isinstance(event, KvCleared) or _words(event) <= EVENT_WORDS:
        yield event
        return
    hashes = event.block_hashes
    if isinstance(event, KvRemoved):
        for at in range(0, len(hashes), EVENT_WORDS):
            yield KvRemoved(hashes[at : at + EVENT_WORDS])
        return
    tokens = len(event.token_ids) // len(hashes)
    blocks = max(EVENT_WORDS // (tokens + 1), 1)
    for at in range(0, len(hashes), blocks):
        yield replace(
            event,
            parent_hash=hashes[at - 1] if at else event.parent_hash,
            block_hashes=hashes[at : at + blocks],
            token_ids=event.token_ids[at * tokens : (at + blocks) * tokens],
        )


def _words(event: KvEvent) -> int:
    if isinstance(event, KvCleared):
        return 0
    words = len(event.block_hashes)
    return words + len(event.token_ids) if isinstance(event, KvStored) else words
