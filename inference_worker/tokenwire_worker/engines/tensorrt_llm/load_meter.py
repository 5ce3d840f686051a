"""What TensorRT-LLM's iteration statistics say of the KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class LoadMeter:
    """What the last statistics said. Written by one thread, read by any."""

    def __init__(self) -> None:
        self.kv_blocks = 0
        """Blocks of the KV cache; 0 until statistics have come."""
        self.kv_block_tokens = 0
        self.kv_cache_usage = 0.0
        """Share of the blocks in use, 0 to 1, as TensorRT-LLM counts them."""

    def take(self, statistics: Mapping[str, Any]) -> None:
        """Takes the statistics of one iteration: their JSON, of which parts may be null."""
        cache = statistics.get("kvCacheStats") or {}
        self.kv_blocks = cache.get("maxNumBlocks") or self.kv_blocks
        self.kv_block_tokens = cache.get("tokensPerBlock") or self.kv_block_tokens
        used = cache.get("usedNumBlocks") or 0
        if self.kv_blocks:
            self.kv_cache_usage = min(max(used / self.kv_blocks, 0.0), 1.0)
