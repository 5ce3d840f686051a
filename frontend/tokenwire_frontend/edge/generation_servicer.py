"""tokenwire.frontend.v1.GenerationService."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc
from tokenwire.frontend.v1 import generation_pb2, generation_pb2_grpc

from tokenwire_frontend import errors
from tokenwire_frontend.core.events import Delivery
from tokenwire_frontend.edge import to_proto, wire
from tokenwire_frontend.edge.received import received
from tokenwire_frontend.edge.session import Session
from tokenwire_frontend.edge.turnstile import Turnstile
from tokenwire_frontend.generation.answer import ANSWER_BYTES_LIMIT
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.reader import MESSAGE_BYTES_LIMIT, Reader

Context = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Starts generations and writes what becomes of them."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._turnstile = Turnstile()

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> generation_pb2.GenerateResponse:
        """Answers once, when every sequence has ended."""
        ready = asyncio.Event()
        reader = Reader(ready.set, Delivery(only_end=True))
        incoming = received(
            request.generation,
            reader,
            deadline_s=context.time_remaining(),
            answer_bytes_limit=ANSWER_BYTES_LIMIT,
        )
        async with self._generator.open(incoming, reader) as generation:
            reader.begin()
            await ready.wait()
            news = reader.take(ANSWER_BYTES_LIMIT)
            if news.failure is not None:
                raise news.failure
            if news.completion is None or news.wire_bytes > ANSWER_BYTES_LIMIT:
                raise errors.answer_too_large(ANSWER_BYTES_LIMIT)
            prompt = news.prompt
            return generation_pb2.GenerateResponse(
                request_id=generation.record.request_id,
                sequences=map(to_proto.sequence, news.deltas),
                usage=to_proto.usage(news.completion),
                timings=to_proto.timings(news.completion),
                trace_id=generation.record.trace_id,
                prompt_logprobs=(
                    to_proto.token_logprobs(prompt.logprobs, prompt.token_bytes) if prompt else ()
                ),
            )

    async def StreamGenerate(  # type: ignore[override] # a coroutine that writes: see rpc_boundary
        self, request: generation_pb2.StreamGenerateRequest, context: Context
    ) -> None:
        """Streams one generation."""
        ready = asyncio.Event()
        reader = Reader(partial(self._turnstile.pass_through, ready))
        incoming = received(
            request.generation, reader, stream=request.stream, deadline_s=context.time_remaining()
        )
        event = generation_pb2.StreamGenerateResponse
        async with self._generator.open(incoming, reader) as generation:
            accepted = to_proto.accepted(generation)
            await context.write(wire.stream_event(wire.STREAM_ACCEPTED, accepted))
            reader.begin()
            while True:
                await ready.wait()
                ready.clear()
                plain = reader.take_plain(MESSAGE_BYTES_LIMIT)
                if plain is not None:
                    await context.write(wire.stream_event(wire.STREAM_DELTA, wire.delta(plain)))
                    continue
                news = reader.take(MESSAGE_BYTES_LIMIT)
                if news.prompt is not None:
                    told = to_proto.prompt_logprobs(news.prompt)
                    await context.write(event(prompt_logprobs=told))
                for delta in news.deltas:
                    response = event()
                    to_proto.put_delta(delta, response.delta)
                    await context.write(response)
                if news.failure is not None:
                    raise news.failure
                if news.completion is not None:
                    completed = wire.completed(news.completion)
                    await context.write(wire.stream_event(wire.STREAM_COMPLETED, completed))
                    return

    async def Session(  # type: ignore[override] # as above
        self, request_iterator: Any, context: Context
    ) -> None:
        """Carries many generations on one stream."""
        await Session(self._generator, context).run(request_iterator)

    async def Attach(  # type: ignore[override] # as above
        self, request: generation_pb2.AttachRequest, context: Context
    ) -> None:
        """Streams a detached generation."""
        raise NotImplementedError("detached generations")

    async def CancelGeneration(
        self, request: generation_pb2.CancelGenerationRequest, context: Context
    ) -> generation_pb2.CancelGenerationResponse:
        """Ends a detached generation."""
        raise NotImplementedError("detached generations")
