"""The stream and session arms: a load client in this process, against a running frontend."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeAlias

import uvloop
from tokenwire import AsyncClient, Delta

from benchmarks.cpu import cpu_s
from benchmarks.throughput import Load

Prompts: TypeAlias = "list[list[int]] | list[str]"
Open = Callable[["list[int] | str"], AsyncIterator[Delta]]


async def run(arm: str, load: Load, target: str, vocabulary_size: int) -> dict[str, float]:
    """Runs the load and returns the figures."""
    async with AsyncClient(target) as client, client.session() as session:
        start_one = client.stream if arm == "stream" else session.open

        def open_(prompt: list[int] | str) -> AsyncIterator[Delta]:
            return start_one(
                prompt, max_tokens=load.output_tokens, ignore_eos=True, temperature=0.0
            )

        prompts = load.prompts(vocabulary_size)
        await _drive(prompts[:1], 1, open_)  # connects
        before_s, start = cpu_s(), time.perf_counter()
        deltas, tokens = await _drive(prompts, load.concurrency, open_)
        elapsed_s, used_s = time.perf_counter() - start, cpu_s() - before_s
    return {
        "tokens": tokens,
        "tokens_per_s": tokens / elapsed_s,
        "client_us_per_token": used_s / tokens * 1e6,
        "deltas": deltas,
    }


async def _drive(prompts: Prompts, concurrency: int, open_: Open) -> tuple[int, int]:
    """Keeps `concurrency` generations running until all are done; returns deltas and tokens."""
    deltas = tokens = 0

    async def place() -> None:
        nonlocal deltas, tokens
        while prompts:
            async for delta in open_(prompts.pop()):
                deltas += 1
                tokens += len(delta.token_ids)

    await asyncio.gather(*(place() for _ in range(concurrency)))
    return deltas, tokens


def main() -> None:
    """Runs the load given as JSON in the first argument and prints the figures as JSON."""
    options = json.loads(sys.argv[1])
    model, arm, target = Path(options.pop("model")), options.pop("arm"), options.pop("target")
    vocabulary_size = json.loads((model / "config.json").read_text())["vocab_size"]
    print(json.dumps(uvloop.run(run(arm, Load(**options), target, vocabulary_size))))


if __name__ == "__main__":
    main()
