"""What a service does beside its work: it answers on an admin port and watches its event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

from tokenwire_service.tasks import Supervisor
from tokenwire_service.telemetry import loop_lag
from tokenwire_service.telemetry.metrics import Attributes
from tokenwire_service.telemetry.providers import Telemetry


@asynccontextmanager
async def administered(
    address: str | None,
    serving: Callable[[], bool],
    telemetry: Telemetry,
    supervisor: Supervisor,
    process: Attributes = MappingProxyType({}),
) -> AsyncIterator[None]:
    """Answers on the admin port, if there is one, and watches the event loop, inside the block.

    Args:
        address: HOST:PORT to listen on; None: nowhere.
        serving: tells whether work is welcome.
        telemetry: what `/metrics` shows.
        supervisor: owns what watches the loop.
        process: which of several processes this is.

    Raises:
        ListenError: the address can't be listened on.
    """
    async with admin_port(address, serving, telemetry.scrape):
        if telemetry.measures:
            supervisor.keep("loop_lag", partial(loop_lag.watch, process))
        yield


@asynccontextmanager
async def admin_port(
    address: str | None,
    serving: Callable[[], bool],
    scrape: Callable[[str], Awaitable[tuple[bytes, str]]],
    processes: Callable[[], list[dict[str, Any]]] | None = None,
) -> AsyncIterator[None]:
    """Answers on the admin port inside the block, if there is one.

    Args:
        address: HOST:PORT to listen on; None: nowhere.
        serving: tells whether work is welcome.
        scrape: returns the metrics and their content type, given an Accept header.
        processes: describes each of several processes.

    Raises:
        ListenError: the address can't be listened on.
    """
    if address is None:
        yield
        return
    # aiohttp takes 0.1 s of a start's 0.7 s of CPU time to import.
    from tokenwire_service.admin_server import AdminServer  # noqa: PLC0415

    admin = AdminServer(address, serving, scrape, processes)
    await admin.start()
    try:
        yield
    finally:
        await admin.stop()
