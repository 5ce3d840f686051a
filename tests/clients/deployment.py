"""What all clients are run against: one worker, two frontends, and a relay that cuts streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
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
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(_serve_relay(target), loop).result()
        yield "{}:{}".format(*server.sockets[0].getsockname())
        loop.call_soon_threadsafe(server.close)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _serve_relay(target: str) -> asyncio.Server:
    host, _, port = target.rpartition(":")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(host, int(port))
        forth = asyncio.create_task(_pass_on(reader, requests))
        await _pass_on(answers, writer, CUT_BYTES)
        forth.cancel()
        for side in (writer, requests):
            side.transport.abort()

    return await asyncio.start_server(relay, "127.0.0.1", 0)


async def _pass_on(
    source: asyncio.StreamReader, to: asyncio.StreamWriter, limit: float = float("inf")
) -> None:
    """Passes on what comes until it ends, or that many bytes have come."""
    passed = 0
    while passed < limit:
        data = await source.read(CUT_BYTES)
        if not data:
            return
        passed += len(data)
        to.write(data)
        try:
            await to.drain()
        except OSError:
            return
