"""tokenwire.frontend.v1.GenerationService."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc
from tokenwire.frontend.v1 import generation_pb2, generation_pb2_grpc
from tokenwire_service.errors import invalid

from tokenwire_frontend import errors
from tokenwire_frontend.core.events import Delivery
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.grpc import to_proto, wire
from tokenwire_frontend.edge.grpc.activity import Processes
from tokenwire_frontend.edge.grpc.owners import Owners, Place, Sender
from tokenwire_frontend.edge.grpc.received import begin_at, received
from tokenwire_frontend.edge.grpc.relay import Relay
from tokenwire_frontend.edge.grpc.request_cancel import RequestCancel
from tokenwire_frontend.edge.grpc.session import Session
from tokenwire_frontend.edge.turnstile import Turnstile
from tokenwire_frontend.generation.answer import ANSWER_BYTES_LIMIT
from tokenwire_frontend.generation.generation import Generation
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.keeper import Elsewhere
from tokenwire_frontend.generation.reader import MESSAGE_BYTES_LIMIT, Reader

Context = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Starts generations and writes what becomes of them.

    Args:
        generator: the generations of this process.
        owners: tells whose a generation is that outlives its calls.
        relay: asks the owner.
        processes: all that serve together.
        move_after_s: age at which a session's client is asked to open another; None: it never is.
    """

    def __init__(
        self,
        generator: Generator,
        owners: Owners,
        relay: Relay,
        processes: Processes,
        move_after_s: float | None = None,
    ) -> None:
        self._generator = generator
        self._owners = owners
        self._relay = relay
        self._request_cancel = RequestCancel(processes, owners, relay)
        self._move_after_s = move_after_s
        self._turnstile = Turnstile()

    async def Generate(  # type: ignore[override] # or bytes: see rpc_boundary
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> generation_pb2.GenerateResponse | bytes:
        """Answers once, when every sequence has ended."""
        ready = asyncio.Event()
        reader = Reader(ready.set, Delivery(only_end=True))
        incoming = received(
            request.generation,
            reader,
            lane=context.peer(),
            deadline_s=context.time_remaining(),
            answer_bytes_limit=ANSWER_BYTES_LIMIT,
            may_move=_may_move(request.generation, context),
        )
        try:
            async with self._generator.open(incoming, reader) as generation:
                reader.begin()
                await ready.wait()
                return _answer(generation, reader)
        except Elsewhere as found:
            place = Place(found.address, Sender.PROCESS)
            return await self._relay.unary(place, "Generate", request, context)

    async def StreamGenerate(  # type: ignore[override] # a coroutine that writes: see rpc_boundary
        self, request: generation_pb2.StreamGenerateRequest, context: Context
    ) -> None:
        """Streams one generation."""
        ready = asyncio.Event()
        reader = Reader(partial(self._turnstile.pass_through, ready))
        incoming = received(
            request.generation,
            reader,
            lane=context.peer(),
            stream=request.stream,
            deadline_s=context.time_remaining(),
            may_move=_may_move(request.generation, context),
        )
        try:
            async with self._generator.open(incoming, reader) as generation:
                accepted = to_proto.accepted(generation, attached=reader.attached)
                await _write(reader, ready, accepted, context)
        except Elsewhere as found:
            place = Place(found.address, Sender.PROCESS)
            await self._relay.stream(place, "StreamGenerate", request, context)

    async def Session(  # type: ignore[override] # as above
        self, request_iterator: Any, context: Context
    ) -> None:
        """Carries many generations on one stream."""
        session = Session(self._generator, self._owners, self._relay, context, self._move_after_s)
        await session.run(request_iterator)

    async def Attach(  # type: ignore[override] # as above
        self, request: generation_pb2.AttachRequest, context: Context
    ) -> None:
        """Streams a generation that outlives its calls."""
        token = self._owners.read(request.resume_token, "resume_token")
        place = await self._owners.locate(token, Sender.of(context))
        if place is not None:
            await self._relay.stream(place, "Attach", request, context)
            return
        ready = asyncio.Event()
        reader = Reader(partial(self._turnstile.pass_through, ready))
        begin_at(reader, request)
        keeper = self._generator.keeper
        attached = keeper.attach(token.generation, callers.current(), reader, "token_offsets")
        async with attached as generation:
            await _write(reader, ready, to_proto.accepted(generation), context)

    async def CancelGeneration(  # type: ignore[override] # as above
        self, request: generation_pb2.CancelGenerationRequest, context: Context
    ) -> generation_pb2.CancelGenerationResponse | bytes:
        """Ends a generation that outlives its calls, or those of a request id."""
        if request.request_id:
            if request.resume_token:
                raise invalid("request_id", "does not go with `resume_token`")
            return await self._request_cancel.run(request, context)
        token = self._owners.read(request.resume_token, "resume_token")
        place = await self._owners.locate(token, Sender.of(context))
        if place is not None:
            return await self._relay.unary(place, "CancelGeneration", request, context)
        self._generator.keeper.cancel(token.generation, callers.current())
        return generation_pb2.CancelGenerationResponse()


def _may_move(message: generation_pb2.Generation, context: Context) -> bool:
    """Returns whether another process may be asked for the generation of a key."""
    return not message.idempotency_key or Sender.of(context) is not Sender.PROCESS


def _answer(generation: Generation, reader: Reader) -> generation_pb2.GenerateResponse:
    """Returns the whole answer of a generation that has ended.

    Raises:
        ServiceError: the generation failed, or its answer is too large.
    """
    news = reader.take(ANSWER_BYTES_LIMIT)
    if news.failure is not None:
        raise news.failure
    if news.completion is None or news.wire_bytes > ANSWER_BYTES_LIMIT:
        raise errors.answer_too_large(ANSWER_BYTES_LIMIT)
    prompt, turn = news.prompt, generation.turn
    return generation_pb2.GenerateResponse(
        request_id=generation.record.request_id,
        sequences=map(to_proto.sequence, news.deltas),
        usage=to_proto.usage(news.completion),
        timings=to_proto.timings(news.completion),
        attempts=wire.attempts(news.completion),
        trace_id=generation.record.trace_id,
        conversation=to_proto.conversation_prompt(turn) if turn else None,
        prompt_logprobs=(
            to_proto.token_logprobs(prompt.logprobs, prompt.token_bytes) if prompt else ()
        ),
    )


async def _write(reader: Reader, ready: asyncio.Event, accepted: bytes, context: Context) -> None:
    """Writes a generation's events; AttachResponse has them as StreamGenerateResponse has.

    Args:
        reader: of the generation.
        ready: set when there is news.
        accepted: what comes first.
        context: of the call.

    Raises:
        ServiceError: the generation failed.
    """
    event = generation_pb2.StreamGenerateResponse
    await context.write(wire.stream_event(wire.STREAM_ACCEPTED, accepted))
    reader.begin()
    while True:
        await ready.wait()
        ready.clear()
        plain = reader.take_plain(MESSAGE_BYTES_LIMIT)
        if plain is not None:
            await context.write(wire.stream_delta(plain))
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
