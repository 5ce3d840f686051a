"""Everything that is to be shown on a GPU, by one command: see README.md beside this file.

python -m benchmarks.gpu.run --out FOLDER [--gguf FILE] [--acts 1,2,3] [--dry]
"""

from __future__ import annotations

import re
import subprocess
import sys

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


def _contract(run: Run) -> None:
    """The engine contract suite on the vLLM engine, and the recorded surface on the package."""
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "vllm"),
        *(
            f"tests/engines/{name}.py"
            for name in ("test_contract", "vllm/test_gpu", "vllm/test_surface")
        ),
        *("-o", "timeout=300", "-o", "filterwarnings=default"),
    ]
    path = run.logs / "contract.log"
    with path.open("w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False)
    said = path.read_text()
    counts = {
        what: int(number)
        for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", said)
    }
    failing = re.findall(r"^(?:FAILED|ERROR) (\S+?::\S+)", said, re.MULTILINE)
    run.results["contract"] = {**counts, "failing": failing}
    if done.returncode:
        raise RuntimeError(f"pytest ended with {done.returncode}; see contract.log")


ACTS: dict[str, dict[str, Part]] = {
    "1": {
        "real": Part(real.real, ("real-float32",), 100),
        "load": Part(comparison.load, ("direct", "bf16"), 140),
        "formats": Part(headline.formats, ("bf16", "fp8"), 60),
    },
    "2": {
        "quantised": Part(quantised.quantised, ("real",), 110),
        "settings": Part(headline.settings, ("bf16", "small-cache", "eager", "whole-prompts"), 70),
        "failover": Part(failover.failover, ("bf16", "whole-prompts"), 40),
        "drafts": Part(headline.drafts, ("real", "real-drafts"), 30),
    },
    "3": {
        "demo": Part(_demo, ("demo",), 60),
        "wire": Part(comparison.wire, ("wire-direct", "wire"), 90),
        "contract": Part(_contract, (), 260),
    },
}
"""Parts in their order. An act's first part takes longer than the others' engines to start."""


def main() -> None:
    """Runs the parts; exits with 1 where one failed."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--acts", default="1,2,3")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the load part")
    parser.add_argument("--waves", type=int, default=1, help="requests per place in that part")
    parser.add_argument("--concurrency", default="64,128,256", help="of that part")
    parser.add_argument("--long-prompt-tokens", type=int, default=8192)
    chosen = parser.parse_args()
    with running(chosen, VARIANTS) as run:
        for act in chosen.acts.split(","):
            run_parts(run, ACTS[act])
    finish(run)


if __name__ == "__main__":
    main()
