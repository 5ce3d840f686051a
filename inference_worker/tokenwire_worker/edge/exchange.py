"""One Exchange stream: many generations in, one message for each engine step out.

A handle names one generation from its Submit until its Completed or Failure has been sent. A Submit
under a handle that is still live ends both generations with one Failure: whatever the caller meant,
after that message it and the worker agree again that the handle is free, and no late token of the
first can be taken for one of the second. Nothing that a caller sends ends the stream.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import structlog
from opentelemetry.context import Context
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.errors import ServiceError, invalid
from tokenwire_service.telemetry import tracing

from tokenwire_worker import errors
from tokenwire_worker.core.frame import Frame
from tokenwire_worker.core.generations import Completion, Ending
from tokenwire_worker.core.request import GenerationRequest
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.edge import from_proto, to_proto
from tokenwire_worker.engines.port import Generation, TokenLogprob
from tokenwire_worker.generation_record import Recorder

log = structlog.get_logger()


class ExchangeStream:
    """Runs one stream: a task that reads, a task that writes, and the generations between them."""

    def __init__(self, dispatcher: Dispatcher, recorder: Recorder, context: Any) -> None:
        """Takes a call's context; `run` does the rest."""
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._context = context
        self._frame = Frame()
        self._news = asyncio.Event()
        self._keys: dict[int, int] = {}
        """Dispatcher's number of each live handle."""
        self._tries: dict[int, _GuideTry] = {}
        """Guided generations, by handle, whose form the engine is trying."""
        self._half_closed = False
        self._over = False

    async def run(self) -> None:
        """Serves the stream until the caller has closed it and everything has ended.

        When the call is cancelled or the peer vanishes, everything that it carried is cancelled.
        """
        reader = asyncio.ensure_future(self._read())
        writer = asyncio.ensure_future(self._write())
        over = asyncio.ensure_future(self._dispatcher.over.wait())
        try:
            await asyncio.wait({reader, writer, over}, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
                await asyncio.wait({writer, over}, return_when=asyncio.FIRST_COMPLETED)
            self._over = True
            self._news.set()
            await writer
        finally:
            for a_try in self._tries.values():
                a_try.task.cancel()
            reader.cancel()
            writer.cancel()
            over.cancel()
            for key in list(self._keys.values()):
                self._dispatcher.abandon(key)
            await asyncio.gather(reader, writer, over, return_exceptions=True)

    # --- commands --------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                break
            self._obey(message)
        self._half_closed = True
        self._news.set()

    def _obey(self, message: pb.ExchangeRequest) -> None:
        command = message.WhichOneof("command")
        if command is None and not (message.submits or message.cancels):
            # There is no handle to answer to; a later contract may have commands that this worker
            # does not know.
            log.info("unknown_command")
        if command == "submit":
            self._on_submit(message.submit)
        elif command == "cancel":
            self._on_cancel(message.cancel)
        for submit in message.submits:
            self._on_submit(submit)
        for cancel in message.cancels:
            self._on_cancel(cancel)

    def _on_submit(self, submit: pb.Submit) -> None:
        received_s = time.monotonic()
        handle = submit.handle
        if self._is_live(handle):
            self._on_duplicate(handle)
            return
        try:
            if not submit.HasField("request"):
                raise invalid("request", "missing")
            request = from_proto.generation_request(submit.request)
            generation = self._dispatcher.validated(request)
            if generation.guide is None:
                self._submit(submit, request, generation, received_s)
            else:
                a_try = self._tries[handle] = _GuideTry()
                a_try.task = asyncio.ensure_future(
                    self._try(a_try, submit, request, generation, received_s)
                )
        except ServiceError as error:
            self._refuse(submit, error, received_s)

    def _submit(
        self,
        submit: pb.Submit,
        request: GenerationRequest,
        generation: Generation,
        received_s: float,
    ) -> None:
        handle = submit.handle
        # The events of `submit` itself come before its return, so the handle may be free by then.
        self._keys[handle] = _UNKNOWN
        key = self._dispatcher.submit(
            request,
            generation,
            self,
            handle=handle,
            received_s=received_s,
            parent=trace_parent(submit.request),
        )
        if handle in self._keys:
            self._keys[handle] = key

    async def _try(
        self,
        a_try: _GuideTry,
        submit: pb.Submit,
        request: GenerationRequest,
        generation: Generation,
        received_s: float,
    ) -> None:
        handle = submit.handle
        try:
            await self._dispatcher.try_guide(generation)
            del self._tries[handle]
            self._submit(submit, request, generation, received_s)
            for sequences in a_try.cancels:
                self._dispatcher.cancel(self._keys.get(handle, _UNKNOWN), sequences)
        except ServiceError as error:
            self._tries.pop(handle, None)
            self._refuse(submit, error, received_s)

    def _refuse(self, submit: pb.Submit, error: ServiceError, received_s: float) -> None:
        self._recorder.refuse(
            submit.request.request_id, error, received_s, trace_parent(submit.request)
        )
        self.failed(submit.handle, error)

    def _on_cancel(self, cancel: pb.Cancel) -> None:
        handle, sequences = cancel.handle, list(cancel.sequences)
        if handle in self._tries:
            self._tries[handle].cancels.append(sequences)
        elif handle in self._keys:
            self._dispatcher.cancel(self._keys[handle], sequences)

    def _is_live(self, handle: int) -> bool:
        if handle in self._keys or handle in self._tries:
            return True
        frame = self._frame  # ended, but the caller has not been told yet
        return any(handle == ended for ended, _ in (*frame.completions, *frame.failures))

    def _on_duplicate(self, handle: int) -> None:
        a_try = self._tries.pop(handle, None)
        if a_try is not None:
            a_try.task.cancel()
        if handle in self._keys:
            self._dispatcher.abandon(self._keys[handle])
        self.failed(handle, errors.duplicate_handle(handle))

    # --- events of the generations ---------------------------------------------------------------

    def accepted(self, handle: int, _request_id: str) -> None:
        """Takes an acceptance into the next frame."""
        self._frame.add_accepted(handle)
        self._news.set()

    def tokens(
        self, handle: int, sequence: int, token_ids: list[int], logprobs: list[TokenLogprob] | None
    ) -> None:
        """Takes tokens into the next frame."""
        frame = self._frame
        if not frame.dirty:
            self._news.set()
        frame.add_tokens(handle, sequence, token_ids, logprobs)

    def ended(self, handle: int, sequence: int, ending: Ending) -> None:
        """Takes the end of a sequence into the next frame."""
        self._frame.add_ending(handle, sequence, ending)
        self._news.set()

    def completed(self, handle: int, completion: Completion) -> None:
        """Takes the end of a generation into the next frame."""
        self._keys.pop(handle, None)
        self._frame.add_completion(handle, completion)
        self._news.set()

    def failed(self, handle: int, error: ServiceError) -> None:
        """Takes a refusal or failure into the next frame."""
        self._keys.pop(handle, None)
        self._frame.add_failure(handle, error)
        self._news.set()

    # --- responses -------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Writes frames, one at a time, until there is nothing left to come."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._frame.dirty:
                frame, self._frame = self._frame, Frame()
                await self._context.write(to_proto.exchange_response(frame))
            if self._over or (self._half_closed and not self._keys and not self._tries):
                return


_UNKNOWN = -1
"""Stands for a number that is not known yet; the dispatcher passes it over."""


class _GuideTry:
    """A guided generation between its receipt and the engine's word on its form."""

    def __init__(self) -> None:
        self.task: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """The task that waits for the engine's word."""
        self.cancels: list[list[int]] = []
        """Cancels that came meanwhile, as lists of sequences."""


def trace_parent(request: pb.Request) -> Context | None:
    """Returns the trace context that a request brings, or None."""
    context = request.trace_context
    if not context.traceparent:
        return None
    carrier = {
        tracing.TRACEPARENT: context.traceparent,
        tracing.TRACESTATE: context.tracestate,
    }
    return tracing.extract(carrier)
