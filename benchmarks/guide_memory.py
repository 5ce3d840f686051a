"""Memory and throughput over thousands of distinct JSON Schemas.

    python -m benchmarks.guide_memory [--schemas 2000] [--guide-memory-mib 64]

A worker and a frontend of its own run generations that are each held to a schema which no other
has. Printed for each tenth of the schemas: the most resident memory of the worker and all processes
below it together, the most processes that these were, and generations a second. A generation that
finds no memory or no time for its schema is counted, and asked again after the time that the worker
names.
Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenwire import AsyncClient, OverloadedError, RetryPolicy, UnavailableError
from tokenwire_worker.engines.descendants import descendants
from tokenwire_worker.engines.guides.memory import resident_bytes

from benchmarks.throughput import DEMO, FRONTEND_PORT, KV_BLOCKS, LOGS, WORKER_PORT
from demo.pair import Pair

PARTS = 10
MIB = 1024**2
LOOK_S = 0.1


@dataclass
class Part:
    """What one part of the schemas took."""

    resident_mib: int = 0
    processes: int = 0
    refused: int = 0
    per_s: float = 0.0


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO, help="OpenVINO model folder")
    parser.add_argument("--schemas", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--guide-memory-mib", default="64", help="the worker's setting")
    parser.add_argument("--replace-when-idle", action="store_true", help="the worker's setting")
    chosen = parser.parse_args()
    options = [
        *("--openvino.kv-blocks", KV_BLOCKS),
        *("--openvino.guide-memory-mib", chosen.guide_memory_mib),
        *(["--openvino.replace-when-idle"] if chosen.replace_when_idle else []),
    ]
    with Pair(chosen.model, WORKER_PORT, FRONTEND_PORT, LOGS, options) as pair:
        pair.wait_until_ready()
        asyncio.run(_run(chosen, pair))


async def _run(chosen: argparse.Namespace, pair: Pair) -> None:
    each = chosen.schemas // PARTS
    print("schemas  resident MiB  processes  refused  generations/s")
    async with AsyncClient(pair.frontend, retry=RetryPolicy(attempts=1)) as client:
        await client.generate("hello", max_tokens=4, json_schema=_schema(-1))
        for number in range(PARTS):
            part = Part()
            schemas = iter(range(number * each, (number + 1) * each))
            watching = asyncio.ensure_future(_watch(pair.process_ids["worker"], part))
            began_s = time.monotonic()
            callers = [_call(client, schemas, part) for _ in range(chosen.concurrency)]
            await asyncio.gather(*callers)
            part.per_s = each / (time.monotonic() - began_s)
            watching.cancel()
            print(
                f"{(number + 1) * each:7}  {part.resident_mib:12}  {part.processes:9}  "
                f"{part.refused:7}  {part.per_s:13.1f}",
                flush=True,
            )


async def _call(client: AsyncClient, schemas: Iterator[int], part: Part) -> None:
    for number in schemas:
        while True:
            try:
                await client.generate("hello", max_tokens=8, json_schema=_schema(number))
            except (OverloadedError, UnavailableError) as error:
                part.refused += 1
                await asyncio.sleep(error.retry_after_s or 1.0)
            else:
                break


async def _watch(worker: int, part: Part) -> None:
    while True:
        processes = [worker, *descendants(worker)]
        resident = sum(map(resident_bytes, processes)) // MIB
        part.resident_mib = max(part.resident_mib, resident)
        part.processes = max(part.processes, len(processes))
        await asyncio.sleep(LOOK_S)


def _schema(number: int) -> str:
    properties = {f"x{number}_{i}": {"type": "string", "maxLength": 20} for i in range(8)}
    return json.dumps({"type": "object", "properties": properties, "required": [f"x{number}_0"]})


if __name__ == "__main__":
    if not Path(f"/proc/{os.getpid()}/statm").exists():
        raise SystemExit("this needs /proc")
    main()
