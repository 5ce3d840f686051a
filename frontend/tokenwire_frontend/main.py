"""The frontend process: parse, build, run, drain."""

from __future__ import annotations

import secrets
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import structlog
import uvloop
from tokenwire_service import logs, memory, settings, signals
from tokenwire_service.admin import administered
from tokenwire_service.ports import ListenError
from tokenwire_service.server import log_draining
from tokenwire_service.tasks import EX_SOFTWARE, Supervisor, first_of
from tokenwire_service.telemetry import variables
from tokenwire_service.telemetry.providers import Telemetry
from tokenwire_service.tls import TlsError
from tokenwire_service.version import VERSION
from tokenwire_service.watching import Watcher

from tokenwire_frontend import new_key
from tokenwire_frontend.core import fast_path
from tokenwire_frontend.frontend import Frontend
from tokenwire_frontend.gauges import offer_gauges
from tokenwire_frontend.processes.group import SUPERVISOR, supervise
from tokenwire_frontend.processes.membership import Membership, Seat
from tokenwire_frontend.settings import FrontendSettings

if TYPE_CHECKING:
    pass

PROGRAM = "tokenwire-frontend"

log = structlog.get_logger()


def main() -> None:
    """Runs the frontend until SIGTERM or SIGINT, or makes an API key."""
    arguments = sys.argv[1:]
    if arguments[:1] == [new_key.COMMAND]:
        sys.exit(new_key.main(PROGRAM, arguments[1:]))
    chosen = settings.parse(FrontendSettings, PROGRAM, arguments)
    if chosen.processes > 1:
        execute(chosen, partial(supervise, chosen, arguments), SUPERVISOR)
    execute(chosen, partial(run, chosen))


def execute(
    chosen: FrontendSettings,
    work: Callable[[Telemetry], Coroutine[Any, Any, int]],
    process: int | str | None = None,
) -> NoReturn:
    """Does a process's work and ends with the exit code that it returns.

    Args:
        chosen: the settings.
        work: makes the coroutine that does it.
        process: which of several processes this is, for log lines.
    """
    logs.configure(chosen.log_level, chosen.log_format, PROGRAM, process)
    variables.tell()
    telemetry = Telemetry(
        PROGRAM, secrets.token_hex(4), VERSION, scraped=chosen.admin_listen is not None
    )
    memory.settle()
    try:
        code = uvloop.run(work(telemetry))
    except (ListenError, TlsError) as error:
        settings.refuse(PROGRAM, str(error))
    finally:
        signals.stopping()
        telemetry.shutdown()
    sys.exit(code)


async def run(chosen: FrontendSettings, telemetry: Telemetry, seat: Seat | None = None) -> int:
    """Serves until it is told to stop or can't go on, drains, and returns the exit code.

    Args:
        chosen: the settings.
        telemetry: the process's.
        seat: where it serves beside others; None: it is the only process.
    """
    log.info("starting", version=VERSION, compiled=fast_path.COMPILED)
    async with Supervisor() as supervisor:
        await _serve(chosen, telemetry, supervisor, seat)
        if supervisor.failed.done():
            log.critical("task_required", task=supervisor.failed.result())
            return EX_SOFTWARE
    log.info("stopped")
    return 0


async def _serve(
    chosen: FrontendSettings, telemetry: Telemetry, supervisor: Supervisor, seat: Seat | None
) -> None:
    files = Watcher()
    if seat is None:
        stop = signals.stop_signal(files.reload)
    else:
        stop = signals.stop_signal(numbers=[signal.SIGTERM])
    membership = None if seat is None else Membership(seat, telemetry)
    frontend = Frontend(chosen, supervisor, membership, files)
    process = {} if seat is None else seat.attributes
    offer_gauges(frontend.generator, process)
    admin = chosen.admin_listen if seat is None else None
    # First the admin port, which may be refused: a gRPC server that runs has to be stopped.
    async with administered(admin, lambda: frontend.server.serving, telemetry, supervisor, process):
        await frontend.start()
        await first_of(stop, supervisor.failed)
        log_draining(chosen.drain_grace_s)
        await frontend.stop(chosen.drain_grace_s)


if __name__ == "__main__":
    main()
