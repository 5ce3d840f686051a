"""A frontend in the test's own process and event loop, as its own main wires it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Self

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenwire.channel_arguments import CLIENT
from tokenwire.frontend.v1 import (
    activity_pb2_grpc,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    tokenization_pb2_grpc,
)
from tokenwire.frontend.v1 import (
    generation_pb2 as fg,
)
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.frontend import Frontend
from tokenwire_frontend.settings import FrontendSettings
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_service.tasks import Supervisor

from tests.farewell import nobody_listens
from tests.frontend.scripted_worker import ScriptedWorker
from tests.frontend.text_here import texts_here
from tests.services.calls import Refusal, SessionEvents, Streamed, refusal_of
from tests.services.processes import WAIT_S


class SessionHere(SessionEvents):
    """A Session call; an asynchronous context manager that hangs up."""

    def __init__(self, stub: Any) -> None:
        super().__init__()
        self.call = stub.Session(timeout=WAIT_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()

    async def open(self, number: int, what: fg.Generation) -> None:
        """Opens a generation; its events gather under its number."""
        self.expect(number)
        await self.call.write(fg.SessionRequest(open=fg.Open(id=number, generation=what)))

    async def read_until(self, done: Callable[[], bool]) -> None:
        """Reads until the condition holds."""
        while not done():
            response = await self.call.read()
            assert response is not grpc.aio.EOF, "the session ended too early"
            self.take(response)

    async def finish(self, *numbers: int) -> list[Streamed]:
        """Reads until these generations have ended, and returns them."""
        await self.read_until(lambda: all(self[number].over for number in numbers))
        return [self[number] for number in numbers]


class FrontendHere(Frontend):
    """Every part of it, and stubs that call it over its port."""

    def open(self) -> None:
        self.channel = grpc.aio.insecure_channel(
            self.server.address, [*CLIENT, ("grpc.use_local_subchannel_pool", 1)]
        )
        self.generations = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.tokenization = tokenization_pb2_grpc.TokenizationServiceStub(self.channel)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)
        self.activity = activity_pb2_grpc.ActivityServiceStub(self.channel)

    def generate(self, what: fg.Generation) -> Any:
        """Starts a Generate call."""
        return self.generations.Generate(fg.GenerateRequest(generation=what), timeout=WAIT_S)

    def stream(self, what: fg.Generation) -> Any:
        """Starts a StreamGenerate call."""
        request = fg.StreamGenerateRequest(generation=what)
        return self.generations.StreamGenerate(request, timeout=WAIT_S)

    def session(self) -> SessionHere:
        return SessionHere(self.generations)

    async def listed(self, worker: ScriptedWorker | str) -> model_pb2.Worker:
        """Returns what ListWorkers says of a worker."""
        workers = await self.models.ListWorkers(model_pb2.ListWorkersRequest())
        address = worker if isinstance(worker, str) else worker.address
        [found] = [each for each in workers.workers if each.address == address]
        return found

    async def wait_for_health(self, status: int, service: str = "") -> None:
        """Waits until the service's health reads so."""
        watch = health_pb2_grpc.HealthStub(self.channel).Watch(
            health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S
        )
        async for answer in watch:
            if answer.status == status:
                break
        watch.cancel()

    def link(self, worker: ScriptedWorker | str) -> WorkerLink:
        """Returns the link to a worker."""
        address = worker if isinstance(worker, str) else worker.address
        [found] = [link for link in self.pool.links if link.address == address]
        return found

    async def wait_for(
        self, worker: ScriptedWorker | str, state: LinkState, reason: str = ""
    ) -> WorkerLink:
        """Waits until a worker is in the state, for a reason that has these words."""
        link = self.link(worker)
        await until(lambda: link.state is state and reason in link.state_reason)
        return link


@asynccontextmanager
async def frontend_of(
    *workers: ScriptedWorker | str, text_processes: bool = False, **settings: Any
) -> AsyncIterator[FrontendHere]:
    """Runs a frontend of these workers; it does not wait for them.

    With `text_processes` it tokenises in processes of its own, as a real one does. What a worker
    had fails with it, unless `move_wait_s` is set; what comes while none is ready is refused at
    once, unless `worker_wait_s` is.
    """
    settings.setdefault("move_wait_s", 0.0)
    settings.setdefault("worker_wait_s", 0.0)
    addresses = [each if isinstance(each, str) else each.address for each in workers]
    # By load, so that a test knows which worker its next request goes to.
    own = {"listen": "127.0.0.1:0", "routing": "least_loaded", **settings}
    chosen = FrontendSettings(worker=addresses, **own)
    texts = nullcontext() if text_processes else texts_here()
    with texts:
        async with Supervisor() as supervisor:
            frontend = FrontendHere(chosen, supervisor)
            await frontend.start()
            frontend.open()
            try:
                yield frontend
            finally:
                await frontend.channel.close()
                with nobody_listens():
                    await frontend.stop(0.0)


async def until(holds: Callable[[], Any], within_s: float = WAIT_S) -> None:
    """Waits until a condition holds that nothing tells of."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def refused(answer: Awaitable[Any]) -> Refusal:
    """Returns how a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer
    return refusal_of(caught.value)
