"""Both services against the bare engine: tokens per second at a fixed concurrency, on one machine.

    python -m benchmarks.throughput [--model FOLDER] [--concurrency 32] [--rounds 9]

Three arms take turns, and the ratio of each round to the direct arm of the same round counts:

    direct   the engine's pipeline alone in a process, no service and no client
    stream   worker + frontend + a client process with one StreamGenerate call for each request
    session  worker + frontend + a client process with one Session call for all of them

Every request has its own random prompt of token ids, so no arm profits from another's cached
prefix, and generates its full number of tokens. Engine, services and client share the machine. The
bare engine and the worker's live equally long, with KV caches of the same size, since an engine
that has served for a while is slower than a fresh one. CPU time is each process's own and its
children's, per generated token.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.cpu import cpu_s
from demo.pair import Pair

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "models/demo/openvino"
LOGS = ROOT / "build/bench"
WORKER_PORT, FRONTEND_PORT = 50961, 50951
"""Not the services' default ports, so that a running pair does not collide."""
ARMS = ("direct", "stream", "session")
KV_BLOCKS = "2048"
"""Of the bare engine and of the worker's: 65,536 tokens. Small steps need a small cache, see
docs/models.md."""


@dataclass(frozen=True)
class Load:
    """What each arm has to do."""

    concurrency: int
    requests: int
    prompt_tokens: int
    output_tokens: int
    seed: int
    text: bool = False
    """Prompts are text, which the frontend tokenises, and not token ids."""

    def prompts(self, vocabulary_size: int) -> list[list[int]] | list[str]:
        """Returns one random prompt for each request; text has about as many tokens."""
        source = random.Random(self.seed)
        if self.text:
            return [
                " ".join(str(source.randrange(10, 100)) for _ in range(self.prompt_tokens // 2))
                for _ in range(self.requests)
            ]
        # The first ids are special tokens in most vocabularies.
        return [
            [source.randrange(300, vocabulary_size) for _ in range(self.prompt_tokens)]
            for _ in range(self.requests)
        ]


class BareEngine:
    """The direct arm's process, which runs one load after the other."""

    def __init__(self, model: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.direct", str(model), KV_BLOCKS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def measure(self, load: Load) -> dict[str, float]:
        """Runs a load and returns what was measured."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("the process has pipes. This is a bug.")
        print(json.dumps(vars(load)), file=self._process.stdin, flush=True)
        result: dict[str, float] = json.loads(self._process.stdout.readline())
        return result


def measure(arm: str, load: Load, model: Path, target: str) -> dict[str, float]:
    """Runs an arm with services in a client process of its own and returns what it measured."""
    options = {**vars(load), "arm": arm, "model": str(model), "target": target}
    command = [sys.executable, "-m", "benchmarks.clients", json.dumps(options)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO, help="OpenVINO model folder")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--waves", type=int, default=4, help="requests per concurrent place")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    options = ("--openvino.kv-blocks", KV_BLOCKS)
    with (
        Pair(chosen.model, WORKER_PORT, FRONTEND_PORT, LOGS, options) as pair,
        BareEngine(chosen.model) as engine,
    ):
        pair.wait_until_ready()
        rounds = [_round(chosen, number, pair, engine) for number in range(chosen.rounds + 1)]
    figures = _summary(rounds[1:])  # the first round warms up
    print(_table(figures, chosen))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


def _round(
    chosen: argparse.Namespace, number: int, pair: Pair, engine: BareEngine
) -> dict[str, dict[str, float]]:
    results = {}
    # To and fro, so that a machine that slows down or speeds up favours no arm.
    for place, arm in enumerate(ARMS if number % 2 else ARMS[::-1]):
        load = Load(
            chosen.concurrency,
            chosen.concurrency * chosen.waves,
            chosen.prompt_tokens,
            chosen.output_tokens,
            seed=1000 * number + place,
        )
        before = {name: cpu_s(each) for name, each in pair.process_ids.items()}
        if arm == "direct":
            result = engine.measure(load)
        else:
            result = measure(arm, load, chosen.model, pair.frontend)
        for name, process_id in pair.process_ids.items():
            spent_s = cpu_s(process_id) - before[name]
            result[f"{name}_us_per_token"] = spent_s / result["tokens"] * 1e6
        results[arm] = result
        print(f"round {number} {arm:8} {result['tokens_per_s']:8.0f} tok/s", file=sys.stderr)
    return results


def _summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    figures = {}
    for arm in ARMS:
        names = rounds[0][arm]
        figures[arm] = {
            name: statistics.median(each[arm][name] for each in rounds) for name in names
        }
        ratios = [each[arm]["tokens_per_s"] / each["direct"]["tokens_per_s"] for each in rounds]
        figures[arm]["ratio"] = statistics.median(ratios)
        figures[arm]["ratio_low"], figures[arm]["ratio_high"] = min(ratios), max(ratios)
    return figures


def _table(figures: dict[str, dict[str, float]], chosen: argparse.Namespace) -> str:
    tokens = f"{chosen.prompt_tokens} prompt and {chosen.output_tokens} output tokens"
    cpu = " | ".join(f"{name} us/token" for name in ("worker", "frontend", "client"))
    lines = [
        f"{chosen.concurrency} concurrent, {tokens}, medians of {chosen.rounds} rounds",
        f"| arm | tok/s | of direct (range) | {cpu} | deltas |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, each in figures.items():
        services = arm != "direct"
        cells = [
            arm,
            f"{each['tokens_per_s']:,.0f}",
            f"{each['ratio']:.2f} ({each['ratio_low']:.2f}-{each['ratio_high']:.2f})",
            f"{each['worker_us_per_token']:.0f}" if services else "-",
            f"{each['frontend_us_per_token']:.1f}" if services else "-",
            f"{each['client_us_per_token']:.1f}",
            f"{each['deltas']:,.0f}" if services else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
