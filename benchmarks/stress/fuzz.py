"""Random messages to every RPC of both services: no crash, no hang, no INTERNAL, no UNKNOWN.

    python -m benchmarks.stress.fuzz [--messages 200000] [--seed 1]

Both services run as processes of their own. Half of the messages are nearly good, a tenth are no
messages at all. At the end both services must serve, hold nothing, and have logged no fault.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from random import Random
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from tokenwire import AsyncClient
from tokenwire._ending import Ending
from tokenwire.channel_arguments import client
from tokenwire.frontend.v1 import activity_pb2, generation_pb2, model_pb2, tokenization_pb2
from tokenwire.worker.v1 import execution_pb2, worker_pb2

from benchmarks.stress.random_messages import RandomMessages
from benchmarks.stress.services import LOGS, faults, pair
from demo.pair import Pair

CALL_S = 4.0
"""Deadline of a call. A generation that was not told to end soon may take all of it."""

HANG_S = 15.0
"""A call that has no status by then hangs, whatever its deadline says."""

AT_ONCE = 24
"""Calls at once: enough that faults meet each other, and few enough for 2 cores."""

FAULTS = ("INTERNAL", "UNKNOWN", "HANG")

METHODS = {
    "frontend": [
        method
        for file in (generation_pb2, tokenization_pb2, model_pb2, activity_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ],
    "worker": [
        method
        for file in (execution_pb2, worker_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ],
}


class Fuzz:
    """Sends random messages; counts what came of them."""

    def __init__(self, services: Pair, source: Random) -> None:
        self._source = source
        self._random = RandomMessages(source)
        self._services = services
        self._channels: dict[str, grpc.aio.Channel] = {}
        self.sent = 0
        self.statuses: dict[str, Counter[str]] = {}

    async def run(self, messages: int) -> None:
        """Sends so many messages, AT_ONCE calls at a time."""
        for name, address in (
            ("frontend", self._services.frontend),
            ("worker", self._services.worker),
        ):
            self._channels[name] = grpc.aio.insecure_channel(address, options=client(address))

        async def caller() -> None:
            while self.sent < messages:
                await self._call()

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        for channel in self._channels.values():
            await channel.close()

    async def _call(self) -> None:
        service = self._source.choice(("frontend", "worker"))
        method: MethodDescriptor = self._source.choice(METHODS[service])
        count = self._source.randrange(1, 4) if method.client_streaming else 1
        requests = [self._random.request(method) for _ in range(count)]
        self.sent += count
        try:
            async with asyncio.timeout(HANG_S):
                status = await self._status(self._channels[service], method, requests)
        except TimeoutError:
            status = "HANG"
        self.statuses.setdefault(method.name, Counter())[status] += 1
        if status in FAULTS:
            print(f"{status}: {method.full_name} {[data.hex()[:400] for data in requests]}")

    async def _status(self, channel: Any, method: MethodDescriptor, requests: list[bytes]) -> str:
        path = f"/{method.containing_service.full_name}/{method.name}"
        if method.client_streaming:
            call = channel.stream_stream(path)(_each(requests), timeout=CALL_S)
        elif method.server_streaming:
            call = channel.unary_stream(path)(requests[0], timeout=CALL_S)
        else:
            call = channel.unary_unary(path)(requests[0], timeout=CALL_S)
        ending = Ending(call)
        try:
            if not method.server_streaming:
                await call
            else:
                async for _ in call:
                    if method.name in ("WatchLoad", "WatchActivity"):
                        call.cancel()  # it would go on until the deadline
        except asyncio.CancelledError:
            pass
        except grpc.aio.AioRpcError as error:
            failure = ending.real(error)
            return "OK" if failure is None else failure.code().name
        code: grpc.StatusCode = await call.code()
        return code.name


async def _each(requests: list[bytes]) -> Any:
    for request in requests:
        yield request


async def _held(target: str) -> str:
    """Returns what the services still hold, which is to be nothing."""
    async with AsyncClient(target) as client:
        for _ in range(100):
            async for activity in client.activity():
                held = activity.active_generations
                workers = [(each.running, each.in_flight) for each in activity.workers]
                break
            if not held and not any(map(any, workers)):
                break
            await asyncio.sleep(0.1)
        answer = await client.generate("The capital of France is", max_tokens=4, temperature=0)
    return f"generations {held}, workers (running, in flight) {workers}; then: {answer.text!r}"


def main() -> None:
    """Runs, prints what came of it, and exits with 1 where there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with pair() as services:
        services.wait_until_ready()
        fuzz = Fuzz(services, Random(chosen.seed))
        began_s = time.monotonic()
        asyncio.run(fuzz.run(chosen.messages))
        took_s = time.monotonic() - began_s
        held = asyncio.run(_held(services.frontend))
    for name, statuses in sorted(fuzz.statuses.items()):
        print(f"{name:18}", dict(statuses.most_common()))
    found = sum(statuses[fault] for statuses in fuzz.statuses.values() for fault in FAULTS)
    logged = faults()
    print(f"{fuzz.sent} messages in {took_s:.0f} s; {found} faults; held at the end: {held}")
    print(f"faults in the logs ({LOGS}): {len(logged)}", *logged[:5], sep="\n")
    sys.exit(1 if found or logged else 0)


if __name__ == "__main__":
    main()
