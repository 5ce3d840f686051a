"""What a service does beside its work: it answers on an admin port and watches its event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tokenwire_service.tasks import Supervisor
from tokenwire_service.telemetry import loop_lag
from tokenwire_service.telemetry.providers import Telemetry


@asynccontextmanager
async def administered(
    address: str | None,
    serving: Callable[[], bool],
    telemetry: Telemetry,
    supervisor: Supervisor,
) -> AsyncIterator[None]:
    """Answers on the admin port, if there is one, and watches the event loop, inside the block.

    Args:
        address: HOST:PORT to listen on; None: nowhere.
        serving: tells whether work is welcome.
        telemetry: what `/metrics` shows.
        supervisor: owns what watches the loop.

    Raises:
        ListenError: the address can't be listened on.
    """
    admin = None
    if address:
        # aiohttp takes 0.1 s of a start's 0.7 s of CPU time to import.
        from tokenwire_service.admin_server import AdminServer  # noqa: PLC0415

        admin = AdminServer(address, serving, telemetry.scrape)
        await admin.start()
    if telemetry.measures:
        supervisor.keep("loop_lag", loop_lag.watch)
    try:
        yield
    finally:
        if admin is not None:
            await admin.stop()
