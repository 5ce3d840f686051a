"""Routing policies on traces: how much of the prompts they find cached, and how even the load is.

    python -m benchmarks.routing [--workers 4,16,64,256] [--policies prefix,least_loaded]
                                 [--traces chat,shared,documents,agents] [--seeds 11,12]
                                 [--frontends 1] [--events] [--requests 100] [--live]

Simulates each policy on traces of chats, shared system prompts, documents and agents. The best
possible is one cache that all workers share, without bound (BEST) or of all workers' size (SHARED).
Exits with 1 where `prefix` finds less than 0.9 of the best, or a worker gets more than 1.25 times
its share.

--live runs the traces on simulated engines too, with one worker process and one frontend, two
minutes for each policy and trace. Exits with 1 where its hit rate is not the simulation's, give or
take 0.05.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from tokenwire_frontend.core.routing.least_loaded import LeastLoaded
from tokenwire_frontend.core.routing.prefix import PrefixRouter
from tokenwire_frontend.core.routing.round_robin import RoundRobin
from tokenwire_frontend.core.routing.router import Router

from benchmarks.routing import live
from benchmarks.routing.simulation import Bounds, Result, Simulation, bounds, prepare
from benchmarks.routing.traces import TRACES, Shape

POLICIES: dict[str, Callable[[], Router]] = {
    "prefix": lambda: PrefixRouter(256 * 2**20),
    "least_loaded": LeastLoaded,
    "round_robin": RoundRobin,
}

RATE = 0.9
"""Requests a second for each worker: 5 of the 16 sequences that it runs at once are in use."""

LEAST_REQUESTS = 2000
"""Of a trace: fewer would meet most of its 200 system prompts once."""

LEAST_REUSE, MOST_SPREAD, AGREEMENT = 0.9, 1.25, 0.05

HEAD = (
    f"{'TRACE':10}{'SEED':>5}{'WORKERS':>8}{'FRONTENDS':>10}  {'POLICY':14}{'HIT':>7}{'OF BEST':>9}"
    f"{'OF SHARED':>11}{'SPREAD':>8}{'WAIT':>9}"
)


def main() -> int:
    """Runs what is asked for, prints a row for each run, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default=None, help="sizes; default 4,16,64,256, live 4")
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--traces", default=",".join(TRACES))
    parser.add_argument("--seeds", default="0", help="numbers; 0: the trace's own")
    parser.add_argument("--frontends", type=int, default=1)
    parser.add_argument("--events", action="store_true", help="workers send KV events")
    parser.add_argument("--requests", type=int, default=100, help="for each worker")
    parser.add_argument("--live", action="store_true")
    chosen = parser.parse_args()
    sizes = chosen.workers or ("4" if chosen.live else "4,16,64,256")
    print(HEAD)
    good = True
    for workers in map(int, sizes.split(",")):
        for name in chosen.traces.split(","):
            for seed in map(int, chosen.seeds.split(",")):
                good &= _compare(name, seed, workers, chosen)
    return 0 if good else 1


def _compare(name: str, seed: int, workers: int, chosen: argparse.Namespace) -> bool:
    """Runs all policies on one trace; returns whether all is as it must be."""
    least = 0 if chosen.live else LEAST_REQUESTS
    shape = Shape(max(chosen.requests * workers, least), RATE * workers)
    trace = TRACES[name](shape, seed) if seed else TRACES[name](shape)
    jobs = prepare(trace)
    best = bounds(jobs, workers)
    good = True
    for policy in chosen.policies.split(","):
        routers = [POLICIES[policy]() for _ in range(chosen.frontends)]
        events = chosen.events or chosen.live
        result = Simulation(routers, workers, events=events).run(jobs)
        row = f"{name:10}{seed:5}{workers:8}{chosen.frontends:10}  {policy:14}"
        print(row + _figures(result, best), flush=True)
        if policy == "prefix":
            good &= result.hit_rate >= LEAST_REUSE * best.unbounded
            good &= result.spread <= MOST_SPREAD
        if chosen.live:
            served = live.run(trace, workers, policy)
            row = f"{name:10}{seed:5}{workers:8}{1:10}  {policy + ' live':14}"
            print(row + _figures(served, best), flush=True)
            good &= abs(served.hit_rate - result.hit_rate) <= AGREEMENT
    return good


def _figures(result: Result, best: Bounds) -> str:
    return (
        f"{result.hit_rate:7.3f}{result.hit_rate / best.unbounded:9.3f}"
        f"{result.hit_rate / best.shared:11.3f}{result.spread:8.3f}{result.wait_s * 1e3:6.0f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
