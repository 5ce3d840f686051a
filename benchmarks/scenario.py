"""A pair of services on this machine, and one scenario of `tokenwire bench` against it.

    python -m benchmarks.scenario [SCENARIO] [--engine simulated|openvino] [options of the scenario]

Without a scenario it is `wire`, for about a minute. Result and report go to build/bench. The
simulated engine takes next to no CPU time, so that what is measured are the services; its tokens
come at the times of a small model's on a GPU.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenwire.cli.main import main as tokenwire

from benchmarks.throughput import DEMO as OPENVINO
from benchmarks.throughput import LOGS, ROOT
from demo.pair import Pair, PairError

WORKER_PORT, FRONTEND_PORT = 50941, 50931
"""Not the services' default ports, so that a running pair does not collide."""

SIMULATED_CONTEXT_TOKENS = 131_072
"""Room for the prompts of 100,000 tokens that the scenario `long` sends."""

A_MINUTE = ("wire", "--rounds", "2", "--duration", "12s", "--warmup", "2s")


def main() -> int:
    """Runs the scenario and returns the exit code of `tokenwire bench`."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], add_help=False, allow_abbrev=False
    )
    parser.add_argument("--engine", choices=("simulated", "openvino"), default="simulated")
    chosen, words = parser.parse_known_args()
    words = words or list(A_MINUTE)
    model, options = simulated() if chosen.engine == "simulated" else (OPENVINO, ())
    given = ["--target", f"127.0.0.1:{FRONTEND_PORT}", "--out", str(LOGS / words[0])]
    try:
        with Pair(model, WORKER_PORT, FRONTEND_PORT, LOGS, options) as pair:
            pair.wait_until_ready()
            # What the caller gives counts last, and so before these.
            return tokenwire(["bench", words[0], *given, *words[1:]])
    except PairError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def simulated() -> tuple[Path, Sequence[str]]:
    """Returns a model folder and the worker's options.

    The folder has the demo model's tokenizer and chat template without its config.json, which
    would set the context.
    """
    folder = LOGS / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    for each in (ROOT / "models/demo/hf").iterdir():
        if each.name not in ("config.json", "model.safetensors"):
            shutil.copy(each, folder)
    context = ("--context-tokens", str(SIMULATED_CONTEXT_TOKENS))
    return folder, ("--engine", "simulated", "--model-name", "simulated", *context)


if __name__ == "__main__":
    sys.exit(main())
