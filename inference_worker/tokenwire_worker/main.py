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
from tokenwire.channel_arguments import HOP_EXTRA_BYTES
from tokenwire.worker.v1 import execution_pb2_grpc, worker_pb2_grpc
from tokenwire_service import logs, memory, signals
from tokenwire_service.admin import administered
from tokenwire_service.server import ListenError, RpcServer, Service, check_port, log_draining
from tokenwire_service.settings import parse, refuse, refuse_if
from tokenwire_service.tasks import EX_SOFTWARE, Supervisor, first_of
from tokenwire_service.telemetry import variables
from tokenwire_service.telemetry.providers import Telemetry
from tokenwire_service.tls import TlsError

from tokenwire_worker import __version__, check_engine, engines
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.edge.execution_servicer import ExecutionServicer
from tokenwire_worker.edge.worker_servicer import Identity, WorkerServicer
from tokenwire_worker.gauges import offer_gauges
from tokenwire_worker.generation_record import Recorder
from tokenwire_worker.loading import Loaded, load
from tokenwire_worker.metrics import WorkerMetrics
from tokenwire_worker.model_files import ModelError, TextFiles
from tokenwire_worker.settings import WorkerSettings

PROGRAM = "tokenwire-worker"

LINGER_S = 30.0
"""Time that an engine's threads and exit hooks may hold the process up at its end. A GPU engine of
which a process is dead can do so for ever, and nobody would start the worker again."""

DEATH_LINGER_S = 0.3
"""The same where there is nothing left to save. Together with DEATH_GRACE_S and the dispatcher's
DEAD_CLOSE_S it is below the 2 s within which a worker ends once its engine is given up; vLLM uses
up each of them."""

DEATH_GRACE_S = 0.3
"""Time that calls have to end after the engine's death: all have been told by then, and the sooner
the process ends, the sooner there is another."""

log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a worker until SIGTERM, SIGINT or SIGHUP; see --help."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments[:1]) == ["check-engine"]:
        sys.exit(check_engine.main(PROGRAM, arguments[1:]))
    settings = parse(WorkerSettings, PROGRAM, arguments)
    logs.configure(settings.log_level, settings.log_format, PROGRAM)
    refuse_if(PROGRAM, variables.faults())
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
    """Loads, and serves until told to stop or the engine dies; returns the exit code."""
    stop = signals.stop_signal()
    identity = Identity(settings.shown_worker_name, settings.shown_model_name)
    scraped = settings.admin_listen is not None
    telemetry = Telemetry(PROGRAM, identity.worker, __version__, scraped=scraped)
    worker: Worker | None = None
    try:
        async with (
            Supervisor() as supervisor,
            administered(
                settings.admin_listen,
                lambda: worker is not None and worker.server.serving,
                telemetry,
                supervisor,
            ),
        ):
            # Before the load, which may take half an hour.
            check_port(settings.listen, settings.tls)
            loaded = await load(settings, supervisor, stop)
            if loaded is not None:
                worker = Worker(settings, identity, loaded, supervisor)
                return await worker.run(stop)
    finally:
        telemetry.shutdown()
    log.info("stopped")
    return 0


class Worker:
    """What a worker consists of, wired together.

    Args:
        settings: its settings.
        identity: its name and its model's.
        loaded: the engine, not started.
        supervisor: owns its tasks.

    Raises:
        ListenError: the address can't be listened on.
        TlsError: a file of TLS can't be used.
    """

    def __init__(
        self, settings: WorkerSettings, identity: Identity, loaded: Loaded, supervisor: Supervisor
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        metrics = WorkerMetrics(identity.model)
        recorder = Recorder(identity.worker, identity.model, loaded.engine.info, metrics)
        self._dispatcher = Dispatcher(
            loaded.engine, recorder, settings.max_waiting_requests, settings.stall_s
        )
        offer_gauges(self._dispatcher)
        services = _services(identity, self._dispatcher, recorder, loaded.files)
        request_bytes = settings.max_request_bytes + HOP_EXTRA_BYTES
        self.server = RpcServer(settings.listen, settings.tls, services, request_bytes)

    async def run(self, stop: asyncio.Future[None]) -> int:
        """Serves until told to stop or it can't go on; drains, and returns the exit code."""
        dispatcher, supervisor = self._dispatcher, self._supervisor
        dispatcher.start(supervisor)
        await self.server.start()
        await self.server.set_serving(serving=True)
        await first_of(stop, dispatcher.died, supervisor.failed)
        await self.server.set_serving(serving=False)
        if dispatcher.died.done():
            await self.server.stop(DEATH_GRACE_S)
        else:
            log_draining(self._settings.drain_grace_s)
            await dispatcher.drain(self._settings.drain_grace_s)
            await self.server.stop()
        await dispatcher.close()
        if dispatcher.died.done():
            log.critical("engine_died", reason=dispatcher.died.result())
            return EX_SOFTWARE
        if supervisor.failed.done():
            log.critical("task_required", task=supervisor.failed.result())
            return EX_SOFTWARE
        log.info("stopped")
        return 0


def _services(
    identity: Identity, dispatcher: Dispatcher, recorder: Recorder, files: TextFiles
) -> list[Service]:
    return [
        Service(
            "tokenwire.worker.v1.ExecutionService",
            execution_pb2_grpc.add_ExecutionServiceServicer_to_server,
            ExecutionServicer(dispatcher, recorder),
        ),
        Service(
            "tokenwire.worker.v1.WorkerService",
            worker_pb2_grpc.add_WorkerServiceServicer_to_server,
            WorkerServicer(identity, dispatcher, files),
        ),
    ]
