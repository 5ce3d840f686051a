"""CPU time of the worker's own process per token, without its engine's process.

    python -m benchmarks.worker_loop [--against PYTHON] [--rounds 5]
    python -m benchmarks.worker_loop --worker "--engine simulated" --concurrency 256

One Exchange stream keeps the demo model busy with generations of token ids. Engine, worker
and this client share the machine; only what the threads of the worker's main process used is
counted. The bare worker, which is the least that gRPC allows, takes turns under the same load, and
with `--against` a worker of the checkout that this Python belongs to; ratios are of each round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import execution_pb2_grpc as rpc

from benchmarks.throughput import DEMO, KV_BLOCKS, LOGS, ROOT, Load

PORT = 50971
"""Of the first worker; not the services' default ports."""

VOCABULARY = 1000
"""Ids of the prompts are below this, which every model has."""

START_TIMEOUT_S = 180.0
"""A busy machine takes a minute to load three models."""

RECONNECT = ("grpc.max_reconnect_backoff_ms", 1000)


@dataclass(frozen=True)
class Worker:
    """A worker that serves the demo model."""

    name: str
    process_id: int
    target: str

    def thread_s(self) -> dict[str, float]:
        """Returns the CPU seconds that each thread of its main process has used."""
        used_s: dict[str, float] = defaultdict(float)
        for folder in Path(f"/proc/{self.process_id}/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has just ended
                nanoseconds = int((folder / "schedstat").read_text().split()[0])
                used_s[(folder / "comm").read_text().strip()] += nanoseconds / 1e9
        return used_s


@dataclass(frozen=True)
class Measured:
    """What one load cost a worker."""

    us_per_token: float
    tokens: int
    messages: int
    threads: dict[str, float]
    """Microseconds for each token, by thread."""


async def drive(load: Load, target: str) -> tuple[int, int]:
    """Keeps generations running until all are done; returns tokens and messages."""
    tokens = messages = 0
    handles = itertools.count(1)
    prompts = [list(map(int, prompt)) for prompt in load.prompts(VOCABULARY)]
    commands: asyncio.Queue[pb.ExchangeRequest | None] = asyncio.Queue()

    def submit() -> None:
        request = pb.Request(prompt_token_ids=prompts.pop(), sampling=pb.Sampling(temperature=0.0))
        request.stopping.max_tokens = load.output_tokens
        request.stopping.ignore_eos = True
        submission = pb.Submit(handle=next(handles), request=request)
        commands.put_nowait(pb.ExchangeRequest(submit=submission))

    async def sent() -> AsyncIterator[pb.ExchangeRequest]:
        while (command := await commands.get()) is not None:
            yield command

    async with grpc.aio.insecure_channel(target, [RECONNECT]) as channel:
        await asyncio.wait_for(channel.channel_ready(), START_TIMEOUT_S)
        left = len(prompts)
        for _ in range(min(load.concurrency, left)):
            submit()
        async for message in rpc.ExecutionServiceStub(channel).Exchange(sent()):
            messages += 1
            tokens += len(message.token_ids)
            if message.failures:
                raise RuntimeError(f"a generation failed: {message.failures[0]}")
            for _ in message.completions:
                left -= 1
                if prompts:
                    submit()
            if not left:
                commands.put_nowait(None)
    return tokens, messages


def measure(worker: Worker, load: Load) -> Measured:
    """Runs a load and returns what it cost."""
    before = worker.thread_s()
    tokens, messages = uvloop.run(drive(load, worker.target))
    used_s = worker.thread_s()
    each = {name: (used_s[name] - before.get(name, 0.0)) / tokens * 1e6 for name in used_s}
    if tokens != load.requests * load.output_tokens:
        raise RuntimeError(f"{tokens} tokens came of {load.requests * load.output_tokens}")
    return Measured(sum(each.values()), tokens, messages, each)


@contextlib.contextmanager
def running(name: str, python: str, module: str, port: int, options: list[str]) -> Iterator[Worker]:
    """Runs a worker for as long as the `with` block is open."""
    target = f"127.0.0.1:{port}"
    LOGS.mkdir(parents=True, exist_ok=True)
    command = [python, "-m", module, "--listen", target, "--model", str(DEMO)]
    command += ["--openvino.kv-blocks", KV_BLOCKS, *options]
    with (LOGS / f"worker_loop_{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    try:
        yield Worker(name, process.pid, target)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="PYTHON", help="Python of another checkout")
    parser.add_argument("--worker", default="", help="further arguments of the workers")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--waves", type=int, default=4, help="requests per concurrent place")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    modules = {
        "this": (sys.executable, "tokenwire_worker"),
        "bare": (sys.executable, "benchmarks.bare_worker"),
    }
    if chosen.against:
        modules["other"] = (chosen.against, "tokenwire_worker")
    options = shlex.split(chosen.worker)
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(running(name, *module, PORT + place, options))
            for place, (name, module) in enumerate(modules.items())
        ]
        rounds = [_round(chosen, number, workers) for number in range(chosen.rounds + 1)]
    print(_table(chosen, rounds[1:]))  # the first round warms up


def _round(chosen: argparse.Namespace, number: int, workers: list[Worker]) -> dict[str, Measured]:
    load = Load(
        chosen.concurrency,
        chosen.concurrency * chosen.waves,
        chosen.prompt_tokens,
        chosen.output_tokens,
        seed=number,
    )
    results = {}
    # To and fro, so that a machine that slows down or speeds up favours no worker.
    for worker in workers if number % 2 else workers[::-1]:
        results[worker.name] = result = measure(worker, load)
        print(
            f"round {number} {worker.name:5} {result.us_per_token:6.2f} us/token, "
            f"{result.tokens / result.messages:.1f} tokens a message",
            file=sys.stderr,
        )
    return results


def _table(chosen: argparse.Namespace, rounds: list[dict[str, Measured]]) -> str:
    lines = [
        f"{chosen.concurrency} concurrent, medians of {len(rounds)} rounds",
        "| worker | us/token | of bare (range) | tokens a message | threads, us/token |",
        "|---|---|---|---|---|",
    ]
    for name in rounds[0]:
        mine = [each[name] for each in rounds]
        ratios = [each[name].us_per_token / each["bare"].us_per_token for each in rounds]
        threads = {
            thread: statistics.median(each.threads.get(thread, 0.0) for each in mine)
            for thread in mine[0].threads
        }
        told = ", ".join(
            f"{thread} {us:.1f}" for thread, us in sorted(threads.items()) if us >= 0.05
        )
        cells = [
            name,
            f"{statistics.median(each.us_per_token for each in mine):.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            f"{statistics.median(each.tokens / each.messages for each in mine):.1f}",
            told,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
