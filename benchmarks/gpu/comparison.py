"""The services against the bare engine: parts `load` and `wire`."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.gpu import checks
from benchmarks.gpu.context import Run
from benchmarks.gpu.processes import Direct, Pair

ARMS = ("direct", "stream", "session")


def load(run: Run) -> None:
    """The 8B shape: three arms by turns, then cancelling and prefix reuse on the worker."""
    direct, pair = run.engines.direct("direct"), run.engines.pair("bf16")
    run.results["engines"] = {"direct": direct.ready, "worker_start_s": pair.worker.start_s}
    _compare(run, "load", direct, pair, run.chosen.waves)
    frontend, worker = pair.frontend.address, pair.worker.address
    vocabulary_size = run.models.vocabulary_size
    run.results["cancel"] = asyncio.run(
        checks.cancel_half(frontend, worker, 128, run.chosen.prompt_tokens, vocabulary_size)
    )
    tokens = run.chosen.long_prompt_tokens
    run.results["prefix"] = asyncio.run(
        checks.shared_prefix(frontend, tokens, tokens - 64, 5, vocabulary_size)
    )


def wire(run: Run) -> None:
    """The demo model, so small that the host is the limit and not the GPU: the cost of the wire."""
    # Two requests for each place: the first prompts all come at once, and take half of the time.
    waves = run.chosen.waves + 1
    _compare(run, "wire", run.engines.direct("wire-direct"), run.engines.pair("wire"), waves)


def _compare(run: Run, name: str, direct: Direct, pair: Pair, waves: int) -> None:
    rounds: list[dict[str, Any]] = []
    for number in range(run.chosen.rounds + 1):
        measured = _round(run, number, direct, pair, waves)
        if number:  # the first warms everything up
            rounds.append(measured)
            run.results[name] = rounds


def _round(
    run: Run, number: int, direct: Direct, pair: Pair, waves: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Runs every arm at every concurrency once; the warm-up round, at the first alone."""
    measured: dict[str, dict[str, dict[str, float]]] = {}
    concurrencies = list(map(int, run.chosen.concurrency.split(",")))
    for concurrency in concurrencies if number else concurrencies[:1]:
        arms = measured[str(concurrency)] = {}
        for arm in ARMS:
            load = run.load(concurrency, concurrency * waves)
            if arm == "direct":
                arms[arm] = direct.run(vars(load))
                run.say(f"direct {concurrency:4} at once {arms[arm]['tokens_per_s']:8,.0f} tok/s")
            else:
                arms[arm] = run.measure(pair, f"round {number} {arm}", load, arm)
    return measured
