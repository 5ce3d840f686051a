"""ExecutionService: runs generations."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from opentelemetry import context as otel_context
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.errors import ServiceError, invalid

from tokenwire_worker.core.frame import Frame
from tokenwire_worker.core.generations import Completion, Ending
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.edge import from_proto, to_proto
from tokenwire_worker.edge.exchange import ExchangeStream, trace_parent
from tokenwire_worker.engines.port import TokenLogprob
from tokenwire_worker.generation_record import Recorder


class ExecutionServicer:
    """Serves ExecutionService from a dispatcher."""

    def __init__(self, dispatcher: Dispatcher, recorder: Recorder) -> None:
        """Takes what runs the generations and what writes down those that are refused."""
        self._dispatcher = dispatcher
        self._recorder = recorder

    async def Execute(self, message: pb.ExecuteRequest, context: Any) -> None:
        """Runs one generation on one stream."""
        received_s = time.monotonic()
        parent = trace_parent(message.request) or otel_context.get_current()
        sink = _ExecuteSink()
        try:
            if not message.HasField("request"):
                raise invalid("request", "missing")
            request = from_proto.generation_request(message.request)
            generation = await self._dispatcher.checked(request)
            key = self._dispatcher.submit(
                request, generation, sink, handle=0, received_s=received_s, parent=parent
            )
        except ServiceError as error:
            self._recorder.refuse(message.request.request_id, error, received_s, parent)
            raise
        try:
            await sink.write_to(context)
        finally:
            # Passed over where it has ended; a cancelled call or a spent deadline comes here early.
            self._dispatcher.abandon(key)

    async def Exchange(self, _messages: Any, context: Any) -> None:
        """Runs any number of generations on one stream."""
        await ExchangeStream(self._dispatcher, self._recorder, context).run()


class _ExecuteSink:
    """Gathers one generation's events; steps merge while an earlier message is being written."""

    def __init__(self) -> None:
        self._accepted: str | None = None
        self._frame = Frame()
        self._error: ServiceError | None = None
        self._ended = False
        self._news = asyncio.Event()

    async def write_to(self, context: Any) -> None:
        """Writes events until the generation has ended; raises what it failed with."""
        while True:
            await self._news.wait()
            self._news.clear()
            # Read before the frame is taken: what is in the frame then is all there will be.
            ended = self._ended
            if self._accepted is not None:
                request_id, self._accepted = self._accepted, None
                await context.write(pb.ExecuteResponse(accepted=pb.Accepted(request_id=request_id)))
            frame, self._frame = self._frame, Frame()
            for response in to_proto.execute_responses(frame):
                await context.write(response)
            if ended:
                break
        if self._error is not None:
            raise self._error

    def accepted(self, _handle: int, request_id: str) -> None:
        self._accepted = request_id
        self._news.set()

    def tokens(
        self, _handle: int, sequence: int, token_ids: list[int], logprobs: list[TokenLogprob] | None
    ) -> None:
        self._frame.add_tokens(0, sequence, token_ids, logprobs)
        self._news.set()

    def ended(self, _handle: int, sequence: int, ending: Ending) -> None:
        self._frame.add_ending(0, sequence, ending)
        self._news.set()

    def completed(self, _handle: int, completion: Completion) -> None:
        self._frame.add_completion(0, completion)
        self._ended = True
        self._news.set()

    def failed(self, _handle: int, error: ServiceError) -> None:
        self._error = error
        self._ended = True
        self._news.set()
