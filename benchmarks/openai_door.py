"""The OpenAI-compatible interface against StreamGenerate: CPU of a token, time to the first one.

    python -m benchmarks.openai_door [--streams 64] [--rounds 7]

A worker that simulates, a frontend, and a client process; the arms take turns over the same
services, and the ratio of each round to the gRPC arm of the same round counts:

    grpc, grpc-chat   one StreamGenerate call for each request, Tokenwire's client
    http, http-chat   one streamed /v1/completions, or /v1/chat/completions, aiohttp as client

The frontend's CPU time is its processes' own, for each generated token. Time to the first token is
the client's, of one request at a time: from before the call to the first event that has text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import uvloop
from tokenwire import AsyncClient

from benchmarks.cpu import cpu_s
from benchmarks.scenario import simulated
from benchmarks.throughput import LOGS, ROOT
from demo.pair import Pair

WORKER_PORT, FRONTEND_PORT, OPENAI_PORT = 50921, 50911, 50901
"""Not the services' default ports, so that a running pair does not collide."""
ARMS = {"grpc": "grpc", "http": "grpc", "grpc-chat": "grpc-chat", "http-chat": "grpc-chat"}
"""Each with the arm that it is compared with."""
TEXT = "Once upon a time there was a little girl who had a red ball and a small dog."
MESSAGES = [{"role": "user", "content": TEXT}]
FIRST_TOKENS = 100
"""Requests one after the other whose median is the time to the first token."""

Open = Callable[[int], AsyncIterator[bool]]
"""Streams a request for so many tokens; yields of each event whether it has text."""


async def client(arm: str, streams: int, tokens: int) -> dict[str, float]:
    """Runs one arm and returns what the client saw."""
    async with (
        AsyncClient(f"127.0.0.1:{FRONTEND_PORT}") as grpc,
        aiohttp.ClientSession(
            f"http://127.0.0.1:{OPENAI_PORT}", connector=aiohttp.TCPConnector(limit=0)
        ) as http,
    ):

        async def over_grpc(count: int) -> AsyncIterator[bool]:
            prompt = {"chat": MESSAGES} if arm == "grpc-chat" else {"prompt": TEXT}
            async for delta in grpc.stream(**prompt, max_tokens=count, ignore_eos=True):
                yield bool(delta.text)

        async def over_http(count: int) -> AsyncIterator[bool]:
            path, body = _request(arm, count)
            async with http.post(path, json=body) as response:
                if response.status != 200:
                    raise RuntimeError(await response.text())
                async for line in response.content:
                    if line.startswith(b'data: {"'):
                        yield b'"content":""' not in line and b'"text":""' not in line

        open_ = over_grpc if arm.startswith("grpc") else over_http
        for _ in range(4):
            await _first_token_s(open_)
        firsts = [await _first_token_s(open_) for _ in range(FIRST_TOKENS)]
        events = await _drive(open_, 1, 16)  # the frontend's CPU time counts from here
        print(json.dumps({"first_token_ms": statistics.median(firsts) * 1e3}), flush=True)
        sys.stdin.readline()
        began_s = time.perf_counter()
        events = await _drive(open_, streams, tokens)
        elapsed_s = time.perf_counter() - began_s
    return {
        "events_per_token": events / streams / tokens,
        "tokens_per_s": streams * tokens / elapsed_s,
    }


def _request(arm: str, tokens: int) -> tuple[str, dict[str, Any]]:
    common = {"stream": True, "max_tokens": tokens, "ignore_eos": True, "model": "simulated"}
    if arm == "http":
        return "/v1/completions", {**common, "prompt": TEXT}
    return "/v1/chat/completions", {**common, "messages": MESSAGES}


async def _first_token_s(open_: Open) -> float:
    began_s, first_s = time.perf_counter(), 0.0
    async for has_text in open_(2):
        if has_text and not first_s:
            first_s = time.perf_counter() - began_s
    return first_s


async def _drive(open_: Open, streams: int, tokens: int) -> int:
    async def one() -> int:
        return sum([1 async for _ in open_(tokens)])

    return sum(await asyncio.gather(*(one() for _ in range(streams))))


def measure(arm: str, chosen: argparse.Namespace, frontend_id: int) -> dict[str, float]:
    """Runs an arm in a client process and returns its figures."""
    options = json.dumps([arm, chosen.streams, chosen.tokens])
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.openai_door", "--client", options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the process has pipes. This is a bug.")
        told: dict[str, float] = json.loads(process.stdout.readline())
        before_s = cpu_s(frontend_id)
        print(file=process.stdin, flush=True)
        told |= json.loads(process.stdout.readline())
        told["us_per_token"] = (
            (cpu_s(frontend_id) - before_s) / chosen.streams / chosen.tokens * 1e6
        )
    return told


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=512, help="of each stream")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--client", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.client:
        print(json.dumps(uvloop.run(client(*chosen.client))))
        return
    folder, options = simulated()
    with Pair(folder, WORKER_PORT, FRONTEND_PORT, LOGS, options, openai_port=OPENAI_PORT) as pair:
        pair.wait_until_ready()
        rounds = []
        for number in range(chosen.rounds + 1):
            arms = list(ARMS)[:: 1 if number % 2 else -1]
            rounds.append({arm: measure(arm, chosen, pair.process_ids["frontend"]) for arm in arms})
            print(f"round {number}: {json.dumps(rounds[-1])}", file=sys.stderr)
    print(_table(rounds[1:], chosen))  # the first round warms up


def _table(rounds: list[dict[str, dict[str, float]]], chosen: argparse.Namespace) -> str:
    lines = [
        f"{chosen.streams} streams of {chosen.tokens} tokens, medians of {chosen.rounds} rounds",
        "| arm | frontend us/token | of grpc (range) | first token ms | tok/s | events/token |",
        "|---|---|---|---|---|---|",
    ]
    for arm, reference in ARMS.items():
        ratios = [each[arm]["us_per_token"] / each[reference]["us_per_token"] for each in rounds]
        middle = {
            name: statistics.median(each[arm][name] for each in rounds) for name in rounds[0][arm]
        }
        lines.append(
            f"| {arm} | {middle['us_per_token']:.1f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) "
            f"| {middle['first_token_ms']:.2f} | {middle['tokens_per_s']:,.0f} "
            f"| {middle['events_per_token']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
