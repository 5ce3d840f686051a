"""What a frontend consists of, as its settings say."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tokenwire.channel_arguments import HOP_EXTRA_BYTES
from tokenwire.frontend.v1 import (
    activity_pb2_grpc,
    generation_pb2_grpc,
    model_pb2_grpc,
    tokenization_pb2_grpc,
)
from tokenwire_service.server import STOP_GRACE_S, RpcServer, Service
from tokenwire_service.tasks import Supervisor
from tokenwire_service.tls import ChannelTls
from tokenwire_service.watching import Watched, Watcher

from tokenwire_frontend import poller
from tokenwire_frontend.core.activity import Activity
from tokenwire_frontend.core.routing.least_loaded import LeastLoaded
from tokenwire_frontend.core.routing.prefix import PrefixRouter
from tokenwire_frontend.core.routing.round_robin import RoundRobin
from tokenwire_frontend.core.routing.router import Router
from tokenwire_frontend.core.tenants import Tenants
from tokenwire_frontend.core.voucher import Vouchers
from tokenwire_frontend.edge.callers import Callers
from tokenwire_frontend.edge.grpc.activity import ActivityView, OneProcess, Processes
from tokenwire_frontend.edge.grpc.activity_servicer import ActivityServicer
from tokenwire_frontend.edge.grpc.generation_servicer import GenerationServicer
from tokenwire_frontend.edge.grpc.model_servicer import ModelServicer
from tokenwire_frontend.edge.grpc.owners import Owners, new_secret
from tokenwire_frontend.edge.grpc.relay import Relay
from tokenwire_frontend.edge.grpc.tokenization_servicer import TokenizationServicer
from tokenwire_frontend.edge.kserve.servicer import InferenceServicer
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2_grpc
from tokenwire_frontend.generation.admission import Admission
from tokenwire_frontend.generation.conversation import Conversations
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.keeper import KeepLimits
from tokenwire_frontend.generation.queues import QueueLimits, Queues
from tokenwire_frontend.generation.record import Recorder
from tokenwire_frontend.identity import api_keys
from tokenwire_frontend.metrics import ConversationMetrics, FrontendMetrics
from tokenwire_frontend.models.output_formats import ParserNames
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool
from tokenwire_frontend.processes.membership import Membership
from tokenwire_frontend.settings import FrontendSettings, read_key
from tokenwire_frontend.tenants_file import read_tenants
from tokenwire_frontend.workers.discovery import Discovery
from tokenwire_frontend.workers.link import LinkLimits
from tokenwire_frontend.workers.pool import WorkerPool

if TYPE_CHECKING:
    from tokenwire_frontend.edge.openai.server import OpenAiServer

PACKAGE = "tokenwire.frontend.v1"


class Frontend:
    """What a frontend consists of, wired together.

    Args:
        chosen: its settings.
        supervisor: owns its tasks.
        membership: of the processes that serve together; None: it is the only one.
        files: watches what is read from files; None: nobody asks to read them again.
    """

    def __init__(
        self,
        chosen: FrontendSettings,
        supervisor: Supervisor,
        membership: Membership | None = None,
        files: Watcher | None = None,
    ) -> None:
        self._files = files or Watcher()
        self._supervisor = supervisor
        self._membership = membership
        self._tokenizers = TokenizerPool(
            supervisor,
            chosen.tokenizer_processes,
            chosen.tokenizer_waiting_limit,
            fast_encoding=chosen.fast_encoding,
            cache_bytes=chosen.encoding_cache_mib * 2**20,
        )
        worker_tls = ChannelTls(chosen.worker_tls, "--worker-tls.")
        peer_tls = ChannelTls(chosen.peer_tls, "--peer-tls.")
        metrics = FrontendMetrics()
        self.pool = WorkerPool(
            worker_tls.credentials,
            _router(chosen),
            self._tokenizers,
            LinkLimits(
                suspect_s=chosen.worker_suspect_s,
                lost_s=chosen.worker_lost_s,
                answer_s=chosen.worker_answer_s,
                request_bytes=chosen.max_request_bytes + HOP_EXTRA_BYTES,
            ),
            ParserNames(chosen.tool_parser, chosen.reasoning_parser),
            supervisor,
            metrics.forget_worker,
            chosen.disaggregate_from_tokens,
            chosen.disaggregate_fetch_factor,
        )
        self._discovery = Discovery(
            chosen.worker,
            chosen.workers_file,
            chosen.worker_dns_interval_s,
            self.pool.set_workers,
            self._files,
            supervisor,
        )
        recorder = Recorder(metrics, Activity(chosen.records_limit), content=chosen.trace_content)
        queues = Queues(self.pool, _queue_limits(chosen))
        admission = Admission(chosen.generations_limit, queues, _tenants(chosen, self._files))
        self._conversations = Conversations(
            chosen.conversation_bytes, chosen.conversation_ttl_s, ConversationMetrics()
        )
        keeping = KeepLimits(chosen.retained_bytes, chosen.detach_ttl_max_s)
        self.generator = Generator(
            self.pool,
            self._tokenizers,
            recorder,
            admission,
            self._conversations,
            chosen.move_wait_s,
            keeping,
        )
        secret = new_secret() if membership is None else membership.seat.secret
        fleet_key = None if chosen.fleet_key is None else read_key(chosen.fleet_key)
        self.owners = Owners(
            secret,
            fleet_key=fleet_key,
            address=chosen.advertise_address or "",
            peers=chosen.peer,
            process="" if membership is None else membership.seat.name,
            siblings=membership,
        )
        self.generator.keeper.token = self.owners.token
        self.generator.keeper.claims = membership
        vouchers = Vouchers(secret if fleet_key is None else fleet_key, time.time)
        self.relay = Relay(peer_tls.credentials, vouchers)
        view = ActivityView(self.generator, recorder)
        self.processes: Processes = OneProcess(view) if membership is None else membership.of(view)
        generations = GenerationServicer(
            self.generator, self.owners, self.relay, self.processes, chosen.move_after_s
        )
        services = _services(self.generator, generations, self.processes)
        callers = _callers(chosen, vouchers, self._files)
        if membership is None:
            own, setting = chosen.listen, "--listen"
        else:
            own, setting = membership.seat.own, "--process-listen"
        self.server = RpcServer(
            own,
            chosen.tls,
            services,
            chosen.max_request_bytes,
            setting,
            callers.admit,
            connection_age_s=chosen.max_connection_age_s,
        )
        self.openai = _openai(
            chosen, self.generator, self.processes, callers, lambda: self.server.serving
        )
        self._files.add(self.server.tls.files, worker_tls.files, peer_tls.files)
        if self.openai is not None:
            self._files.add(self.openai.tls.files)
        self._openai_listen = chosen.openai_listen
        self._shared_cores = chosen.shared_cores

    async def start(self) -> None:
        """Listens; health follows the workers from now on."""
        await self.server.start()
        if not self._shared_cores:
            poller.give_way()
        if self._membership is not None:
            reload, address = self._files.reload, self.server.address
            await self._membership.join(address, self._share, self._supervisor, reload)
        elif self.openai is not None and self._openai_listen is not None:
            await self.openai.listen(self._openai_listen, shared=False)
        self._supervisor.keep("files", self._files.run)
        self._health = self._supervisor.require("health", self._keep_health)

    async def stop(self, grace_s: float) -> None:
        """Drains for at most so long, and ends what is left."""
        self._health.cancel()
        await self._set_serving(serving=False)
        # Before new calls are refused, however short the drain is.
        if self.openai is not None:
            self.openai.drain()
        await self.server.stop_sharing()
        leaving = self._supervisor.keep(
            "leave_shared", partial(self.server.leave_shared, grace_s + STOP_GRACE_S)
        )
        await self.generator.drain(grace_s)
        leaving.cancel()
        if self.openai is not None:
            await self.openai.stop(STOP_GRACE_S)
        await self.server.stop()
        await self.generator.keeper.close()
        await self.relay.close()
        self._conversations.close()
        await self._discovery.close()
        await self.pool.close()
        await self._tokenizers.close()
        if self._membership is not None:
            await self._membership.leave()

    async def _share(self) -> None:
        """Listens where all processes do."""
        assert self._membership is not None  # noqa: S101 - there are others; for the type checker
        seat = self._membership.seat
        await self.server.share(seat.shared)
        if self.openai is not None:
            await self.openai.listen(seat.openai, shared=True)

    async def _set_serving(self, *, serving: bool) -> None:
        await self.server.set_serving(serving=serving)
        if self._membership is not None:
            await self._membership.tell_serving(serving=serving)

    async def _keep_health(self) -> None:
        """Serving means that at least one worker is ready."""
        while True:
            ready = any(model.ready_workers for model in self.pool.models.values())
            await self._set_serving(serving=ready)
            await self.pool.changed.wait()
            self.pool.changed.clear()


def _queue_limits(chosen: FrontendSettings) -> QueueLimits:
    return QueueLimits(
        chosen.queue_limit,
        chosen.queue_bytes,
        chosen.queue_wait_s,
        chosen.worker_ahead,
        chosen.worker_wait_s,
    )


def _tenants(chosen: FrontendSettings, files: Watcher) -> Tenants:
    path = chosen.tenants_file
    if path is None:
        return Tenants()
    table = Watched("--tenants-file", [path], partial(read_tenants, path))
    files.add(table)
    return Tenants(lambda: table.value)


def _router(chosen: FrontendSettings) -> Router:
    match chosen.routing:
        case "prefix":
            return PrefixRouter(chosen.routing_index_mib * 2**20)
        case "least_loaded":
            return LeastLoaded()
        case "round_robin":
            return RoundRobin()


def _callers(chosen: FrontendSettings, vouchers: Vouchers, files: Watcher) -> Callers:
    keys = jwts = None
    path = chosen.api_keys_file
    if path is not None:
        keys = Watched("--api-keys-file", [path], partial(api_keys.read, path))
        files.add(keys)
    path = chosen.jwt.jwks
    if path is not None:
        # Here, since the library takes 50 ms and 10 MB that most frontends have no use for.
        from tokenwire_frontend.identity.jwts import Jwts, read_keys  # noqa: PLC0415

        jwks = Watched("--jwt.jwks", [path], partial(read_keys, path))
        files.add(jwks)
        jwts = Jwts(chosen.jwt, jwks)
    return Callers(
        vouchers,
        keys=keys,
        jwts=jwts,
        certificates=chosen.tls.ca is not None,
        names=chosen.tls.client_names,
    )


def _openai(
    chosen: FrontendSettings,
    generator: Generator,
    processes: Processes,
    callers: Callers,
    serving: Callable[[], bool],
) -> OpenAiServer | None:
    if chosen.openai_listen is None:
        return None
    # Here, since aiohttp takes 0.1 s and 10 MB that frontends without this door have no use for.
    from tokenwire_frontend.edge.openai.routes import Routes  # noqa: PLC0415
    from tokenwire_frontend.edge.openai.server import OpenAiServer  # noqa: PLC0415

    routes = Routes(generator, processes, callers, chosen.max_request_bytes, serving)
    return OpenAiServer(chosen.tls, routes.handle, chosen.max_request_bytes)


def _services(
    generator: Generator, generations: GenerationServicer, processes: Processes
) -> list[Service]:
    return [
        Service(
            f"{PACKAGE}.GenerationService",
            generation_pb2_grpc.add_GenerationServiceServicer_to_server,
            generations,
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
            ActivityServicer(processes, generator.admission),
        ),
        Service(
            "inference.GRPCInferenceService",
            grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server,
            InferenceServicer(generator),
        ),
    ]
