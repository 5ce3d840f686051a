"""What more frontends and more workers cost a frontend, in CPU time. Linux only.

    python -m benchmarks.scale_out [--rounds 5] [--idle-s 30]

`load`: two frontends before the same simulated workers. Arms take turns: one frontend with all
streams, both with half of them each, and both with as many each as the one had.

`idle`: one frontend that is connected with 256 workers of one process and has nothing to do.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from tokenwire import AsyncClient

from benchmarks.cpu import cpu_s
from benchmarks.scenario import simulated
from benchmarks.throughput import LOGS, ROOT, Load, measure
from demo.pair import HOST, Pair

WORKER_PORT, FRONTEND_PORT = 30_861, 30_851
"""The ports after the worker's are those of the other workers."""
SECOND = f"{HOST}:{FRONTEND_PORT + 1}"

WORKERS, MANY_WORKERS = 2, 256
STREAMS = 64
STEP_MS = 20
"""Two frontends with 64 streams each are then far from a whole core, so that nothing queues."""
PROMPT_TOKENS, OUTPUT_TOKENS = 505, 128


@dataclass(frozen=True)
class Arm:
    """Frontends that serve, and streams of each."""

    name: str
    frontends: int
    streams: int


ARMS = (
    Arm("one frontend", 1, STREAMS),
    Arm("two, half each", 2, STREAMS // 2),
    Arm("two, as many each", 2, STREAMS),
)


def main() -> None:
    """Measures and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle-s", type=float, default=30.0)
    chosen = parser.parse_args()
    with _started(WORKERS) as pair, _second_frontend() as second:
        pair.wait_until_ready()
        asyncio.run(_all_ready([pair.frontend, SECOND], WORKERS))
        frontends = [(pair.frontend, pair.process_ids["frontend"]), (SECOND, second)]
        for call in ("stream", "session"):
            print(_load_table(call, chosen.rounds, frontends), flush=True)
    with _started(MANY_WORKERS) as pair:
        pair.wait_until_ready()
        asyncio.run(_all_ready([pair.frontend], MANY_WORKERS))
        print(_idle_line(pair.process_ids["frontend"], chosen.idle_s))


def _started(workers: int) -> Pair:
    folder, options = simulated()
    options = [*options, f"--simulated.workers={workers}", f"--simulated.step-ms={STEP_MS}"]
    own = _named(1, workers)
    return Pair(folder, WORKER_PORT, FRONTEND_PORT, LOGS / "scale_out", options, own)


def _named(first: int, end: int) -> list[str]:
    return [f"--worker={HOST}:{WORKER_PORT + number}" for number in range(first, end)]


@contextmanager
def _second_frontend() -> Iterator[int]:
    command = [sys.executable, "-m", "tokenwire_frontend", "--listen", SECOND]
    with (LOGS / "scale_out/second.log").open("wb") as log:
        process = subprocess.Popen([*command, *_named(0, WORKERS)], stdout=log, stderr=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


async def _all_ready(frontends: Sequence[str], workers: int) -> None:
    for frontend in frontends:
        async with AsyncClient(frontend) as client:
            while sum(each.state == "ready" for each in await client.workers()) < workers:  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.1)


def _load_table(call: str, rounds: int, frontends: Sequence[tuple[str, int]]) -> str:
    measured: dict[str, list[float]] = {arm.name: [] for arm in ARMS}
    for number in range(rounds + 1):
        # To and fro, so that a machine that slows down or speeds up favours no arm.
        for arm in ARMS if number % 2 else ARMS[::-1]:
            cost_us = _cost_us(call, arm, number, frontends[: arm.frontends])
            if number:  # the first round warms up
                measured[arm.name].append(cost_us)
            print(f"round {number} {call} {arm.name}: {cost_us:.1f} us/token", file=sys.stderr)
    base = measured[ARMS[0].name]
    lines = [f"| {call}, {rounds} rounds | us/token | to one frontend |", "|---|---|---|"]
    for name, costs in measured.items():
        ratios = [cost / one for cost, one in zip(costs, base, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        lines.append(f"| {name} | {statistics.median(costs):.1f} | {spread} |")
    return "\n".join([*lines, ""])


def _cost_us(call: str, arm: Arm, number: int, frontends: Sequence[tuple[str, int]]) -> float:
    """Returns the CPU time of all frontends of an arm for each token, in microseconds."""
    before_s = sum(cpu_s(process_id) for _, process_id in frontends)

    def load(place: int) -> float:
        own = Load(
            arm.streams, arm.streams * 2, PROMPT_TOKENS, OUTPUT_TOKENS,
            seed=1000 * number + place, text=True,
        )  # fmt: skip
        return measure(call, own, ROOT / "models/demo/hf", frontends[place][0])["tokens"]

    with ThreadPoolExecutor() as clients:
        tokens = sum(clients.map(load, range(len(frontends))))
    return (sum(cpu_s(process_id) for _, process_id in frontends) - before_s) / tokens * 1e6


def _idle_line(process_id: int, idle_s: float) -> str:
    before_s, begun_s = cpu_s(process_id), time.monotonic()
    time.sleep(idle_s)
    share = (cpu_s(process_id) - before_s) / (time.monotonic() - begun_s)
    return f"idle with {MANY_WORKERS} workers: {share:.2%} of a core, over {idle_s:g} s"


if __name__ == "__main__":
    main()
