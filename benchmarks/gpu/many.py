"""What the GPUs of one host are worth together: see README.md beside this file.

python -m benchmarks.gpu.many --out FOLDER [--gpus N] [--acts 1,2] [--parts scale,kill] [--dry]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.gpu import bench, demo, disaggregated, failover, fleet, report, tables_of_many
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.context import Part, Run, finish, options, run_parts, running
from benchmarks.gpu.fleet import Fleet
from benchmarks.gpu.processes import Service

PROCESSES = (1, 2, 4)
"""Serving processes of a frontend."""

FRONTEND = ("--generations-limit", "8192")
"""More than all streams: one process may be given them all."""

WARM_UP_S = 2.0
"""About a request's time: those that begin together at first then end one by one."""
FRONTENDS_S = 8.0
"""Until the frontends of some workers serve, which start side by side."""
AROUND_S = 6.0
"""Of a load: its processes start before it, and what is in flight ends after it."""


def scale(gpus: Fleet, run: Run) -> None:
    """Workers behind frontends of several processes, with prefix routing, against one worker."""
    workers = _workers(gpus, run)
    arms: list[dict[str, Any]] = []
    run.results["scale"] = {"streams_a_worker": run.chosen.streams, "arms": arms}
    for count in gpus.counts:
        start = partial(_frontend, run, f"of-{count}", workers[:count])
        with ThreadPoolExecutor(len(PROCESSES)) as pool:
            frontends = list(pool.map(start, PROCESSES))
        for processes, frontend in zip(PROCESSES, frontends, strict=True):
            name = f"{count}-workers-{processes}-processes"
            (figures,) = _measure(run, frontend, name, [run.chosen.streams * count]).values()
            arms.append({"workers": count, "processes": processes, **figures})
        for frontend in frontends:
            frontend.stop()
        report.write(run.results, run.chosen.out)
    bench.hold(arms)
    for count in gpus.counts[1:]:
        best = tables_of_many.best(arms, count)
        wanted = tables_of_many.SHARE * count
        # Without a GPU the host is the limit, and not the engines.
        _hold(best >= wanted or run.chosen.dry, f"{count} workers are {best:.2f} times one")


