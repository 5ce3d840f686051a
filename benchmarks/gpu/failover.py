"""A worker that is killed under load while another lives: part `failover`."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

from tokenwire import AsyncClient

from benchmarks.gpu.context import Run
from benchmarks.gpu.processes import Service

STREAMS = 128
PROMPT_TOKENS = 256
OUTPUT_TOKENS = 512
KILLED_AFTER_TOKENS = 100
"""Of each stream, on average: all are well under way."""


@dataclass
class _Stream:
    tokens: int = 0
    longest_gap_s: float = 0.0
    attempts: int = 0
    failed: str = ""
    offsets_right: bool = True
    begun: asyncio.Event = field(default_factory=asyncio.Event)


def failover(run: Run) -> None:
    """SIGKILL of one of two workers of one frontend, under 128 streams."""
    names = ("bf16", "whole-prompts")
    workers = [run.engines.pair(name).worker for name in names]
    frontend = run.services.frontend("failover", workers)
    calm = asyncio.run(under_load(frontend, None, run.models.vocabulary_size))
    run.say(f"failover: nobody killed: {calm}")
    killed = asyncio.run(under_load(frontend, workers[1], run.models.vocabulary_size))
    run.say(f"failover: one of two killed: {killed}")
    run.results["failover"] = {"calm": calm, "killed": killed}


async def under_load(
    frontend: Service, victim: Service | None, vocabulary_size: int, streams: int = STREAMS
) -> dict[str, Any]:
    """Runs the streams and kills the victim when they are well under way; returns what they saw."""
    source = random.Random(13)
    seen = [_Stream() for _ in range(streams)]
    well_under_way = asyncio.Event()
    async with AsyncClient(frontend.address, timeout=120) as client:

        async def one(stream: _Stream) -> None:
            prompt = source.choices(range(300, vocabulary_size), k=PROMPT_TOKENS)
            last_s = time.perf_counter()
            call = client.stream(prompt, max_tokens=OUTPUT_TOKENS, ignore_eos=True, temperature=0.0)
            try:
                async for delta in call:
                    now_s = time.perf_counter()
                    if stream.tokens:
                        stream.longest_gap_s = max(stream.longest_gap_s, now_s - last_s)
                    stream.offsets_right &= delta.token_offset == stream.tokens
                    last_s, stream.tokens = now_s, stream.tokens + len(delta.token_ids)
                    stream.begun.set()
                    if sum(each.tokens for each in seen) >= streams * KILLED_AFTER_TOKENS:
                        well_under_way.set()
                stream.attempts = len(call.result.attempts)
            except Exception as error:  # noqa: BLE001 - counted, whatever it is
                stream.failed = f"{type(error).__name__}: {error}"[:200]
                stream.begun.set()

        tasks = [asyncio.create_task(one(each)) for each in seen]
        await asyncio.gather(*(each.begun.wait() for each in seen))
        if victim is not None:
            await well_under_way.wait()
            victim.kill()
        await asyncio.gather(*tasks)
    gaps_ms = sorted(each.longest_gap_s * 1e3 for each in seen)
    return {
        "streams": streams,
        "failed": sum(bool(each.failed) for each in seen),
        "failures": sorted({each.failed for each in seen if each.failed})[:3],
        "lost_or_repeated": sum(
            not each.failed and (each.tokens != OUTPUT_TOKENS or not each.offsets_right)
            for each in seen
        ),
        "moved": sum(each.attempts > 1 for each in seen),
        "longest_gap_ms": gaps_ms[-1],
        "longest_gap_p50_ms": gaps_ms[len(gaps_ms) // 2],
    }
