"""Traces on simulated engines, through a frontend and workers in processes of this machine."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokenwire import AsyncClient

from benchmarks.routing import simulation
from benchmarks.routing.traces import Request
from benchmarks.scenario import simulated
from benchmarks.throughput import LOGS
from demo.pair import HOST, Pair

WORKER_PORT, FRONTEND_PORT = 30_961, 30_951
"""The ports after the worker's are those of the other workers. Below those that Linux gives to
connections."""

SPEED = 1.0
"""How many times as fast as in the trace time goes; a machine has to keep up."""


@dataclass(frozen=True, slots=True)
class Served:
    """A request as it was served."""

    prompt_tokens: int
    cached_tokens: int
    worker: str


def run(trace: Sequence[Request], workers: int, policy: str) -> simulation.Result:
    """Serves a trace with one frontend and so many workers in one process."""
    folder, options = simulated()
    prefill_ms = 1e6 / simulation.PREFILL_TOKENS_S / SPEED
    engine = {
        "workers": workers,
        "max-sequences": simulation.RUNNING_LIMIT,
        "kv-blocks": simulation.KV_BLOCKS,
        "step-ms": simulation.STEP_S * 1e3 / SPEED,
        "prefill-ms-per-1k": prefill_ms,
    }
    options = [*options, *(f"--simulated.{name}={value}" for name, value in engine.items())]
    others = [f"--worker={HOST}:{WORKER_PORT + number}" for number in range(1, workers)]
    own = ["--routing", policy, *others]
    with Pair(folder, WORKER_PORT, FRONTEND_PORT, LOGS / "routing", options, own) as pair:
        pair.wait_until_ready()
        served, wait_s = asyncio.run(_serve(trace, pair.frontend, workers))
    prompt_tokens = sum(each.prompt_tokens for each in served)
    counts = Counter(each.worker for each in served)
    return simulation.Result(
        sum(each.cached_tokens for each in served) / prompt_tokens,
        None,
        max(counts.values()) * workers / len(served),
        wait_s * SPEED,
    )


async def _serve(
    trace: Sequence[Request], frontend: str, workers: int
) -> tuple[list[Served], float]:
    """Sends each request at its time; returns them, and the mean time to the first token."""
    turns: dict[int, list[Request]] = {}
    for each in trace:
        turns.setdefault(each.user, []).append(each)
    async with AsyncClient(frontend) as client:
        while sum(each.state == "ready" for each in await client.workers()) < workers:  # noqa: ASYNC110 - it is asked
            await asyncio.sleep(0.1)
        start_s = time.monotonic()
        chats = await asyncio.gather(*(_chat(client, each, start_s) for each in turns.values()))
    served = [each for chat in chats for each, _ in chat]
    waits = [wait_s for chat in chats for _, wait_s in chat]
    return served, sum(waits) / len(waits)


async def _chat(
    client: AsyncClient, turns: Sequence[Request], start_s: float
) -> list[tuple[Served, float]]:
    """Serves the turns of a chat, with the engine's own answers in the place of the trace's."""
    served = []
    history: list[int] = []
    known = 0
    for turn in turns:
        await asyncio.sleep(max(start_s + turn.at_s / SPEED - time.monotonic(), 0))
        prompt = history + list(turn.prompt[known:])
        answer = await client.generate(
            prompt, max_tokens=len(turn.output), ignore_eos=True, temperature=0.0
        )
        history = prompt + list(answer.token_ids)
        known = len(turn.prompt) + len(turn.output)
        usage, timings = answer.usage, answer.timings
        cached = usage.cached_prompt_tokens or 0
        first_s = timings.time_to_first_token_s or 0.0
        served.append((Served(usage.prompt_tokens, cached, timings.worker), first_s))
    return served
