"""CPU time of the frontend's own Python for each token and each request, without gRPC.

    python -m benchmarks.frontend_loop [--against PYTHON] [--rounds 150]

`benchmarks/frontend_here.py` runs a whole frontend with a scripted peer in the place of gRPC at
both ends. What gRPC, the kernel and other processes cost is not in the figures: they compare two
trees of source, and say nothing else. With `--against` the frontend of the checkout that this
Python belongs to takes turns with this one, in many short rounds on one core. Whatever else the
machine does only adds to a round, so the least of the rounds is printed, and the median of the
ratios of rounds that followed each other.

    session         64 generations of a Session, a token of each in each frame
    stream          64 StreamGenerate calls, likewise
    session_opens   16 generations of one token each, opened at once in a Session
    stream_opens    16 StreamGenerate calls of one token each, begun at once
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent / "frontend_here.py"
SCENARIOS = ("session", "stream", "session_opens", "stream_opens")
WARM_UP_ROUNDS = 3


class Measured:
    """A frontend in a process of its own, on one core."""

    def __init__(self, python: str, core: int) -> None:
        self._process = subprocess.Popen(
            [python, str(HERE), str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Where objects and strings lie makes some percent.
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        self._answer()  # it is ready

    def us(self, scenario: str) -> float:
        """Returns the microseconds of a token or request in one round."""
        if self._process.stdin is None:
            raise AssertionError("the process has pipes. This is a bug.")
        print(scenario, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError("the measured process has ended")
        return line


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="PYTHON", help="Python of another checkout")
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    chosen = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    pythons = [sys.executable, *([chosen.against] if chosen.against else [])]
    measured = [Measured(python, core) for python in pythons]
    print(f"us of CPU time for each token or request, least of {chosen.rounds} rounds")
    print("| | this | other | this / other | median of the rounds' ratios |\n|---|---|---|---|---|")
    for scenario in chosen.scenarios:
        rounds = [_round(measured, scenario, number) for number in range(chosen.rounds)]
        print(f"| {scenario} | {_row(rounds)} |", flush=True)
    for each in measured:
        each.close()


def _round(measured: Sequence[Measured], scenario: str, number: int) -> list[float]:
    """Returns the microseconds of each; to and fro, so that no place in the turn is favoured."""
    if not number:
        for _ in range(WARM_UP_ROUNDS):
            _ = [each.us(scenario) for each in measured]
    order = measured[:: 1 if number % 2 else -1]
    us = {id(each): each.us(scenario) for each in order}
    return [us[id(each)] for each in measured]


def _row(rounds: list[list[float]]) -> str:
    least = [min(each) for each in zip(*rounds, strict=True)]
    if len(least) == 1:
        return f"{least[0]:.2f} | | |"
    ratio = statistics.median(this / other for this, other in rounds)
    return f"{least[0]:.2f} | {least[1]:.2f} | {least[0] / least[1]:.3f} | {ratio:.3f}"


if __name__ == "__main__":
    main()
