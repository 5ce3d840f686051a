"""The load that every arm runs, and what is measured of it; the same code for all of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

Open = Callable[[list[int], int], AsyncIterator[int]]
"""Opens a generation for a prompt and a number of tokens; yields how many each delta has."""

SOON_S = 0.2
"""A first token before this feels immediate in a chat."""


@dataclass(frozen=True)
class Load:
    """What an arm has to do."""

    concurrency: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    """On average."""
    seed: int
    spread: float = 0.0
    """Outputs are up to this share shorter and longer than the average."""
    in_batches: bool = False
    """Requests begin together once all before have ended, as without in-flight batching."""

    def prompts(self, vocabulary_size: int) -> list[list[int]]:
        """Returns a random prompt for each request, so that none profits from another's prefix."""
        source = random.Random(self.seed)
        return [
            source.choices(range(300, vocabulary_size), k=self.prompt_tokens)
            for _ in range(self.requests)
        ]

    def outputs(self) -> list[int]:
        """Returns the tokens that each request asks for: the same with every seed."""
        source = random.Random(0)
        low, high = 1 - self.spread, 1 + self.spread
        return [round(self.output_tokens * source.uniform(low, high)) for _ in range(self.requests)]


@dataclass
class _Times:
    first_s: list[float]
    """To the first token of each request but the first of its place, which all begin at once;
    of all, where there are no others."""
    gaps_s: list[float]
    """Between two deltas of a request."""
    tokens: int = 0
    deltas: int = 0


async def drive(load: Load, vocabulary_size: int, open_: Open) -> dict[str, float]:
    """Keeps `concurrency` generations running until all are done.

    Returns:
        `tokens`, `tokens_per_s`, `deltas`; times to the first token and gaps between deltas in
        milliseconds, by percentile; and `first_soon`, the share of first tokens within 200 ms.

    Raises:
        RuntimeError: fewer tokens came than were asked for.
    """
    requests = list(zip(load.prompts(vocabulary_size), load.outputs(), strict=True))
    times = _Times([], [])

    async def one(prompt: list[int], tokens: int, *, settled: bool) -> None:
        last_s = opened_s = time.perf_counter()
        fresh = True
        async for count in open_(prompt, tokens):
            now_s = time.perf_counter()
            if not fresh:
                times.gaps_s.append(now_s - last_s)
            elif settled:
                times.first_s.append(now_s - opened_s)
            fresh, last_s = False, now_s
            times.tokens += count
            times.deltas += 1

    # Where every place has one request alone, those are what there is to tell of.
    only = load.requests <= load.concurrency

    async def place() -> None:
        settled = only
        while requests:
            await one(*requests.pop(), settled=settled)
            settled = True

    start_s = time.perf_counter()
    if load.in_batches:
        settled = only
        while requests:
            batch = [requests.pop() for _ in range(min(load.concurrency, len(requests)))]
            await asyncio.gather(*(one(*each, settled=settled) for each in batch))
            settled = True
    else:
        await asyncio.gather(*(place() for _ in range(load.concurrency)))
    return _figures(load, times, time.perf_counter() - start_s)


def _figures(load: Load, times: _Times, elapsed_s: float) -> dict[str, float]:
    wanted = sum(load.outputs())
    if times.tokens != wanted:
        raise RuntimeError(f"{times.tokens} tokens came of {wanted}")
    soon = sum(each <= SOON_S for each in times.first_s)
    return {
        "tokens": times.tokens,
        "tokens_per_s": times.tokens / elapsed_s,
        "deltas": times.deltas,
        "first_soon": soon / len(times.first_s),
        **{
            f"ttft_{name}_ms": quantile(times.first_s, share) * 1e3
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
        **{
            f"gap_{name}_ms": quantile(times.gaps_s, share) * 1e3
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
        },
    }


def quantile(values: Sequence[float], share: float) -> float:
    """Returns the value that this share of the values does not exceed, by nearest rank."""
    ranked = sorted(values)
    return ranked[max(0, min(len(ranked) - 1, round(share * len(ranked)) - 1))]
