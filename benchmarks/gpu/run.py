"""Everything that is to be shown on a GPU, by one command: see README.md beside this file.

python -m benchmarks.gpu.run --out FOLDER [--gguf FILE] [--acts 1,2] [--dry]
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.gpu import comparison, demo, failover, headline, quantised, real
from benchmarks.gpu.context import Part, Run, finish, options, run_parts, running
from benchmarks.gpu.engines import VARIANTS
from benchmarks.gpu.processes import ROOT


def _demo(run: Run) -> None:
    """The demo model's answers through both services, against OpenVINO's."""
    pair = run.engines.pair("demo")
    found = demo.answers(pair.frontend.address)
    run.results["demo"] = {
        **demo.compare(found, run.models["demo"]),
        "answers": found,
        "worker_start_s": pair.worker.start_s,
    }


FILES = {
    "contract": "tests/engines/test_contract.py",
    "real": "tests/engines/vllm/test_gpu.py",
    "worker": "tests/engines/vllm/test_gpu_worker.py",
    "surface": "tests/engines/vllm/test_surface.py",
}
CONTRACT = {
    "contract": ("contract", "vllm and not closing"),
    "closing": ("contract", "vllm and closing"),
    "real": ("real", "not adapters and not death"),
    "adapters": ("real", "adapters or death"),
    "worker": ("worker", ""),
    "surface": ("surface", ""),
}
"""A file and which of its tests, by the process that runs them. All run side by side: most of their
time goes to the starts of engines."""

CONTRACT_S = 150


def _contract(run: Run) -> None:
    """The engine contract suite on the vLLM engine, and the recorded surface on the package."""
    deadline_s = time.monotonic() + CONTRACT_S
    running = {name: _pytest(run, name, *which) for name, which in CONTRACT.items()}
    counts: Counter[str] = Counter()
    failing = []
    for name, process in running.items():
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its engines
            process.wait()
        said = _log(run, name).read_text()
        for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", said):
            counts[what] += int(number)
        failing += re.findall(r"^(?:FAILED|ERROR) (\S+?::\S+)", said, re.MULTILINE)
        if process.returncode not in (0, 1):  # 1: tests failed, which are named
            failing.append(f"pytest ended with {process.returncode}: {_log(run, name).name}")
    run.results["contract"] = {**counts, "failing": failing}
    if failing:
        raise RuntimeError("; ".join(failing))


def _log(run: Run, name: str) -> Path:
    return run.logs / f"pytest-{name}.log"


def _pytest(run: Run, name: str, file: str, which: str) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", FILES[file], "-k", which),
        *("-o", "timeout=200", "-o", "filterwarnings=default", "--durations=10"),
    ]
    with _log(run, name).open("w") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


ACTS: dict[str, dict[str, Part]] = {
    "1": {
        "real": Part(real.real, ("real-float32",), 100, timed=False),
        "demo": Part(_demo, ("demo",), 60, timed=False),
        "quantised": Part(quantised.quantised, ("real",), 130, timed=False),
        "load": Part(comparison.load, ("direct", "bf16"), 80),
        "formats": Part(headline.formats, ("bf16", "fp8"), 50),
        "drafts": Part(headline.drafts, ("real", "real-drafts"), 20),
        "wire": Part(comparison.wire, ("wire-direct", "wire"), 45),
    },
    "2": {
        "contract": Part(_contract, (), 120, timed=False),
        "settings": Part(headline.settings, ("bf16", "small-cache", "eager", "whole-prompts"), 75),
        # The last, since one of the engines is killed.
        "failover": Part(failover.failover, ("bf16", "whole-prompts"), 30),
    },
    "3": {
        "graphs": Part(headline.graphs, ("bf16", "bf16-wide", "fp8", "fp8-wide"), 60),
    },
}
"""Parts in their order. Those of an act have engines that fit into the GPU's memory together."""


def main() -> None:
    """Runs the parts; exits with 1 where one failed."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--acts", default="1,2")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of load and wire")
    parser.add_argument(
        "--waves", type=int, default=1, help="of a place in load; wire has one more"
    )
    parser.add_argument("--concurrency", default="64,128,256", help="of load and wire")
    parser.add_argument("--long-prompt-tokens", type=int, default=8192)
    chosen = parser.parse_args()
    with running(chosen, VARIANTS) as run:
        for act in chosen.acts.split(","):
            run_parts(run, ACTS[act])
    finish(run)


if __name__ == "__main__":
    main()
