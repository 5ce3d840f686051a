"""The worker process: parse, build, run, drain."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

import structlog
import uvloop
from tokenwire_service import logs, memory, signals
from tokenwire_service.admin import administered
from tokenwire_service.ports import ListenError, check_free
from tokenwire_service.settings import parse, refuse
from tokenwire_service.tasks import EX_SOFTWARE, Supervisor
from tokenwire_service.telemetry import variables
from tokenwire_service.telemetry.providers import Telemetry
from tokenwire_service.tls import ServerTls, TlsError
from tokenwire_service.watching import Watcher

from tokenwire_worker import __version__, check_engine, engines
from tokenwire_worker.engines.adapters import ADAPTERS
from tokenwire_worker.gauges import offer_gauges
from tokenwire_worker.loading import load
from tokenwire_worker.metrics import WorkerMetrics
from tokenwire_worker.model_files import ModelError
from tokenwire_worker.quantize import command as quantize
from tokenwire_worker.settings import WorkerSettings
from tokenwire_worker.worker import Worker

PROGRAM = "tokenwire-worker"

LINGER_S = 30.0
"""Time that an engine's threads and exit hooks may hold the process up at its end. A GPU engine of
which a process is dead can do so for ever, and nobody would start the worker again."""

DEATH_LINGER_S = 0.3
"""The same where there is nothing left to save. Together with DEATH_GRACE_S and the dispatcher's
DEAD_CLOSE_S it is below the 2 s within which a worker ends once its engine is given up; vLLM uses
up each of them."""

COMMANDS = {"check-engine": check_engine.main, "quantize": quantize.main}
"""What the program does besides serving, by its first argument."""

log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a worker until SIGTERM or SIGINT; see --help."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and (command := COMMANDS.get(arguments[0])):
        sys.exit(command(PROGRAM, arguments[1:]))
    settings = parse(WorkerSettings, PROGRAM, arguments)
    logs.configure(settings.log_level, settings.log_format, PROGRAM)
    variables.tell()
    memory.settle()
    try:
        code = uvloop.run(_run(settings))
    except ModelError as error:
        refuse(PROGRAM, f"{settings.text_setting}: {error}")
    except (engines.EngineError, ListenError, TlsError) as error:
        refuse(PROGRAM, str(error))
    except engines.EngineStartError as error:
        log.critical("engine_did_not_start", reason=str(error))
        code = EX_SOFTWARE
    _exit(code)


def _exit(code: int) -> NoReturn:
    """Ends the process, whatever still holds it up."""
    signals.stopping()
    linger_s = DEATH_LINGER_S if code == EX_SOFTWARE else LINGER_S
    timer = threading.Timer(linger_s, os._exit, [code])
    timer.daemon = True
    timer.start()
    sys.exit(code)


async def _run(settings: WorkerSettings) -> int:
    """Loads, and serves until told to stop or no engine lives; returns the exit code."""
    files = Watcher()
    stop = signals.stop_signal(files.reload)
    telemetry = Telemetry(
        PROGRAM,
        settings.shown_worker_name,
        __version__,
        scraped=settings.admin_listen is not None,
        simulated=ADAPTERS[settings.engine].simulated,
    )
    workers: list[Worker] = []
    try:
        async with (
            Supervisor() as supervisor,
            administered(
                settings.admin_listen,
                lambda: bool(workers) and all(worker.serving for worker in workers),
                telemetry,
                supervisor,
            ),
        ):
            # Before the load, which may take half an hour.
            for each in settings.of_each_worker():
                ServerTls(each.tls)
                check_free("--listen", each.listen)
            loaded = await load(settings, supervisor, stop)
            if loaded is not None:
                metrics = WorkerMetrics(settings.shown_model_name)
                workers += [
                    Worker(each, supervisor, metrics, len(loaded), files) for each in loaded
                ]
                supervisor.keep("files", files.run)
                offer_gauges([worker.dispatcher for worker in workers])
                codes = await asyncio.gather(*[worker.run(stop) for worker in workers])
                return max(codes)
    finally:
        telemetry.shutdown()
    log.info("stopped")
    return 0