def kill(gpus: Fleet, run: Run) -> None:
    """SIGKILL of half of the workers at once, under load."""
    workers = _workers(gpus, run)
    victims = gpus.workers[(len(workers) + 1) // 2 :]
    frontend = _frontend(run, "kill", workers, PROCESSES[-1])
    killed = [run.engines.pair(name).worker for name in victims]
    try:
        streams = run.chosen.streams * len(workers)
        found = failover.under_load(run, frontend, "kill", killed, streams)
    finally:
        run.engines.end(victims)
    run.results["kill"] = {"workers": len(workers), "killed": len(killed), **found}
    bench.hold([found])


def exact(gpus: Fleet, run: Run) -> None:
    """A model split over GPUs answers as one GPU does, and without experts as OpenVINO does."""
    found: dict[str, Any] = {}
    run.results["exact"] = found
    try:
        for model in EXACT_MODELS:
            one, *others = gpus.family(model)
            expected = _answers(run, one)
            equal = {name: _equal(expected, _answers(run, name)) for name in others}
            found[model] = {"of": len(expected), "equal": equal}
            if model == "demo-heads":
                recorded = demo.compare(expected, run.models["demo"])
                found[model]["equal_to_openvino"] = recorded["equal"]
    finally:
        # They would take memory and cores from what is measured next.
        run.engines.end(_engines_of(gpus, *EXACT_MODELS))
    run.say(f"exact: {found}")
    differ = [
        f"{name}: {equal} of {each['of']}"
        for each in found.values()
        for name, equal in each["equal"].items()
        if equal < each["of"]
    ]
    _hold(not differ, f"answers differ from one GPU's; equal are {', '.join(differ)}")


EXACT_MODELS = ("demo-heads", "demo-moe")


def _answers(run: Run, engine: str) -> dict[str, str]:
    return demo.answers(run.engines.pair(engine).frontend.address)


def _equal(expected: dict[str, str], found: dict[str, str]) -> int:
    return sum(found[prompt] == text for prompt, text in expected.items())


def _engines_of(gpus: Fleet, *models: str) -> tuple[str, ...]:
    return tuple(name for model in models for name in gpus.family(model))


def split(name: str, model: str, gpus: Fleet, run: Run) -> None:
    """One model over all GPUs in each way, against one GPU."""
    found: dict[str, Any] = {}
    run.results[name] = found
    for engine in gpus.family(model):
        frontend = run.engines.pair(engine).frontend
        found[engine] = _measure(run, frontend, engine, [1, run.chosen.streams])


def routing(gpus: Fleet, run: Run) -> None:
    """Prefix reuse of one worker, and of two by each policy."""
    workers = _workers(gpus, run)[:2]
    arms = {
        "one worker": run.engines.pair(gpus.workers[0]).frontend,
        "prefix": run.services.frontend("by-prefix", workers, "--routing", "prefix"),
        "least_loaded": run.services.frontend("by-load", workers, "--routing", "least_loaded"),
    }
    found: dict[str, Any] = {}
    run.results["routing"] = found
    for arm, frontend in arms.items():
        found[arm] = {}
        for title, given in ROUTING.items():
            name = f"routing-{arm}-{title}".replace(" ", "-")
            (figures,) = _measure(run, frontend, name, [ROUTING_STREAMS], **given).values()
            found[arm][title] = figures


ROUTING_STREAMS = 48
ROUTING = {
    "conversations": {"scenario": "prefix", "prefixes": "0", "input": "400", "turns": "5"},
    "shared prefixes": {
        "scenario": "prefix",
        "prefixes": "16",
        "prefix-tokens": "2048",
        "input": "64",
        "turns": "1",
    },
}
"""Conversations of 5 turns, and single requests behind one of 16 prefixes; outputs of 64 tokens."""


def rolling(gpus: Fleet, run: Run) -> None:
    """Two workers are restarted in turn under load."""
    workers = _workers(gpus, run)[:2]
    frontend = _frontend(run, "rolling", workers, 1)
    streams = run.chosen.streams
    given = {"timeout": f"{HUNG_S:.0f}"}
    with _bench(run, frontend, "rolling", [streams], 0.0, ROLLING_MOST_S, **given) as load:
        bench.wait_until_running(frontend, streams)
        start_s = time.perf_counter()
        for worker in workers:
            worker.restart()
            # The frontend connects anew within 2 s; until then the other one has all the load.
            frontend.wait_until_ready()
        restarted_s = time.perf_counter() - start_s
        load.cut()
        (figures,) = load.figures(0.0).values()
    found = {"both_restarted_s": restarted_s, **figures}
    run.results["rolling"] = found
    run.say(f"rolling restart: {found}")
    bench.hold([{**found, "unfinished": 0}])  # those that were cut off at the end


def apart(gpus: Fleet, run: Run) -> None:
    """A worker for prompts and one for tokens, against two that do both."""
    arms = {
        "two workers": _frontend(run, "both", _workers(gpus, run)[:2], 1),
        "a pair": disaggregated.pair(run, "apart", *gpus.apart),
    }
    run.results["apart"] = disaggregated.compare(run, arms)


ROLLING_MOST_S = 600.0
HUNG_S = 30.0
"""A request that takes longer has failed: ten times what it takes at most."""


def _workers(gpus: Fleet, run: Run) -> list[Service]:
    return [run.engines.pair(name).worker for name in gpus.workers]


def _frontend(run: Run, name: str, workers: Sequence[Service], processes: int) -> Service:
    given = (*FRONTEND, "--routing", "prefix")
    return run.services.frontend(f"{name}-by-{processes}", workers, *given, processes=processes)


def _measure(
    run: Run, frontend: Service, name: str, concurrent: Sequence[int], **given: str
) -> dict[str, dict[str, Any]]:
    """Loads a frontend with so many requests at once, one number after the other."""
    window_s = run.chosen.window_s
    with _bench(run, frontend, name, concurrent, WARM_UP_S, window_s, **given) as load:
        found = load.figures(len(concurrent) * (WARM_UP_S + window_s))
    for streams, figures in found.items():
        run.say(
            f"{name:28} {streams:>5} at once {figures.get('tokens_per_s', 0):9,.0f} tok/s, "
            f"load {tables_of_many.load(figures)}"
        )
    return found


def _bench(
    run: Run,
    frontend: Service,
    name: str,
    concurrent: Sequence[int],
    warm_up_s: float,
    window_s: float,
    **given: str,
) -> Bench:
    tokens = run.chosen.output_tokens
    lengths = {
        "input": str(run.chosen.prompt_tokens),
        "output": f"uniform:{tokens // 2}-{tokens * 3 // 2}",
    }
    load = bench.load(concurrent, warm_up_s, window_s)
    return Bench(frontend, name, run.logs, {**load, **lengths, **given})


def _hold(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(what)


def acts(gpus: Fleet, window_s: float) -> dict[str, dict[str, Part]]:
    """Returns the parts by act; the engines of one fit into the GPUs' memory together."""
    arm_s = WARM_UP_S + window_s + AROUND_S
    scale_s = len(gpus.counts) * (FRONTENDS_S + len(PROCESSES) * arm_s)
    first = {"scale": Part(partial(scale, gpus), gpus.workers, round(scale_s))}
    if len(gpus.gpus) == 1:
        return {"1": first, "2": {}, "3": {}}
    eight, moe, two = gpus.family("8b"), gpus.family("moe"), gpus.workers[:2]
    small = _engines_of(gpus, *EXACT_MODELS)
    each_s = round(2 * (WARM_UP_S + window_s) + AROUND_S)
    return {
        # The last is `kill`, which leaves half of the workers.
        "1": {**first, "kill": Part(partial(kill, gpus), gpus.workers, 45)},
        "2": {
            "exact": Part(partial(exact, gpus), small, 90, timed=False),
            "parallel": Part(partial(split, "parallel", "8b", gpus), eight, len(eight) * each_s),
            "experts": Part(partial(split, "experts", "moe", gpus), moe, len(moe) * each_s),
        },
        "3": {
            "routing": Part(partial(routing, gpus), two, round(6 * arm_s)),
            "disaggregated": Part(partial(apart, gpus), (*two, *gpus.apart), 90),
            "rolling": Part(partial(rolling, gpus), two, 130),
        },
    }


def main() -> None:
    """Runs the parts; exits with 1 where one failed."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=int, help="at most so many; default: all that are visible")
    parser.add_argument("--acts", default="1,2", help="1, 2, 3; default: %(default)s")
    parser.add_argument("--streams", type=int, default=128, help="of each worker")
    parser.add_argument("--window-s", type=float, default=6.0, help="measured time of a load")
    chosen = parser.parse_args()
    gpus = _fleet(chosen)
    with running(chosen, gpus.variants()) as run:
        for act in chosen.acts.split(","):
            run_parts(run, acts(gpus, chosen.window_s)[act])
    finish(run)


def _fleet(chosen: argparse.Namespace) -> Fleet:
    if chosen.dry:
        return Fleet(tuple(map(str, range(chosen.gpus or 2))))
    return Fleet(fleet.visible(chosen.gpus))


if __name__ == "__main__":
    main()
