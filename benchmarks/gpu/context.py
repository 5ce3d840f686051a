"""What every part of a run works with."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu import demo, host, report
from benchmarks.gpu.engines import Engines, Models, Variant
from benchmarks.gpu.load import Load
from benchmarks.gpu.processes import Pair, Services
from benchmarks.gpu.served import measure


@dataclass
class Run:
    """One run of the parts that were chosen."""

    chosen: argparse.Namespace
    """The command line."""
    logs: Path
    models: Models
    services: Services
    engines: Engines
    watch: host.Watch
    results: dict[str, Any]
    """What is written as results.json; each part adds what it finds, as it finds it."""
    deadline_s: float = field(default_factory=time.monotonic)
    """No part begins that would not be done by then, a time of time.monotonic."""
    loads: int = 0
    """Loads so far: each has prompts of its own."""

    def left_s(self) -> float:
        """Returns the time that is left for all parts."""
        return self.deadline_s - time.monotonic()

    def load(self, concurrency: int, requests: int, **options: Any) -> Load:
        """Returns a load of prompts that came in no other."""
        self.loads += 1
        lengths = {
            "prompt_tokens": self.chosen.prompt_tokens,
            "output_tokens": self.chosen.output_tokens,
        }
        return Load(concurrency, requests, seed=self.loads, **{**lengths, **options})

    def measure(self, pair: Pair, what: str, load: Load, arm: str = "session") -> dict[str, float]:
        """Runs a load against a pair, and says what came of it."""
        figures = measure(arm, load, pair)
        self.say(
            f"{what:24} {load.concurrency:4} at once {figures['tokens_per_s']:8,.0f} tok/s, "
            f"first token {figures['ttft_p50_ms']:6.0f} ms"
        )
        return figures

    @staticmethod
    def say(line: str) -> None:
        """Prints a line at once."""
        print(line, flush=True)


@dataclass(frozen=True)
class Part:
    """One part of a run."""

    run: Callable[[Run], None]
    engines: tuple[str, ...] = ()
    """Engines that it takes by their names."""
    takes_s: int = 60
    """Time that it needs on an H200; without so much left it is not begun."""
    timed: bool = True
    """It measures speed, and so has the host to itself."""


def options(description: str) -> argparse.ArgumentParser:
    """Returns the options that every run has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder of results and logs")
    parser.add_argument("--models", type=Path, help="folder of the models; default: in --out")
    parser.add_argument("--parts", help="by their names; default: all")
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--limit-s", type=float, default=3600, help="time for all parts")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--demo-model", type=Path, default=demo.HUGGING_FACE)
    parser.add_argument("--eager", action="store_true", help="without compiling and CUDA graphs")
    parser.add_argument("--dry", action="store_true", help="the simulated engine for vLLM")
    return parser


@contextmanager
def running(chosen: argparse.Namespace, variants: Mapping[str, Variant]) -> Iterator[Run]:
    """Has what the parts of a run work with, and ends what they started."""
    logs = chosen.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    results = report.read(chosen.out)  # what earlier runs into this folder found stays
    results["host"] = host.facts()
    command = ["python", "-m", *sys.orig_argv[sys.orig_argv.index("-m") + 1 :]]
    begun_s = time.monotonic()
    folders = Models(
        chosen.models or chosen.out / "models", chosen.demo_model, chosen.gguf, dry=chosen.dry
    )
    with (
        host.Watch() as watch,
        Services(logs) as services,
        Engines(services, folders, variants, dry=chosen.dry, eager=chosen.eager) as engines,
    ):
        run = Run(chosen, logs, folders, services, engines, watch, results)
        run.deadline_s += chosen.limit_s
        yield run
        engines.keep(())
        took_s = round(time.monotonic() - begun_s, 1)
        results["commands"].append({"command": command, "took_s": took_s})
        report.write(results, chosen.out)


def run_parts(run: Run, parts: Mapping[str, Part]) -> None:
    """Runs the parts that were chosen, each whatever came of the others.

    Their engines start all at once, and those of earlier parts that these have no use for end
    before. Beside the starts run all parts that take no times; then the others, one by one.
    """
    names = parts if run.chosen.parts is None else run.chosen.parts.split(",")
    wanted = {name: part for name, part in parts.items() if name in names}
    engines = dict.fromkeys(each for part in wanted.values() for each in part.engines)
    run.engines.keep(engines)
    run.engines.begin(engines)
    beside = {name: part for name, part in wanted.items() if not part.timed}
    if beside:
        with ThreadPoolExecutor(len(beside)) as pool:
            list(pool.map(lambda named: _run(run, *named), beside.items()))
    run.engines.wait()
    report.write(run.results, run.chosen.out)
    for name, part in wanted.items():
        if part.timed:
            _run(run, name, part)
            report.write(run.results, run.chosen.out)


def finish(run: Run) -> None:
    """Prints the report, and ends the process with 1 where a part failed."""
    print((run.chosen.out / "results.md").read_text())
    sys.exit(1 if run.results["failed"] else 0)


def _run(run: Run, name: str, part: Part) -> None:
    """Runs a part and keeps why it failed, if it did."""
    failed = run.results["failed"]
    failed.pop(name, None)
    start_s = time.monotonic()
    run.say(f"--- {name}")
    try:
        if part.takes_s > run.left_s():
            raise TimeoutError(f"not begun: it takes {part.takes_s} s, and so much was not left")
        if part.timed:
            with run.watch.part() as run.results["host_of"][name]:
                part.run(run)
        else:
            part.run(run)
    except Exception as error:  # noqa: BLE001 - the other parts are still worth their time
        traceback.print_exc()
        failed[name] = f"{type(error).__name__}: {error}"[:2000]
    run.results["wall_s"][name] = round(time.monotonic() - start_s, 1)
    run.say(f"--- {name} took {run.results['wall_s'][name]} s; {run.left_s():.0f} s are left")
