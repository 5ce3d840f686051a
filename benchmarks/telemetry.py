"""What telemetry costs the frontend: CPU for each token, with it on against off, in one run.

    python -m benchmarks.telemetry [--concurrency 64] [--rounds 7]

One worker, and three frontends beside each other that take turns under the same load:

    off      no admin port and no OTLP endpoint: nothing is recorded
    one      traces of 1 % of the requests and all metrics, over OTLP and on the admin port
    all      traces of all requests and all metrics, likewise

A receiver takes what they send. CPU time is each frontend's own, exporter threads included, for a
generated token. The ratio is of all rounds together, since single rounds differ by 5 %; beside it
stands the median of the rounds' own ratios. The place of each in the turn changes from round to
round. A frontend that is busier merges more tokens into a delta, so deltas are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.cpu import cpu_s
from benchmarks.throughput import DEMO, LOGS, Load, measure

SINK, WORKER = "127.0.0.1:50944", "127.0.0.1:50961"
FRONTENDS = {"off": "127.0.0.1:50951", "one": "127.0.0.1:50952", "all": "127.0.0.1:50953"}
ADMINS = {"one": "127.0.0.1:50942", "all": "127.0.0.1:50943"}
SAMPLED = {"one": "0.01", "all": "1"}
START_TIMEOUT_S = 180.0
"""A GPU engine takes most of a minute."""


def main() -> None:
    """Measures and prints a table for each kind of call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO, help="OpenVINO model folder")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--waves", type=int, default=3, help="requests per concurrent place")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", default="", help="further options of the worker, in one word")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    figures = {}
    with ExitStack() as stack:
        _start(stack, "sink", "benchmarks.otlp_sink", SINK.rpartition(":")[2])
        model = ["--model", str(chosen.model), *shlex.split(chosen.worker)]
        _start(stack, "worker", "tokenwire_worker", "--listen", WORKER, *model)
        frontends = {name: _start_frontend(stack, name) for name in FRONTENDS}
        for call in ("stream", "session"):
            rounds = [
                _round(chosen, number, call, frontends) for number in range(chosen.rounds + 1)
            ]
            figures[call] = _summary(rounds[1:])  # the first round warms up
            print(_table(call, figures[call], chosen))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


def _start_frontend(stack: ExitStack, name: str) -> int:
    arguments = ["--worker", WORKER, "--listen", FRONTENDS[name]]
    environment = {}
    if name != "off":
        arguments += ["--admin-listen", ADMINS[name]]
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{SINK}",
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": SAMPLED[name],
        }
    process_id = _start(stack, name, "tokenwire_frontend", *arguments, **environment)
    with grpc.insecure_channel(FRONTENDS[name]) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S, wait_for_ready=True
        )
        for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
    return process_id


def _start(stack: ExitStack, name: str, module: str, *arguments: str, **environment: str) -> int:
    log = stack.enter_context((LOGS / f"telemetry-{name}.log").open("wb"))
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
        )
    )
    stack.callback(process.terminate)
    return process.pid


def _round(
    chosen: argparse.Namespace, number: int, call: str, frontends: dict[str, int]
) -> dict[str, dict[str, float]]:
    names = list(FRONTENDS)
    turn = number % len(names)
    results = {}
    for name in names[turn:] + names[:turn]:
        requests = chosen.concurrency * chosen.waves
        load = Load(chosen.concurrency, requests, 128, 128, seed=number, text=True)
        before_s = cpu_s(frontends[name])
        result = measure(call, load, chosen.model, FRONTENDS[name])
        spent_s = cpu_s(frontends[name]) - before_s
        result["us_per_token"] = spent_s / result["tokens"] * 1e6
        results[name] = result
        print(f"{call} round {number} {name:4} {result['us_per_token']:.1f} us", file=sys.stderr)
    return results


def _summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    figures = {}
    for name in FRONTENDS:
        ratios = [each[name]["us_per_token"] / each["off"]["us_per_token"] for each in rounds]
        figures[name] = {
            "us_per_token": statistics.median(each[name]["us_per_token"] for each in rounds),
            "deltas": statistics.median(each[name]["deltas"] for each in rounds),
            "ratio": _sum(rounds, name) / _sum(rounds, "off"),
            "ratio_median": statistics.median(ratios),
            "ratio_low": min(ratios),
            "ratio_high": max(ratios),
        }
    return figures


def _sum(rounds: list[dict[str, dict[str, float]]], name: str) -> float:
    return sum(each[name]["us_per_token"] for each in rounds)


def _table(call: str, figures: dict[str, dict[str, float]], chosen: argparse.Namespace) -> str:
    lines = [
        f"{call}: {chosen.concurrency} concurrent, medians of {chosen.rounds} rounds",
        "| telemetry | frontend us/token | of off | median of rounds (range) | deltas |",
        "|---|---|---|---|---|",
    ]
    for name, each in figures.items():
        spread = f"{each['ratio_low']:.3f} to {each['ratio_high']:.3f}"
        cells = [
            name,
            f"{each['us_per_token']:.1f}",
            f"{each['ratio']:.3f}",
            f"{each['ratio_median']:.3f} ({spread})",
            f"{each['deltas']:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
