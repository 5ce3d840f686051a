"""A worker in the test's own process and event loop, and a frontend that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
from tokenwire.worker.v1 import admin_pb2_grpc, execution_pb2_grpc, worker_pb2_grpc
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.server import RpcServer, Service
from tokenwire_service.settings import ServiceSettings, TlsSettings
from tokenwire_service.tasks import Supervisor
from tokenwire_worker.dispatcher import Dispatcher, Held
from tokenwire_worker.edge.admin_servicer import AdminServicer
from tokenwire_worker.edge.execution_servicer import ExecutionServicer
from tokenwire_worker.edge.worker_servicer import Identity, WorkerServicer
from tokenwire_worker.generation_record import Recorder
from tokenwire_worker.lora import LoraAdapters
from tokenwire_worker.metrics import WorkerMetrics
from tokenwire_worker.model_files import TextFile, TextFiles

from tests.farewell import nobody_listens
from tests.services.processes import WAIT_S
from tests.worker.calls import Received, request
from tests.worker.scripted_engine import ScriptedEngine

NOTHING = Held(0, 0, 0, 0, 0, 0)
"""What a worker holds that serves nobody."""

EOS_ENDS = {"ignore_eos": False}

EXCHANGE = "/tokenwire.worker.v1.ExecutionService/Exchange"


@dataclass
class WorkerHere:
    """Every part of a worker."""

    engine: ScriptedEngine
    dispatcher: Dispatcher
    recorder: Recorder
    server: RpcServer
    channel: grpc.aio.Channel

    @property
    def held(self) -> Held:
        return self.dispatcher.held()

    @property
    def execution(self) -> Any:
        return execution_pb2_grpc.ExecutionServiceStub(self.channel)

    @property
    def service(self) -> Any:
        return worker_pb2_grpc.WorkerServiceStub(self.channel)

    def exchange(self) -> ScriptedFrontend:
        return ScriptedFrontend(self.channel)

    async def quiet(self) -> None:
        """Waits until nothing is held; the engine confirms every cancel."""
        async with asyncio.timeout(WAIT_S):
            while self.held != NOTHING:
                await self.engine.confirm()
                await asyncio.sleep(0.001)


def parts(
    engine: ScriptedEngine, waiting: int = 8, stall_s: float = 0.0
) -> tuple[Dispatcher, Recorder]:
    """Returns a dispatcher of the engine, not started, and its recorder."""
    recorder = Recorder("w", "m", engine.info, WorkerMetrics("m"))
    return Dispatcher(engine, recorder, waiting, stall_s), recorder


@asynccontextmanager
async def worker_of(
    engine: ScriptedEngine,
    lora_folder: Path | None = None,
    connection_age_s: float | None = None,
    **options: Any,
) -> AsyncIterator[WorkerHere]:
    """Runs a worker on the engine."""
    age = ServiceSettings.model_construct(max_connection_age_s=connection_age_s)
    dispatcher, recorder = parts(engine, **options)
    adapters = LoraAdapters(dispatcher, engine.lora, lora_folder)
    execution = Service(
        "tokenwire.worker.v1.ExecutionService",
        execution_pb2_grpc.add_ExecutionServiceServicer_to_server,
        ExecutionServicer(dispatcher, recorder, age.move_after_s),
    )
    about = Service(
        "tokenwire.worker.v1.WorkerService",
        worker_pb2_grpc.add_WorkerServiceServicer_to_server,
        WorkerServicer(
            Identity("w", "m"),
            dispatcher,
            TextFiles((TextFile("tokenizer.json", b"{}", "0" * 64),)),
        ),
    )
    admin = Service(
        "tokenwire.worker.v1.AdminService",
        admin_pb2_grpc.add_AdminServiceServicer_to_server,
        AdminServicer(adapters),
    )
    server = RpcServer(
        "127.0.0.1:0", TlsSettings(), [execution, about, admin], connection_age_s=connection_age_s
    )
    async with Supervisor() as supervisor:
        dispatcher.start(supervisor)
        await server.start()
        channel = grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
        try:
            yield WorkerHere(engine, dispatcher, recorder, server, channel)
        finally:
            await channel.close()
            with nobody_listens():
                await server.stop(0.2)
            await adapters.close()
            await dispatcher.close()


class ScriptedFrontend(Received):
    """One Exchange call; an asynchronous context manager that hangs up."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__()
        self.call = channel.stream_stream(
            EXCHANGE,
            request_serializer=lambda message: (
                message if isinstance(message, bytes) else message.SerializeToString()
            ),
            response_deserializer=pb.ExchangeResponse.FromString,
        )(timeout=WAIT_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()

    async def send(self, message: pb.ExchangeRequest | bytes | None = None, **fields: Any) -> None:
        """Sends a message, or bytes in the place of one; `fields` are the contract's own."""
        await self.call.write(pb.ExchangeRequest(**fields) if message is None else message)

    async def submit(self, handle: int, asked: pb.Request) -> None:
        self.expect(handle, asked.sequence_count or 1)
        await self.send(submit=pb.Submit(handle=handle, request=asked))

    async def cancel(self, handle: int, *sequences: int) -> None:
        await self.send(cancel=pb.Cancel(handle=handle, sequences=sequences))

    async def read_until(self, done: Callable[[], bool]) -> None:
        """Reads messages until something holds."""
        while not done():
            message = await self.call.read()
            assert message is not grpc.aio.EOF, await self.call.code()
            self.take(message)

    async def failure(self, handle: int) -> Any:
        """Reads until a generation is over, which has failed."""
        await self.read_until(lambda: self[handle].over)
        assert self[handle].failure is not None, "it did not fail"
        return self[handle].failure

    async def code(self) -> grpc.StatusCode:
        """Reads to the end; returns how the call ended."""
        async with asyncio.timeout(WAIT_S):
            with suppress(grpc.aio.AioRpcError):
                while (message := await self.call.read()) is not grpc.aio.EOF:
                    self.take(message)
            return await self.call.code()


async def until(done: Callable[[], bool]) -> None:
    """Waits until something holds, with a look at each turn of the event loop."""
    async with asyncio.timeout(WAIT_S):
        while not done():  # noqa: ASYNC110 - what holds then has no event
            await asyncio.sleep(0.001)


async def running(here: WorkerHere, count: int = 1) -> None:
    """Waits until the engine has had so many generations."""
    await until(lambda: len(here.engine.running) >= count)


def guided(pattern: str = "a", **fields: Any) -> pb.Request:
    """Returns a request that is held to a regular expression."""
    return request(guide=pb.Guide(regex=pattern), stopping=EOS_ENDS, **fields)
