"""TensorRT-LLM's KV cache events as the port's.

Theirs are dicts of {event_id, window_size, data, attention_dp_rank?}. What is made of them:

    created   nothing; it tells the size of the cache
    stored    KvStored, of whole blocks; the last block of a sequence may be partly filled, and is
              known to nobody until it is full
    removed   KvRemoved, of the blocks that were told
    updated   nothing: a block that moved to host memory can still be reused

A gap in the ids means that the engine's buffer has overflowed: KvCleared, since what was lost can't
be known. A model with several attention windows has a cache for each, and only the widest, which
holds whole prompts, is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokenwire_worker.engines.port import KvCleared, KvEvent, KvRemoved, KvStored

_HASHES = 2**64


class KvEventReader:
    """Reads the events of one engine, in order."""

    def __init__(self, block_tokens: int) -> None:
        """Takes the tokens of a block."""
        self._block_tokens = block_tokens
        self._last_ids: dict[int, int] = {}
        """Last event id of each rank of attention data parallelism; without it, of rank 0."""
        self._window = 0
        self._untold: set[int] = set()
        """Hashes of blocks that were stored and not told; at most as many as the cache has."""

    def read(self, news: Any) -> list[KvEvent]:
        """Returns what an event, or a list of them, says."""
        events: list[KvEvent] = []
        for event in news if isinstance(news, list) else [news]:
            events += self._read_one(event)
        return events

    @property
    def has_read(self) -> bool:
        """Whether anything has been read since the count was last lost."""
        return bool(self._last_ids)

    def lose_count(self) -> KvCleared:
        """Returns the event after which whoever mirrors the cache starts over."""
        self._last_ids.clear()
        self._untold.clear()
        return KvCleared()

    def _read_one(self, event: Mapping[str, Any]) -> Iterator[KvEvent]:
        rank, event_id = event.get("attention_dp_rank") or 0, event["event_id"]
        last = self._last_ids.get(rank)
        if last is not None and event_id != last + 1:
            yield self.lose_count()
        self._last_ids[rank] = event_id
        window, data = event.get("window_size") or 0, event["data"]
        self._window = max(self._window, window)
        if window < self._window:
            return
        if data["type"] == "stored":
            yield from self._stored(data)
        elif data["type"] == "removed":
            yield from self._removed(data)

    def _stored(self, data: Mapping[str, Any]) -> Iterator[KvEvent]:
        hashes: list[int] = []
        token_ids: list[int] = []
        for block in data["blocks"]:
            tokens = block["tokens"]
            if len(tokens) != self._block_tokens:
                self._untold.add(block["block_hash"] % _HASHES)
                break  # blocks after it are its children
            hashes.append(block["block_hash"] % _HASHES)
            token_ids += [token["token_id"] for token in tokens]
        if hashes:
            self._untold.difference_update(hashes)
            yield KvStored((data["parent_hash"] or 0) % _HASHES, hashes, token_ids)

    def _removed(self, data: Mapping[str, Any]) -> Iterator[KvEvent]:
        hashes = [block_hash % _HASHES for block_hash in data["block_hashes"]]
        told = [block_hash for block_hash in hashes if block_hash not in self._untold]
        self._untold.difference_update(hashes)
        if told:
            yield KvRemoved(told)
