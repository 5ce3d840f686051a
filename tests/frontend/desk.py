"""A frontend whose worker runs one request at a time, each until the test ends it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import LinkState

from tests.frontend.frontend_here import FrontendHere, frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import Refusal, generation
from tests.services.processes import WAIT_S

AT_WORKER = 2
"""Requests that the desk's worker is sent: one that runs and one ahead."""


class Desk:
    """A worker that runs one request at a time, each until the test ends it."""

    def __init__(self, frontend: FrontendHere, worker: ScriptedWorker) -> None:
        self.frontend = frontend
        self.worker = worker
        self.came: list[str] = []
        """Ids of the requests that the worker was sent, in order."""
        self.priorities: dict[str, int] = {}
        self._at_worker: list[tuple[Stream, int]] = []
        worker.script = self._take

    def _take(self, stream: Stream, submit: pb.Submit) -> None:
        self.came.append(submit.request.request_id)
        self.priorities[submit.request.request_id] = submit.request.priority
        stream.accept(submit.handle)
        self._at_worker.append((stream, submit.handle))

    @property
    def queued(self) -> int:
        return sum(self.frontend.generator.admission.queues.depths.values())

    def ask(
        self, name: str, tenant: str = "", tokens: int = 9, stub: Any = None, **fields: Any
    ) -> Any:
        """Starts a call of a request."""
        what = generation([7, 8], tokens, request_id=name, **fields)
        return (stub or self.frontend.generations).Generate(
            fg.GenerateRequest(generation=what),
            timeout=WAIT_S,
            metadata=(("x-tokenwire-tenant", tenant),) if tenant else (),
        )

    async def fill(self) -> list[Any]:
        """Gives the worker as much as it is sent; returns the calls."""
        calls = []
        for number in range(AT_WORKER):
            calls.append(self.ask(f"filler-{number}"))
            await until(lambda: len(self.came) == len(calls))
        self.came.clear()
        return calls

    async def waits(self, name: str, tenant: str = "", **fields: Any) -> Any:
        """Starts a call that has to wait, and waits until it does."""
        queued = self.queued
        call = self.ask(name, tenant, **fields)
        await until(lambda: self.queued == queued + 1)
        return call

    async def end_one(self) -> None:
        """Has the worker end its oldest request, and waits until it has the next one."""
        count, queued = len(self.came), self.queued
        stream, handle = self._at_worker.pop(0)
        stream.tokens(handle, 5)
        stream.end(handle)
        stream.complete(handle, completion_tokens=1)
        if queued:
            await until(lambda: len(self.came) == count + 1)

    async def order(self) -> list[str]:
        """Ends one request after the other; returns the order in which those that waited came."""
        while self.queued:
            await self.end_one()
        return self.came


@asynccontextmanager
async def desk(tmp_path: Path | None = None, tenants: str = "", **settings: Any) -> Any:
    """Runs a desk; `tenants` is what the tenants file says."""
    if tmp_path is not None:
        file = tmp_path / "tenants.yaml"
        file.write_text(tenants)
        settings["tenants_file"] = file
    async with ScriptedWorker() as worker:
        worker.info.limits.running_sequences = 1
        worker.info.contract_revision = 4
        async with frontend_of(worker, **settings) as frontend:
            await frontend.wait_for(worker, LinkState.READY)
            yield Desk(frontend, worker)


def check_no_room(refusal: Refusal, reason: str, quota: str) -> None:
    """Checks a refusal for want of room."""
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
    assert refusal.quotas == [quota]
    assert refusal.retry_after_s is not None
    assert 0 < refusal.retry_after_s <= 60
