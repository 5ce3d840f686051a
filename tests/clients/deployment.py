"""What all clients are run against: one worker, two frontends, and a relay that cuts streams."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from tests.services.processes import Processes

CUT_BYTES = 2500
"""From the frontend, after which the relay resets a connection: some tens of deltas."""


@contextmanager
def deployment() -> Iterator[dict[str, str]]:
    """Starts everything and yields the addresses by name.

    `frontend` is a frontend. `cut` is another one behind the relay.
    """
    processes = Processes()
    try:
        worker = processes.worker()
        first, second = (processes.frontend(workers=[worker]) for _ in range(2))
        for each in (first, second):
            each.wait_for("worker", state="ready")
        with _relay(second.address) as relay:
            yield {"frontend": first.address, "cut": relay}
    finally:
        processes.end()


@contextmanager
def _relay(target: str) -> Iterator[str]:
    """Serves a relay on a thread of its own, and yields its address."""
    stopping = asyncio.Event()
    with ThreadPoolExecutor(1) as thread, asyncio.Runner() as runner:
        address: Future[str] = Future()
        serving = thread.submit(runner.run, _serve_relay(target, address, stopping))
        try:
            yield address.result()
        finally:
            runner.get_loop().call_soon_threadsafe(stopping.set)
            serving.result()


async def _serve_relay(target: str, address: Future[str], stopping: asyncio.Event) -> None:
    host, _, port = target.rpartition(":")
    relayed: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(host, int(port))
        forth = asyncio.create_task(_pass_on(reader, requests))
        try:
            await _pass_on(answers, writer, CUT_BYTES)
        finally:
            forth.cancel()
            for side in (writer, requests):
                side.transport.abort()
            await asyncio.wait([forth])

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relayed.add(asyncio.create_task(relay(reader, writer)))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        address.set_result("{}:{}".format(*server.sockets[0].getsockname()))
        await stopping.wait()
        for each in relayed:
            each.cancel()
        await asyncio.gather(*relayed, return_exceptions=True)


async def _pass_on(
    source: asyncio.StreamReader, to: asyncio.StreamWriter, limit: float = float("inf")
) -> None:
    """Passes on what comes until it ends, or that many bytes have come."""
    passed = 0
    while passed < limit and (data := await source.read(CUT_BYTES)):
        passed += len(data)
        to.write(data)
        await to.drain()
