"""One ModelStreamInfer call: any number of requests, each with any number of responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from tokenwire_service.errors import ServiceError
from tokenwire_service.tasks import Scope

from tokenwire_frontend import errors, no_room
from tokenwire_frontend.edge.kserve import outputs
from tokenwire_frontend.edge.kserve.inference import Inference
from tokenwire_frontend.edge.kserve.stubs.grpc_service_pb2 import ModelInferRequest
from tokenwire_frontend.edge.turnstile import Turnstile
from tokenwire_frontend.generation.answer import ANSWER_BYTES_LIMIT
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.reader import MESSAGE_BYTES_LIMIT, Reader

OPEN_LIMIT = 1024
"""Requests open at once on one stream, as in a Session; the next is refused."""


class InferStream:
    """Starts a generation for each request, and writes what becomes of them.

    A message has the news of one request, so requests take turns to write; what becomes new
    meanwhile waits in the generations and merges.

    Args:
        generator: the generations of this process.
        turnstile: which streams pass through.
        context: of the call.
    """

    def __init__(
        self,
        generator: Generator,
        turnstile: Turnstile,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        self._generator = generator
        self._turnstile = turnstile
        self._context = context
        self._scope = Scope("infer_stream")
        self._span = trace.get_current_span().get_span_context()
        self._open: dict[Reader, str] = {}
        """The requests that are open, with their ids."""
        self._turn = asyncio.Lock()
        """Held by whoever writes."""
        self._news = asyncio.Event()
        """Of the call itself: it is read to its end, a request has ended, the frontend drains."""
        self._reading = True
        self._draining = False
        self._broken: Exception | None = None

    async def run(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        """Serves the stream until the client has closed it and every request has ended.

        Raises:
            ServiceError: the frontend stops, and nothing is open any more.
        """
        async with self._scope as scope:
            scope.start(self._read(requests), on_fault=self._break)
            scope.start(self._await_drain(), on_fault=self._break)
            while self._reading or self._open:
                if self._draining and not self._open:
                    raise errors.draining()
                await self._news.wait()
                self._news.clear()
                if self._broken is not None:
                    raise self._broken

    def _break(self, error: Exception) -> None:
        self._broken = error
        self._news.set()

    async def _await_drain(self) -> None:
        await self._generator.admission.closing.wait()
        self._draining = True
        self._news.set()

    async def _read(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        try:
            async for message in requests:
                inference = Inference(message, on_stream=True)
                if inference.stops:
                    self._cancel(inference.id)
                elif len(self._open) >= OPEN_LIMIT:
                    # Written before the next is read: a client that does not read is held back.
                    await self._refuse(inference)
                else:
                    self._start(inference)
        finally:
            self._reading = False
            self._news.set()

    def _cancel(self, request_id: str) -> None:
        """Ends the requests of this id; what exists of them still comes."""
        for reader, each in self._open.items():
            if each == request_id:
                reader.cancel()

    async def _refuse(self, inference: Inference) -> None:
        refusal = no_room.too_many(OPEN_LIMIT, "stream")
        reader = Reader(lambda: None)
        try:
            incoming = inference.incoming(reader, lane=self._context.peer(), deadline_s=None)
        except ServiceError as error:
            refusal = error
        else:
            self._generator.refuse(refusal, incoming)
        await self._tell(inference, refusal)

    def _start(self, inference: Inference) -> None:
        ready = asyncio.Event()
        reader = Reader(partial(self._turnstile.pass_through, ready))
        self._open[reader] = inference.id
        fault = partial(self._fault, inference, reader)
        self._scope.start(self._serve(inference, reader, ready), on_fault=fault)

    async def _serve(self, inference: Inference, reader: Reader, ready: asyncio.Event) -> None:
        try:
            with inference.named():
                incoming = inference.incoming(
                    reader,
                    lane=self._context.peer(),
                    deadline_s=self._context.time_remaining(),
                    # A trace of its own, as in a Session: a stream may live for days.
                    context=Context(),
                    links=(self._span,) if self._span.is_valid else (),
                )
                async with self._generator.open(incoming, reader) as generation:
                    await self._write(inference, generation, reader, ready)
        except ServiceError as error:
            await self._tell(inference, error)
        self._end(reader)

    async def _write(
        self, inference: Inference, generation: Generation, reader: Reader, ready: asyncio.Event
    ) -> None:
        """Writes a generation's responses; raises ServiceError where it fails."""
        responses = inference.responses(generation)
        limit = MESSAGE_BYTES_LIMIT if inference.streams else ANSWER_BYTES_LIMIT
        reader.begin()
        while True:
            await ready.wait()
            ready.clear()
            async with self._turn:
                plain = reader.take_plain(limit) if responses.plain else None
                if plain is not None:
                    await self._context.write(responses.text(plain[3]))
                    continue
                news = reader.take(limit)
                if news.failure is not None:
                    raise news.failure
                response = responses.streamed(news)
                if response is not None:
                    await self._context.write(response)
            if news.completion is not None:
                return

    def _fault(self, inference: Inference, reader: Reader, error: Exception) -> None:
        """Tells the client of an exception that nobody foresaw."""
        told = errors.internal_fault(error, trace.format_trace_id(self._span.trace_id))

        async def tell() -> None:
            await self._tell(inference, told)
            self._end(reader)

        self._scope.start(tell(), on_fault=self._break)

    async def _tell(self, inference: Inference, error: ServiceError) -> None:
        async with self._turn:
            await self._context.write(outputs.error(error.message, inference.model, inference.id))

    def _end(self, reader: Reader) -> None:
        del self._open[reader]
        self._news.set()
