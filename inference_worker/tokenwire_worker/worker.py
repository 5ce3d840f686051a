"""One worker: an engine, the services that offer it, and their life."""

from __future__ import annotations

import asyncio

import structlog
from tokenwire.channel_arguments import HOP_EXTRA_BYTES
from tokenwire.worker.v1 import admin_pb2_grpc, execution_pb2_grpc, worker_pb2_grpc
from tokenwire_service.server import RpcServer, Service, log_draining
from tokenwire_service.tasks import EX_SOFTWARE, Supervisor, first_of
from tokenwire_service.watching import Watcher

from tokenwire_worker.core.kv_events import KEPT_EVENTS, KEPT_WORDS, KvEventLog
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.edge.admin_servicer import AdminServicer
from tokenwire_worker.edge.callers import ADMIN_SERVICE, admission
from tokenwire_worker.edge.execution_servicer import ExecutionServicer
from tokenwire_worker.edge.worker_servicer import Identity, WorkerServicer
from tokenwire_worker.generation_record import Recorder
from tokenwire_worker.loading import Loaded
from tokenwire_worker.lora import LoraAdapters
from tokenwire_worker.metrics import WorkerMetrics
from tokenwire_worker.model_files import TextFiles

DEATH_GRACE_S = 0.3
"""Time that calls have to end after the engine's death: all have been told by then, and the sooner
the process ends, the sooner there is another."""

log = structlog.get_logger()


class Worker:
    """What a worker consists of, wired together.

    Args:
        loaded: its settings and its engine, not started.
        supervisor: owns its tasks.
        metrics: where it counts, as do the others of the process.
        workers: how many there are in the process, which share its memory.
        files: watches the files of TLS.

    Raises:
        ListenError: the address can't be listened on.
        TlsError: a file of TLS can't be used.
    """

    def __init__(
        self,
        loaded: Loaded,
        supervisor: Supervisor,
        metrics: WorkerMetrics,
        workers: int,
        files: Watcher,
    ) -> None:
        settings = self._settings = loaded.settings
        self._supervisor = supervisor
        identity = Identity(
            settings.shown_worker_name,
            settings.shown_model_name,
            settings.phases,
            settings.transfer_group,
        )
        recorder = Recorder(identity.worker, identity.model, loaded.engine.info, metrics)
        self.dispatcher = Dispatcher(
            loaded.engine,
            recorder,
            settings.max_waiting_requests,
            settings.stall_s,
            KvEventLog(KEPT_EVENTS // workers, KEPT_WORDS // workers),
        )
        self._adapters = LoraAdapters(self.dispatcher, loaded.engine.lora, settings.lora_folder)
        services = _services(
            identity,
            self.dispatcher,
            self._adapters,
            recorder,
            loaded.files,
            settings.move_after_s,
        )
        request_bytes = settings.max_request_bytes + HOP_EXTRA_BYTES
        self._server = RpcServer(
            settings.listen,
            settings.tls,
            services,
            request_bytes,
            admit=admission(settings.tls),
            connection_age_s=settings.max_connection_age_s,
        )
        files.add(self._server.tls.files)

    @property
    def serving(self) -> bool:
        """Whether work is welcome."""
        return self._server.serving

    async def run(self, stop: asyncio.Future[None]) -> int:
        """Serves until told to stop or it can't go on; drains, and returns the exit code."""
        dispatcher, supervisor, server = self.dispatcher, self._supervisor, self._server
        dispatcher.start(supervisor)
        await server.start()
        await server.set_serving(serving=True)
        await first_of(stop, dispatcher.died, supervisor.failed)
        await server.set_serving(serving=False)
        if dispatcher.died.done():
            await server.stop(DEATH_GRACE_S)
        else:
            log_draining(self._settings.drain_grace_s)
            await dispatcher.drain(self._settings.drain_grace_s)
            await server.stop()
        await self._adapters.close()
        await dispatcher.close()
        if dispatcher.died.done():
            log.critical(
                "engine_died",
                worker=self._settings.shown_worker_name,
                reason=dispatcher.died.result(),
            )
            return EX_SOFTWARE
        if supervisor.failed.done():
            log.critical("task_required", task=supervisor.failed.result())
            return EX_SOFTWARE
        log.info("stopped", worker=self._settings.shown_worker_name)
        return 0


def _services(
    identity: Identity,
    dispatcher: Dispatcher,
    adapters: LoraAdapters,
    recorder: Recorder,
    files: TextFiles,
    move_after_s: float | None,
) -> list[Service]:
    return [
        Service(
            "tokenwire.worker.v1.ExecutionService",
            execution_pb2_grpc.add_ExecutionServiceServicer_to_server,
            ExecutionServicer(dispatcher, recorder, move_after_s),
        ),
        Service(
            "tokenwire.worker.v1.WorkerService",
            worker_pb2_grpc.add_WorkerServiceServicer_to_server,
            WorkerServicer(identity, dispatcher, files),
        ),
        Service(
            ADMIN_SERVICE,
            admin_pb2_grpc.add_AdminServiceServicer_to_server,
            AdminServicer(adapters),
        ),
    ]
