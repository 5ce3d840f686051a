"""What formats and settings of an engine are worth: parts `formats`, `settings` and `drafts`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from itertools import product
from typing import Any, TypeAlias

from tokenwire import AsyncClient

from benchmarks.gpu.context import Run
from benchmarks.gpu.load import quantile
from benchmarks.gpu.processes import Pair
from benchmarks.gpu.reference import CHATS, PASSAGE, messages

CONCURRENCIES = (1, 32, 64, 128)
WAVES = 3
"""Requests of each place: the first of each begin together, and the others as places get free."""
ROUNDS = 2
"""Of every format at every concurrency, in turns."""
SPREAD = 0.5
"""Outputs are of 64 to 192 tokens, so that places get free one after the other."""

LONG_PROMPT_TOKENS = 32_000
LONG_PROMPTS = 4
SHORT_STREAMS = 16

Rounds: TypeAlias = "dict[str, dict[str, list[dict[str, float]]]]"
"""Figures of each round, by engine and concurrency."""

COPIES = 8
"""Requests of each kind at once, where drafts are compared."""


def formats(run: Run) -> None:
    """The 8B shape in BF16 and FP8, at rising concurrency."""
    _by_turns(run, "formats", ("bf16", "fp8"), CONCURRENCIES)


def graphs(run: Run) -> None:
    """CUDA graphs of steps that have a prompt beside what decodes, and so more than 512 tokens."""
    _by_turns(run, "graphs", ("bf16", "bf16-wide", "fp8", "fp8-wide"), (64,))


def _by_turns(run: Run, part: str, names: Sequence[str], concurrencies: Sequence[int]) -> None:
    """Runs the same loads against each engine, ROUNDS times."""
    found: Rounds = {name: {str(each): [] for each in concurrencies} for name in names}
    run.results[part] = found
    for name in names:
        run.measure(run.engines.pair(name), f"{name}, warm-up", run.load(64, 64))
    for _ in range(ROUNDS):
        for name, concurrency in product(names, concurrencies):
            figures = run.measure(run.engines.pair(name), name, _steady(run, concurrency))
            found[name][str(concurrency)].append(figures)


def settings(run: Run) -> None:
    """What each of the engine's mechanisms is worth, turned on and off."""
    found: dict[str, Any] = {}
    run.results["settings"] = found

    def both(title: str, on: dict[str, float], off: dict[str, float]) -> None:
        found[title] = {"on": on, "off": off}

    plain = run.engines.pair("bf16")
    at_64 = run.measure(plain, "plain", _steady(run, 64))
    batches = run.load(64, 64 * WAVES, spread=SPREAD, in_batches=True)
    both("in-flight batching, 64 at once", at_64, run.measure(plain, "static batches", batches))
    small = run.engines.pair("small-cache")
    cut = run.measure(small, "small cache", _steady(run, 64))
    both("KV cache for 64 requests (off: for 13), 64 at once", at_64, cut)
    eager = run.engines.pair("eager")
    for concurrency in (1, 64):
        graphs = at_64 if concurrency == 64 else run.measure(plain, "plain", _steady(run, 1))
        without = run.measure(eager, "without CUDA graphs", _steady(run, concurrency))
        both(f"CUDA graphs, {concurrency} at once", graphs, without)
    chunked = asyncio.run(_beside_long_prompts(run, plain))
    whole = asyncio.run(_beside_long_prompts(run, run.engines.pair("whole-prompts")))
    prompts = f"prompts of {LONG_PROMPT_TOKENS:,} tokens"
    title = f"chunked prefill (8,192 tokens), {SHORT_STREAMS} streams beside {prompts}"
    both(title, chunked, whole)
    for key, figures in (("on", chunked), ("off", whole)):
        run.say(f"long prompts, chunks {key}: gap max {figures['gap_max_ms']:.0f} ms")


def drafts(run: Run) -> None:
    """Speculative decoding by n-grams on the real model: answers that copy, and others."""
    found: dict[str, Any] = {}
    run.results["drafts"] = found
    copying = f"Repeat this text word for word:\n\n{PASSAGE} {PASSAGE}"
    kinds = {
        "answers that repeat the prompt": [copying] * COPIES,
        "answers of their own": list(CHATS[:COPIES]),
    }
    for title, chats in kinds.items():
        for at_once in (1, COPIES):
            both: dict[str, Any] = {
                key: asyncio.run(_answers(run.engines.pair(name), chats, at_once))
                for key, name in (("on", "real-drafts"), ("off", "real"))
            }
            both["equal"] = sum(
                map(str.__eq__, both["on"].pop("texts"), both["off"].pop("texts"))
            ) / len(chats)
            found[f"{title}, {at_once} at once"] = both
            run.say(
                f"n-gram drafts, {title}, {at_once} at once: "
                f"{both['on']['tokens_per_s']:.0f} tok/s, without {both['off']['tokens_per_s']:.0f}"
            )


def _steady(run: Run, concurrency: int) -> Any:
    return run.load(concurrency, concurrency * WAVES, spread=SPREAD)


async def _beside_long_prompts(run: Run, pair: Pair) -> dict[str, float]:
    """Runs short streams, and beside them long prompts one after the other."""
    source = random.Random(11)

    def ids(count: int) -> list[int]:
        return source.choices(range(300, run.models.vocabulary_size), k=count)

    gaps_s: list[float] = []
    firsts_s: list[float] = []
    over = asyncio.Event()
    tokens = 0

    async with AsyncClient(pair.frontend.address, timeout=600) as client:

        async def short() -> None:
            nonlocal tokens
            last_s = None
            async for delta in client.stream(
                ids(128), max_tokens=8000, ignore_eos=True, temperature=0.0
            ):
                now_s = time.perf_counter()
                if last_s is not None:
                    gaps_s.append(now_s - last_s)
                last_s, tokens = now_s, tokens + len(delta.token_ids)
                if over.is_set():
                    return

        streams = [asyncio.create_task(short()) for _ in range(SHORT_STREAMS)]
        start_s = time.perf_counter()
        await asyncio.sleep(0.5)  # until they run
        for _ in range(LONG_PROMPTS):
            asked_s = time.perf_counter()
            await client.generate(ids(LONG_PROMPT_TOKENS), max_tokens=1, temperature=0.0)
            firsts_s.append(time.perf_counter() - asked_s)
        over.set()
        await asyncio.gather(*streams)
        elapsed_s = time.perf_counter() - start_s
    return {
        "tokens_per_s": tokens / elapsed_s,
        "ttft_p50_ms": quantile(firsts_s, 0.5) * 1e3,
        "gap_p50_ms": quantile(gaps_s, 0.5) * 1e3,
        "gap_p99_ms": quantile(gaps_s, 0.99) * 1e3,
        "gap_max_ms": max(gaps_s) * 1e3,
    }


async def _answers(pair: Pair, chats: list[str], at_once: int) -> dict[str, Any]:
    places = asyncio.Semaphore(at_once)
    async with AsyncClient(pair.frontend.address, timeout=600) as client:

        async def one(chat: str) -> Any:
            async with places:
                return await client.generate(
                    chat=messages(chat), max_tokens=128, temperature=0.0, min_p=0.0, ignore_eos=True
                )

        await one(chats[0])
        start_s = time.perf_counter()
        answers = await asyncio.gather(*(one(each) for each in chats))
        elapsed_s = time.perf_counter() - start_s
    tokens = sum(each.usage.completion_tokens for each in answers)
    return {"tokens_per_s": tokens / elapsed_s, "texts": [each.text for each in answers]}
