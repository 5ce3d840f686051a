"""A paged KV cache: blocks in use, prefixes to reuse, and events."""

from __future__ import annotations

import zlib
from typing import Any

BLOCKS = 2048
"""Blocks where no setting bounds them, standing for what fits a GPU."""


class Cache:
    """Counts blocks, and knows which prompts it has seen."""

    def __init__(self, config: Any) -> None:
        self.block_tokens = config.tokens_per_block
        self.blocks = (config.max_tokens // self.block_tokens) if config.max_tokens else BLOCKS
        self._reuse = config.enable_block_reuse
        self._tells = self._reuse and config.event_buffer_max_size > 0
        self._used = 0
        self._known: dict[int, None] = {}
        self._events: list[dict[str, Any]] = []
        self._event_id = -1
        self._tell({"type": "created", "num_blocks_per_cache_level": [self.blocks, 0]})

    def blocks_of(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def take(self, blocks: int) -> bool:
        if self._used + blocks > self.blocks:
            return False
        self._used += blocks
        return True

    def give_back(self, blocks: int) -> None:
        self._used -= blocks

    def reusable(self, prompt: list[int], salt: str | None) -> int:
        """Returns how many tokens of the prompt are there; never the last, which is computed."""
        count = 0
        for _, block_hash, block in self._chain(prompt, salt):
            if not self._reuse or len(block) < self.block_tokens or block_hash not in self._known:
                break
            count += len(block)
        return min(count, len(prompt) - 1)

    def store(self, ids: list[int], salt: str | None) -> None:
        """Keeps the blocks of a sequence that has ended; the last may be partly filled."""
        if not self._reuse:
            return
        fresh, parent = [], None
        for before, block_hash, block in self._chain(ids, salt):
            if block_hash not in self._known:
                parent = before if not fresh else parent
                fresh.append((block_hash, block))
                self._known[block_hash] = None
        if fresh:
            self._tell(
                {
                    "type": "stored",
                    "parent_hash": parent,
                    "blocks": [_stored(block_hash, block) for block_hash, block in fresh],
                }
            )

    def drop(self, block_hashes: list[int]) -> None:
        """Evicts blocks."""
        for block_hash in block_hashes:
            self._known.pop(block_hash, None)
        self._tell({"type": "removed", "block_hashes": block_hashes})

    def lose_events(self, count: int) -> None:
        """Overflows the buffer of events."""
        self._event_id += count

    def take_events(self) -> list[dict[str, Any]]:
        events, self._events = self._events, []
        return events

    def statistics(self) -> dict[str, Any]:
        return {
            "maxNumBlocks": self.blocks,
            "freeNumBlocks": self.blocks - self._used,
            "usedNumBlocks": self._used,
            "tokensPerBlock": self.block_tokens,
        }

    def _chain(self, ids: list[int], salt: str | None) -> list[tuple[int | None, int, list[int]]]:
        """Returns each block with the hash before it and its own."""
        chain, before = [], None
        for start in range(0, len(ids), self.block_tokens):
            block = ids[start : start + self.block_tokens]
            block_hash = 1 + zlib.crc32(repr((before, salt, block)).encode())
            chain.append((before, block_hash, block))
            before = block_hash
        return chain

    def _tell(self, data: dict[str, Any]) -> None:
        if self._tells:
            self._event_id += 1
            self._events.append({"event_id": self._event_id, "window_size": 4096, "data": data})


def _stored(block_hash: int, block: list[int]) -> dict[str, Any]:
    tokens = [{"type": "unique_token", "token_id": token, "token_extra_id": 0} for token in block]
    return {
        "type": "stored_block",
        "block_hash": block_hash,
        "tokens": tokens,
        "cache_level": 0,
        "priority": 35,
    }
