"""The generations of one request: as many as it has prompts, opened and closed together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tokenwire_service.errors import Code, InvalidRequestError, ServiceError
from tokenwire_service.tasks import Scope

from tokenwire_frontend import errors
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.request import ChatPrompt, GenerationRequest
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.openai.errors import ROOT, Paths
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.reader import Reader

TAKEN_BYTES = 64 * 1024
"""Most that is taken of a generation at once, some milliseconds of writing JSON: log probabilities
take three times as much there."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One generation that a request asks for."""

    request: GenerationRequest
    paths: Paths
    """What the request calls its fields."""


@dataclass(frozen=True, slots=True)
class Asks:
    """All that a request asks for."""

    each: Sequence[Ask]
    lane: str
    size_bytes: int

    @property
    def first(self) -> GenerationRequest:
        """The first of them; what is not of the prompt is the same in all."""
        return self.each[0].request

    def incoming(self, ask: Ask, *, answer_bytes_limit: int | None = None) -> Incoming:
        """Returns one as `generation` takes it."""
        request = ask.request
        return Incoming(
            reads=lambda: request,
            path=ROOT,
            caller=callers.current(),
            lane=self.lane,
            model=request.model,
            priority=request.priority,
            size_bytes=self.size_bytes // len(self.each),
            request_id=request.request_id,
            is_chat=isinstance(request.prompt, ChatPrompt),
            answer_bytes_limit=answer_bytes_limit,
        )


def refuse(
    generator: Generator, error: ServiceError, *, lane: str, request_id: str, is_chat: bool
) -> None:
    """Writes down a request that can't be read."""
    incoming = Incoming(
        reads=None,
        path=ROOT,
        caller=callers.current(),
        lane=lane,
        request_id=request_id,
        is_chat=is_chat,
    )
    generator.refuse(error, incoming)


def check_end(finish: Finish | None) -> None:
    """Refuses a sequence that a client would take for whole.

    Raises:
        ServiceError: its worker was lost, and no other can go on with it exactly.
    """
    if finish is Finish.INTERRUPTED:
        raise ServiceError(
            Code.UNAVAILABLE,
            "INTERRUPTED",
            "a worker was lost, and no other can go on with exactly what it had generated",
            retry_after_s=errors.RETRY_SOON_S,
        )


@asynccontextmanager
async def opened(
    generator: Generator,
    asks: Asks,
    readers: Sequence[Reader],
    *,
    answer_bytes_limit: int | None = None,
) -> AsyncIterator[None]:
    """Runs all generations; inside the block workers have taken them, or they are done already.

    Raises:
        ServiceError: one could not be served, by the names that the request has for its fields.
    """

    def enter(ask: Ask) -> Incoming:
        return asks.incoming(ask, answer_bytes_limit=answer_bytes_limit)

    if len(asks.each) == 1:
        [ask] = asks.each
        try:
            async with generator.open(enter(ask), readers[0]):
                yield
        except InvalidRequestError as error:
            raise ask.paths.told(error) from error
        return
    async with Scope("openai_prompts") as scope:
        holds = [
            _Hold(generator, ask, enter(ask), reader)
            for ask, reader in zip(asks.each, readers, strict=True)
        ]
        for each in holds:
            scope.start(each.run(), on_fault=each.fail)
        await asyncio.gather(*(each.taken for each in holds))
        yield


class _Hold:
    """One of several generations, held until all of them are left."""

    def __init__(self, generator: Generator, ask: Ask, incoming: Incoming, reader: Reader) -> None:
        self._generator = generator
        self._ask = ask
        self._incoming = incoming
        self._reader = reader
        self.taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once a worker has taken it, or with why none has."""

    async def run(self) -> None:
        """Holds it until the task is cancelled."""
        try:
            async with self._generator.open(self._incoming, self._reader):
                self.taken.set_result(None)
                await asyncio.get_running_loop().create_future()
        except InvalidRequestError as error:
            self.fail(self._ask.paths.told(error))
        except ServiceError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Tells who waits for it that none has taken it."""
        if not self.taken.done():
            self.taken.set_exception(error)
