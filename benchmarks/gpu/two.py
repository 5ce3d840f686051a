"""What two GPUs of one host are worth: see README.md beside this file.

python -m benchmarks.gpu.two --out FOLDER [--parts exact,scale,parallel,routing,rolling]
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tokenwire import AsyncClient

from benchmarks.gpu import demo
from benchmarks.gpu.context import Part, Run, finish, options, run_parts, running
from benchmarks.gpu.engines import Variant, large
from benchmarks.gpu.failover import under_load
from benchmarks.gpu.load import quantile
from benchmarks.gpu.processes import Service
from benchmarks.gpu.served import client

STREAMS = 128
"""For each worker."""
ROUNDS = 2

CONVERSATIONS, TURNS, TURN_TOKENS, ANSWER_TOKENS = 48, 5, 400, 64
PREFIXES, PREFIX_TOKENS, SHARED_REQUESTS = 16, 2048, 192
AT_ONCE = 48

IDS = 4096
"""Ids of prompts are below this, in every vocabulary."""

ROLLING_STREAMS = 64
ROLLING_TOKENS = 256

DEMO = {"gpu_memory_utilization": 0.05, "enforce_eager": True, "dtype": "float32"}

VARIANTS = {
    # 256 requests of 768 tokens take 26 GB, as where one worker is left of two.
    "first": Variant("8b", large(26), gpus="0"),
    "second": Variant("8b", large(26), gpus="1"),
    "tensor-2": Variant("8b", large(12, tensor_parallel_size=2), dry={"step_ms": 4}),
    "pipeline-2": Variant("8b", large(12, pipeline_parallel_size=2)),
    "demo-1": Variant("demo", DEMO, gpus="0"),
    "demo-tensor-2": Variant("demo", {**DEMO, "tensor_parallel_size": 2}),
    "demo-pipeline-2": Variant("demo", {**DEMO, "pipeline_parallel_size": 2}),
}


def exact(run: Run) -> None:
    """Tensor and pipeline parallel answer as one GPU does, with the demo model in float32."""
    found = {name: demo.answers(run.engines.pair(name).frontend.address) for name in EXACT}
    one, *others = EXACT
    run.results["exact"] = {
        name: sum(found[name][prompt] == text for prompt, text in found[one].items())
        for name in others
    } | {"of": len(found[one])}
    run.say(f"exact: {run.results['exact']}")


EXACT = ("demo-1", "demo-tensor-2", "demo-pipeline-2")


def scale(run: Run) -> None:
    """Two workers behind one and behind two frontends, against one worker."""
    workers = _workers(run)
    arms = {
        "one worker": ([run.engines.pair("first").frontend], 1),
        "two workers, one frontend": ([_frontend(run, "shared", workers)], 2),
        "two workers, two frontends": ([_frontend(run, f"of-two-{n}", workers) for n in (1, 2)], 2),
    }
    rounds: list[dict[str, Any]] = []
    run.results["scale"] = rounds
    for number in range(ROUNDS + 1):
        measured = {
            name: _throughput(run, name, frontends, workers[:count])
            for name, (frontends, count) in arms.items()
        }
        if number:  # the first warms everything up
            rounds.append(measured)


def _workers(run: Run) -> list[Service]:
    return [run.engines.pair(name).worker for name in ("first", "second")]


def _frontend(
    run: Run, name: str, workers: Sequence[Service], routing: str = "least_loaded"
) -> Service:
    return run.services.frontend(name, workers, "--routing", routing)


def _throughput(
    run: Run, name: str, frontends: Sequence[Service], workers: Sequence[Service]
) -> dict[str, float]:
    """Runs 128 streams for each worker, by a client process for each frontend."""
    streams = STREAMS * len(workers) // len(frontends)
    loads = [run.load(streams, 2 * streams) for _ in frontends]
    targets = [each.address for each in frontends]
    kinds = {"frontend": frontends, "worker": workers}
    before_s = {kind: _cpu_s(services) for kind, services in kinds.items()}
    with ThreadPoolExecutor(len(frontends)) as pool:
        found = list(pool.map(client, ["session"] * len(loads), loads, targets))
    tokens = sum(each["tokens"] for each in found)
    figures = {
        "tokens_per_s": sum(each["tokens_per_s"] for each in found),
        "ttft_p50_ms": statistics.fmean(each["ttft_p50_ms"] for each in found),
        "gap_p99_ms": max(each["gap_p99_ms"] for each in found),
    }
    for kind, services in kinds.items():
        figures[f"{kind}_us_per_token"] = (_cpu_s(services) - before_s[kind]) / tokens * 1e6
    run.say(f"{name:28} {figures['tokens_per_s']:8,.0f} tok/s")
    return figures


def _cpu_s(services: Sequence[Service]) -> float:
    return sum(each.cpu_s() for each in services)


def parallel(run: Run) -> None:
    """One model over both GPUs, against one GPU."""
    found: dict[str, Any] = {}
    run.results["parallel"] = found
    for name in ("first", "tensor-2", "pipeline-2"):
        pair = run.engines.pair(name)
        run.measure(pair, f"{name}, warm-up", run.load(STREAMS, STREAMS))
        found[name] = {
            str(concurrency): run.measure(pair, name, run.load(concurrency, 3 * concurrency))
            for concurrency in (1, STREAMS)
        }


def routing(run: Run) -> None:
    """Prefix reuse of one worker, and of two by each policy."""
    workers = _workers(run)
    arms = {
        "one worker": run.engines.pair("first").frontend,
        "prefix": _frontend(run, "by-prefix", workers, "prefix"),
        "least_loaded": _frontend(run, "by-load", workers),
    }
    found: dict[str, Any] = {}
    run.results["routing"] = found
    for number, (name, frontend) in enumerate(arms.items()):
        found[name] = {
            "conversations": asyncio.run(_conversations(frontend, 100 + number)),
            "shared prefixes": asyncio.run(_shared(frontend, 200 + number)),
        }
        run.say(f"routing {name}: {found[name]}")


async def _conversations(frontend: Service, seed: int) -> dict[str, float]:
    """Runs conversations of several turns, each with all that was said before."""
    source = random.Random(seed)
    asked = _Asked()
    async with AsyncClient(frontend.address, timeout=300) as session:

        async def converse(turns: list[list[int]]) -> None:
            said: list[int] = []
            for turn in turns:
                said += turn
                said += await asked.one(session, said)

        async with asyncio.TaskGroup() as group:
            for _ in range(CONVERSATIONS):
                group.create_task(converse([_ids(source, TURN_TOKENS) for _ in range(TURNS)]))
    # At best a turn finds all but what is new of it.
    history = [turn * (TURN_TOKENS + ANSWER_TOKENS) for turn in range(TURNS)]
    return asked.figures(CONVERSATIONS * sum(history))


async def _shared(frontend: Service, seed: int) -> dict[str, float]:
    """Runs requests that begin with one of a few long prefixes, in random order."""
    source = random.Random(seed)
    prefixes = [_ids(source, PREFIX_TOKENS) for _ in range(PREFIXES)]
    asked = _Asked()
    places = asyncio.Semaphore(AT_ONCE)
    async with AsyncClient(frontend.address, timeout=300) as session:
        # Once each, as where they have been in use before.
        for prefix in prefixes:
            await asked.one(session, prefix + _ids(source, 64))
        asked = _Asked()

        async def request(prompt: list[int]) -> None:
            async with places:
                await asked.one(session, prompt)

        async with asyncio.TaskGroup() as group:
            for _ in range(SHARED_REQUESTS):
                prompt = source.choice(prefixes) + _ids(source, 64)
                group.create_task(request(prompt))
    return asked.figures(SHARED_REQUESTS * PREFIX_TOKENS)


def _ids(source: random.Random, count: int) -> list[int]:
    return source.choices(range(300, IDS), k=count)


class _Asked:
    """What requests of one arm found in the cache, and how long their first token took."""

    def __init__(self) -> None:
        self._cached = 0
        self._first_s: list[float] = []

    async def one(self, session: AsyncClient, prompt: list[int]) -> list[int]:
        """Asks once and returns the ids of the answer."""
        start_s, first_s = time.perf_counter(), None
        stream = session.stream(prompt, max_tokens=ANSWER_TOKENS, ignore_eos=True, temperature=0.0)
        async for delta in stream:
            if first_s is None and delta.token_ids:
                first_s = time.perf_counter() - start_s
                self._first_s.append(first_s)
        self._cached += stream.result.usage.cached_prompt_tokens or 0
        return stream.result.token_ids

    def figures(self, reusable_tokens: int) -> dict[str, float]:
        """Returns the share of what could be reused that was, and times to the first token."""
        return {
            "reused": self._cached / reusable_tokens,
            "ttft_p50_ms": quantile(self._first_s, 0.5) * 1e3,
            "ttft_p99_ms": quantile(self._first_s, 0.99) * 1e3,
        }


def rolling(run: Run) -> None:
    """Both workers are restarted in turn under load; then one is killed under load."""
    workers = _workers(run)
    frontend = _frontend(run, "rolling", workers)
    run.results["rolling"] = asyncio.run(_rolling(run, frontend, workers))
    run.say(f"rolling restart: {run.results['rolling']}")
    fresh = _frontend(run, "failover", workers)  # which knows that both are there again
    killed = asyncio.run(under_load(fresh, workers[1], run.models.vocabulary_size, 2 * STREAMS))
    run.results["failover"] = {"killed": killed}
    run.say(f"failover: {killed}")


async def _rolling(run: Run, frontend: Service, workers: list[Service]) -> dict[str, Any]:
    """Restarts each of the workers, which it replaces in the list."""
    source = random.Random(17)
    over = asyncio.Event()
    seen: dict[str, Any] = {"answers": 0, "failed": 0, "failures": [], "longest_gap_ms": 0.0}
    async with AsyncClient(frontend.address, timeout=300) as session:

        async def place() -> None:
            while not over.is_set():
                try:
                    last_s = time.perf_counter()
                    tokens = 0
                    async for delta in session.stream(
                        _ids(source, 256),
                        max_tokens=ROLLING_TOKENS,
                        ignore_eos=True,
                        temperature=0.0,
                    ):
                        now_s = time.perf_counter()
                        if tokens:
                            seen["longest_gap_ms"] = max(
                                seen["longest_gap_ms"], (now_s - last_s) * 1e3
                            )
                        last_s, tokens = now_s, tokens + len(delta.token_ids)
                    seen["answers"] += 1
                    seen["failed"] += tokens != ROLLING_TOKENS
                except Exception as error:  # noqa: BLE001 - counted, whatever it is
                    seen["failed"] += 1
                    seen["failures"] = [*seen["failures"], str(error)[:200]][:3]

        places = [asyncio.create_task(place()) for _ in range(ROLLING_STREAMS)]
        start_s = time.perf_counter()
        for number, worker in enumerate(workers):
            workers[number] = await asyncio.to_thread(run.services.restart, worker)
        seen["both_restarted_s"] = time.perf_counter() - start_s
        over.set()
        await asyncio.gather(*places)
    return seen


PARTS = {
    "exact": Part(exact, EXACT, 90, timed=False),
    "scale": Part(scale, ("first", "second"), 110),
    "parallel": Part(parallel, ("first", "tensor-2", "pipeline-2"), 70),
    "routing": Part(routing, ("first", "second"), 60),
    "rolling": Part(rolling, ("first", "second"), 130),
}


def main() -> None:
    """Runs the parts; exits with 1 where one failed."""
    chosen = options(__doc__.splitlines()[0]).parse_args()
    with running(chosen, VARIANTS) as run:
        run_parts(run, PARTS)
    finish(run)


if __name__ == "__main__":
    main()
