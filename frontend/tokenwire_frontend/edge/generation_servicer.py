"""tokenwire.frontend.v1.GenerationService."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from tokenwire.frontend.v1 import generation_pb2, generation_pb2_grpc
from tokenwire_service.errors import InvalidRequestError

from tokenwire_frontend.core.events import News, Pace
from tokenwire_frontend.edge import from_proto, to_proto
from tokenwire_frontend.edge.session import Session
from tokenwire_frontend.generation.generation import LiveGeneration
from tokenwire_frontend.generation.generator import Generator

Context = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Starts generations and writes what becomes of them."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> generation_pb2.GenerateResponse:
        """Answers once, when every sequence has ended."""
        live, ready = await self._start(request.generation, context, Pace(only_end=True))
        try:
            await ready.wait()
        finally:
            live.abandon()
        news = live.take()
        completion = _completion_or_raise(news)
        return generation_pb2.GenerateResponse(
            request_id=live.record.request_id,
            sequences=map(to_proto.sequence, news.deltas),
            usage=to_proto.usage(completion),
            timings=to_proto.timings(completion),
            trace_id=live.record.trace_id,
        )

    async def StreamGenerate(  # type: ignore[override] # a coroutine that writes: see rpc_boundary
        self, request: generation_pb2.StreamGenerateRequest, context: Context
    ) -> None:
        """Streams one generation."""
        try:
            pace = from_proto.pace(request.stream, "stream")
        except InvalidRequestError as error:
            self._generator.refuse(error, request.generation.request_id)
            raise
        live, ready = await self._start(request.generation, context, pace)
        event = generation_pb2.StreamGenerateResponse
        try:
            await context.write(event(accepted=to_proto.accepted(live)))
            while True:
                await ready.wait()
                ready.clear()
                news = live.take()
                for delta in news.deltas:
                    await context.write(event(delta=to_proto.delta(delta)))
                if news.completion or news.failure:
                    completion = _completion_or_raise(news)
                    await context.write(event(completed=to_proto.completed(completion)))
                    return
        finally:
            live.abandon()

    async def Session(  # type: ignore[override] # as above
        self, request_iterator: Any, context: Context
    ) -> None:
        """Carries many generations on one stream."""
        await Session(self._generator, context).run(request_iterator)

    async def _start(
        self, message: generation_pb2.Generation, context: Context, pace: Pace
    ) -> tuple[LiveGeneration, asyncio.Event]:
        """Starts the generation; the event is set when there is news of it."""
        ready = asyncio.Event()
        try:
            live = await self._generator.start(
                lambda: from_proto.generation_request(message),
                lambda _live: ready.set(),
                pace=pace,
                request_id=message.request_id,
                deadline_s=context.time_remaining(),
            )
        except InvalidRequestError as error:
            raise from_proto.prefixed(error, "generation") from error
        return live, ready


def _completion_or_raise(news: News) -> Any:
    if news.failure is not None:
        raise news.failure
    return news.completion
