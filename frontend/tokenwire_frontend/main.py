"""The frontend process: parse, build, run, drain."""

from __future__ import annotations

import secrets
import sys

import structlog
import uvloop
from tokenwire.channel_arguments import HOP_EXTRA_BYTES
from tokenwire.frontend.v1 import (
    activity_pb2_grpc,
    generation_pb2_grpc,
    model_pb2_grpc,
    tokenization_pb2_grpc,
)
from tokenwire_service import logs, memory, settings, signals
from tokenwire_service.admin import administered
from tokenwire_service.server import ListenError, RpcServer, Service, log_draining
from tokenwire_service.tasks import EX_SOFTWARE, Supervisor, first_of
from tokenwire_service.telemetry import variables
from tokenwire_service.telemetry.providers import Telemetry
from tokenwire_service.tls import TlsError, channel_credentials
from tokenwire_service.version import VERSION

from tokenwire_frontend.core.activity import Activity
from tokenwire_frontend.core.router import LeastLoaded
from tokenwire_frontend.edge.activity_servicer import ActivityServicer
from tokenwire_frontend.edge.generation_servicer import GenerationServicer
from tokenwire_frontend.edge.model_servicer import ModelServicer
from tokenwire_frontend.edge.tokenization_servicer import TokenizationServicer
from tokenwire_frontend.gauges import offer_gauges
from tokenwire_frontend.generation.admission import Admission
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.record import Recorder
from tokenwire_frontend.metrics import FrontendMetrics
from tokenwire_frontend.models.output_formats import ParserNames
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool
from tokenwire_frontend.settings import FrontendSettings
from tokenwire_frontend.workers.link import LinkLimits
from tokenwire_frontend.workers.pool import WorkerPool

PROGRAM = "tokenwire-frontend"
PACKAGE = "tokenwire.frontend.v1"

log = structlog.get_logger()


def main() -> None:
    """Runs the frontend until SIGTERM, SIGINT or SIGHUP."""
    chosen = settings.parse(FrontendSettings, PROGRAM, sys.argv[1:])
    logs.configure(chosen.log_level, chosen.log_format, PROGRAM)
    settings.refuse_if(PROGRAM, variables.faults())
    telemetry = Telemetry(
        PROGRAM, secrets.token_hex(4), VERSION, scraped=chosen.admin_listen is not None
    )
    memory.settle()
    try:
        code = uvloop.run(run(chosen, telemetry))
    except (ListenError, TlsError) as error:
        settings.refuse(PROGRAM, str(error))
    finally:
        signals.stopping()
        telemetry.shutdown()
    sys.exit(code)


async def run(chosen: FrontendSettings, telemetry: Telemetry) -> int:
    """Serves until it is told to stop or can't go on, drains, and returns the exit code."""
    async with Supervisor() as supervisor:
        await _serve(chosen, telemetry, supervisor)
        if supervisor.failed.done():
            log.critical("task_required", task=supervisor.failed.result())
            return EX_SOFTWARE
    log.info("stopped")
    return 0


async def _serve(chosen: FrontendSettings, telemetry: Telemetry, supervisor: Supervisor) -> None:
    stop = signals.stop_signal()
    frontend = Frontend(chosen, supervisor)
    offer_gauges(frontend.generator)
    # First the admin port, which may be refused: a gRPC server that runs has to be stopped.
    async with administered(
        chosen.admin_listen, lambda: frontend.server.serving, telemetry, supervisor
    ):
        await frontend.start()
        await first_of(stop, supervisor.failed)
        log_draining(chosen.drain_grace_s)
        await frontend.stop(chosen.drain_grace_s)


class Frontend:
    """What a frontend consists of, wired together.

    Args:
        chosen: its settings.
        supervisor: owns its tasks.
    """

    def __init__(self, chosen: FrontendSettings, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._tokenizers = TokenizerPool(
            supervisor,
            chosen.tokenizer_processes,
            chosen.tokenizer_waiting_limit,
            fast_encoding=chosen.fast_encoding,
            cache_bytes=chosen.encoding_cache_mib * 2**20,
        )
        credentials = channel_credentials(chosen.worker_tls, "--worker-tls.")
        self.pool = WorkerPool(
            chosen.worker,
            credentials,
            LeastLoaded(),
            self._tokenizers,
            LinkLimits(
                suspect_s=chosen.worker_suspect_s,
                lost_s=chosen.worker_lost_s,
                answer_s=chosen.worker_answer_s,
                request_bytes=chosen.max_request_bytes + HOP_EXTRA_BYTES,
            ),
            ParserNames(chosen.tool_parser, chosen.reasoning_parser),
            supervisor,
        )
        recorder = Recorder(
            FrontendMetrics(), Activity(chosen.records_limit), content=chosen.trace_content
        )
        admission = Admission(chosen.generations_limit)
        self.generator = Generator(self.pool, self._tokenizers, recorder, admission)
        services = _services(self.generator, recorder)
        self.server = RpcServer(chosen.listen, chosen.tls, services, chosen.max_request_bytes)

    async def start(self) -> None:
        """Listens; health follows the workers from now on."""
        await self.server.start()
        self._health = self._supervisor.require("health", self._keep_health)

    async def stop(self, grace_s: float) -> None:
        """Drains for at most so long, and ends what is left."""
        self._health.cancel()
        await self.server.set_serving(serving=False)
        await self.generator.drain(grace_s)
        await self.server.stop()
        await self.pool.close()
        await self._tokenizers.close()

    async def _keep_health(self) -> None:
        """Serving means that at least one worker is ready."""
        while True:
            ready = any(model.ready_workers for model in self.pool.models.values())
            await self.server.set_serving(serving=ready)
            await self.pool.changed.wait()
            self.pool.changed.clear()


def _services(generator: Generator, recorder: Recorder) -> list[Service]:
    return [
        Service(
            f"{PACKAGE}.GenerationService",
            generation_pb2_grpc.add_GenerationServiceServicer_to_server,
            GenerationServicer(generator),
        ),
        Service(
            f"{PACKAGE}.TokenizationService",
            tokenization_pb2_grpc.add_TokenizationServiceServicer_to_server,
            TokenizationServicer(generator.pool, generator.tokenizers),
        ),
        Service(
            f"{PACKAGE}.ModelService",
            model_pb2_grpc.add_ModelServiceServicer_to_server,
            ModelServicer(generator.pool),
        ),
        Service(
            f"{PACKAGE}.ActivityService",
            activity_pb2_grpc.add_ActivityServiceServicer_to_server,
            ActivityServicer(generator, recorder),
        ),
    ]


if __name__ == "__main__":
    main()
