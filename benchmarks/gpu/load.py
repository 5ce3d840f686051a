"""The load that every arm runs, and what is measured of it; the same code for all of them."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

Open = Callable[[list[int]], AsyncIterator[int]]
"""Opens a generation for a prompt; yields the number of tokens of each delta."""


@dataclass(frozen=True)
class Load:
    """What an arm has to do."""

    concurrency: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    seed: int

    def prompts(self, vocabulary_size: int) -> list[list[int]]:
        """Returns a random prompt for each request, so that none profits from another's prefix."""
        source = random.Random(self.seed)
        return [
            source.choices(range(300, vocabulary_size), k=self.prompt_tokens)
            for _ in range(self.requests)
        ]


async def drive(load: Load, vocabulary_size: int, open_: Open) -> dict[str, float]:
    """Keeps `concurrency` generations running until all are done.

    Returns:
        `tokens`, `tokens_per_s`, `deltas`, and the time to first token at its 50th and 95th
        percentile in milliseconds.

    Raises:
        RuntimeError: fewer tokens came than were asked for.
    """
    prompts = load.prompts(vocabulary_size)
    first_token_s: list[float] = []
    tokens = deltas = 0

    async def place() -> None:
        nonlocal tokens, deltas
        while prompts:
            opened_s = time.perf_counter()
            fresh = True
            async for count in open_(prompts.pop()):
                if fresh and count:
                    first_token_s.append(time.perf_counter() - opened_s)
                    fresh = False
                tokens += count
                deltas += 1

    start_s = time.perf_counter()
    await asyncio.gather(*(place() for _ in range(load.concurrency)))
    elapsed_s = time.perf_counter() - start_s
    if tokens != load.requests * load.output_tokens:
        raise RuntimeError(f"{tokens} tokens came of {load.requests * load.output_tokens}")
    return {
        "tokens": tokens,
        "tokens_per_s": tokens / elapsed_s,
        "deltas": deltas,
        "ttft_p50_ms": statistics.median(first_token_s) * 1e3,
        "ttft_p95_ms": statistics.quantiles(first_token_s, n=20)[-1] * 1e3,
    }
