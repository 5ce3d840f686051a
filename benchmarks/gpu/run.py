"""Everything that is to be shown on a GPU, by one command: see README.md beside this file.

python -m benchmarks.gpu.run --out FOLDER [--parts demo,contract,load,wire]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu import checks, demo, models, report
from benchmarks.gpu.load import Load
from benchmarks.gpu.processes import ROOT, Direct, Pair

ARMS = ("direct", "stream", "session")

ENGINE = {
    "skip_tokenizer_init": True,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "enable_prefix_caching": True,
}
"""Arguments of both engines of a comparison, the direct arm's and the worker's."""

# Two engines at once on one GPU, so that the arms can take turns: 16 GB of weights each.
LARGE = {"load_format": "dummy", "max_model_len": 16384, "gpu_memory_utilization": 0.42}
SMALL = {"max_model_len": 4096, "gpu_memory_utilization": 0.1}


def main() -> None:
    """Runs the parts, each whatever came of the others; exits with 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of results and logs")
    parser.add_argument("--parts", default="demo,contract,load,wire")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the load part")
    parser.add_argument("--waves", type=int, default=2, help="requests per concurrent place")
    parser.add_argument("--concurrency", default="64,128,256")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--long-prompt-tokens", type=int, default=8192)
    parser.add_argument("--demo-model", type=Path, default=demo.HUGGING_FACE)
    parser.add_argument("--eager", action="store_true", help="without compiling and CUDA graphs")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    chosen.logs = chosen.out / "logs"
    chosen.logs.mkdir(exist_ok=True)
    parts: dict[str, Callable[[argparse.Namespace, dict[str, Any]], None]] = {
        "demo": _demo,
        "contract": _contract,
        "load": _load,
        "wire": _wire,
    }
    results = report.read(chosen.out)  # what earlier runs into this folder found stays
    results["host"] = report.host()
    for name in chosen.parts.split(","):
        results["failed"].pop(name, None)
        start_s = time.perf_counter()
        try:
            parts[name](chosen, results)
        except Exception as error:  # noqa: BLE001 - the other parts are still worth their time
            traceback.print_exc()
            results["failed"][name] = f"{type(error).__name__}: {error}"[:2000]
        results.setdefault("wall_s", {})[name] = round(time.perf_counter() - start_s, 1)
        report.write(results, chosen.out)
    print((chosen.out / "results.md").read_text())
    sys.exit(1 if results["failed"] else 0)


def _demo(chosen: argparse.Namespace, results: dict[str, Any]) -> None:
    """The demo model's answers through both services, against OpenVINO's."""
    options = [
        *("--engine", "vllm", "--vllm.gpu-memory-utilization", "0.1", "--vllm.enforce-eager"),
        # In bf16 two likely tokens may tie; the recorded answers were computed more exactly.
        *("--vllm.dtype", "float32"),
    ]
    with Pair("demo", chosen.demo_model, options, chosen.logs) as pair:
        found = demo.answers(pair.frontend)
        results["demo"] = {
            **demo.compare(found, chosen.demo_model),
            "answers": found,
            "worker_start_s": pair.start_s,
        }


def _contract(chosen: argparse.Namespace, results: dict[str, Any]) -> None:
    """The engine contract suite on the vLLM engine, and the recorded surface on the package."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "vllm"),
        *(
            f"tests/engines/{name}.py"
            for name in ("test_contract", "vllm/test_gpu", "vllm/test_surface")
        ),
        *("-o", "timeout=300", "-o", "filterwarnings=default"),
    ]
    path = chosen.logs / "contract.log"
    with path.open("w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False)
    said = path.read_text()
    counts = {
        what: int(number)
        for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", said)
    }
    failing = re.findall(r"^(?:FAILED|ERROR) (\S+?::\S+)", said, re.MULTILINE)
    results["contract"] = {**counts, "failing": failing}
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}; see contract.log")


def _load(chosen: argparse.Namespace, results: dict[str, Any]) -> None:
    """The 8B shape: three arms by turns, then cancelling and prefix reuse on the worker."""
    model = models.write(chosen.out / "model-8b")
    with _both(chosen, "load", model, LARGE) as (direct, pair):
        results["engines"] = {"direct": direct.ready, "worker_start_s": pair.start_s}
        _compare(chosen, results, "load", direct, pair)
        results["cancel"] = asyncio.run(
            checks.cancel_half(
                pair.frontend, pair.worker, 128, chosen.prompt_tokens, models.VOCABULARY_SIZE
            )
        )
        tokens = chosen.long_prompt_tokens
        results["prefix"] = asyncio.run(
            checks.shared_prefix(pair.frontend, tokens, tokens - 64, 5, models.VOCABULARY_SIZE)
        )


def _wire(chosen: argparse.Namespace, results: dict[str, Any]) -> None:
    """The demo model, so small that the host is the limit and not the GPU: the cost of the wire."""
    with _both(chosen, "wire", chosen.demo_model, SMALL) as (direct, pair):
        _compare(chosen, results, "wire", direct, pair)


@contextmanager
def _both(
    chosen: argparse.Namespace, name: str, model: Path, changes: dict[str, Any]
) -> Iterator[tuple[Direct, Pair]]:
    """Runs the direct arm's engine and the worker's, with the same arguments."""
    engine = {**ENGINE, **changes, "enforce_eager": chosen.eager}
    options = ["--engine", "vllm", "--max-waiting-requests", "2048", *_flags(engine)]
    with (
        Direct(name, {"model": str(model), **engine}, chosen.logs) as direct,
        Pair(name, model, options, chosen.logs) as pair,
    ):
        yield direct, pair


def _compare(
    chosen: argparse.Namespace, results: dict[str, Any], name: str, direct: Direct, pair: Pair
) -> None:
    results[name] = rounds = []
    for number in range(chosen.rounds + 1):
        measured = _round(chosen, number, direct, pair)
        if number:  # the first warms everything up
            rounds.append(measured)
            report.write(results, chosen.out)


def _flags(engine: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in engine.items():
        setting = f"vllm.{name.replace('_', '-')}"
        if isinstance(value, bool):
            flags.append(f"--{setting}" if value else f"--no-{setting}")
        else:
            flags += [f"--{setting}", str(value)]
    return flags


def _round(
    chosen: argparse.Namespace, number: int, direct: Direct, pair: Pair
) -> dict[str, dict[str, dict[str, float]]]:
    """Runs every arm at every concurrency once; the warm-up round is of one wave."""
    measured: dict[str, dict[str, dict[str, float]]] = {}
    for concurrency in map(int, chosen.concurrency.split(",")):
        arms = measured[str(concurrency)] = {}
        for place, arm in enumerate(ARMS):
            load = Load(
                concurrency,
                concurrency * (chosen.waves if number else 1),
                chosen.prompt_tokens,
                chosen.output_tokens,
                seed=1_000_000 * number + 1000 * concurrency + place,
            )
            arms[arm] = direct.run(vars(load)) if arm == "direct" else _serve(arm, load, pair)
            print(f"round {number} {concurrency:4} {arm:8} {arms[arm]['tokens_per_s']:8.0f} tok/s")
    return measured


def _serve(arm: str, load: Load, pair: Pair) -> dict[str, float]:
    asked = {"arm": arm, "load": vars(load), "target": pair.frontend}
    before = pair.cpu_s()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.served", json.dumps(asked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the {arm} arm failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    for name, spent_s in pair.cpu_s().items():
        figures[f"{name}_us_per_token"] = (spent_s - before[name]) / figures["tokens"] * 1e6
    return figures


if __name__ == "__main__":
    main()
