"""Kills, stops, cuts off and drains three workers and two frontends at random, under load.

Every request must end with the answer that it has when nothing else goes on. The report goes to
build/chaos: chaos.md to read, chaos.json for programs, and the logs of all services.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

from tests.chaos.faults import KINDS, kinds_of
from tests.chaos.fleet import ROOT, FleetError
from tests.chaos.run import Settings, run
from tests.guardian import guarded

REQUESTS = {"simulated": 10_000, "openvino": 1_000}
CALLERS = {"simulated": 32, "openvino": 6}
"""As many as two cores serve with room to spare: in an overload gaps say nothing of the faults."""


def main() -> int:
    """Runs and returns the exit code: 1 where something does not hold."""
    args = _arguments()
    seed = random.randrange(10**6) if args.seed is None else args.seed
    settings = Settings(
        engine=args.engine,
        requests=args.requests or (sys.maxsize if args.rolling else REQUESTS[args.engine]),
        minutes=args.minutes,
        seed=seed,
        callers=args.callers or CALLERS[args.engine],
        cases=args.cases,
        step_ms=args.step_ms,
        pause_s=args.pause_s,
        kinds=tuple(args.kind),
        rolling=args.rolling,
    )
    print(f"chaos: seed {seed}", flush=True)
    with guarded():
        try:
            report = asyncio.run(run(settings, args.out))
        except FleetError as error:
            print(f"chaos: {error}", file=sys.stderr)
            return 1
    report.write(args.out)
    print(report.as_page())
    return 0 if all(each.held for each in report.holds()) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    defaults = Settings()
    parser.add_argument("--engine", choices=sorted(REQUESTS), default=defaults.engine)
    parser.add_argument("--requests", type=int, help="default: 10,000, of openvino 1,000")
    parser.add_argument(
        "--minutes", type=float, default=defaults.minutes, help="no request begins later"
    )
    parser.add_argument("--seed", type=int, help="of every choice; default: any")
    parser.add_argument("--callers", type=int, help="at once; default: 32, of openvino 6")
    parser.add_argument("--cases", type=int, default=defaults.cases, help="different requests")
    parser.add_argument(
        "--step-ms", type=float, default=defaults.step_ms, help="of the simulated engine"
    )
    parser.add_argument(
        "--pause-s", type=float, default=defaults.pause_s,
        help="mean time between two faults of workers",
    )  # fmt: skip
    parser.add_argument(
        "--kind", action="append", choices=KINDS, default=[],
        help="of faults, such as 'worker kill'; repeatable; default: all that the engine can have",
    )  # fmt: skip
    parser.add_argument(
        "--rolling", type=int, default=0, metavar="ROUNDS",
        help="restart all services in turn, one every --pause-s; instead of other faults",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=ROOT / "build/chaos")
    args = parser.parse_args()
    for kind in set(args.kind) - set(kinds_of(args.engine)):
        parser.error(f"--kind: the {args.engine} engine has no {kind}")
    return args


if __name__ == "__main__":
    sys.exit(main())
