"""One generation that a caller has submitted, until the dispatcher has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

from opentelemetry.context import Context
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.errors import ServiceError, invalid

from tokenwire_worker.core.generations import Sink
from tokenwire_worker.core.request import GenerationRequest
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.edge import from_proto
from tokenwire_worker.engines.port import Generation
from tokenwire_worker.generation_record import Recorder


class Submission:
    """A request, what was read of it, and what its caller has cancelled of it meanwhile."""

    request: GenerationRequest
    """Once it was read."""
    generation: Generation
    """Once it was read."""

    def __init__(
        self, message: pb.ExecuteRequest | pb.Submit, parent: Context | None = None
    ) -> None:
        """Takes what the caller sent.

        Args:
            message: it; its request may be missing.
            parent: trace context of the call; None: the request starts a trace of its own unless it
                brings one.
        """
        self.handle = message.handle if isinstance(message, pb.Submit) else 0
        self.received_s = time.monotonic()
        self.parent = from_proto.trace_parent(message.request) or parent
        self.trial: asyncio.Task[None] | None = None
        """The task that waits for the engine's word on its guide."""
        self.cancelled: set[int] = set()
        """Sequences that were cancelled while it was tried, but not all."""
        self._message = message

    async def read(self, dispatcher: Dispatcher) -> None:
        """Reads and checks it; a guide is still to be tried.

        Raises:
            ServiceError: fields are at fault, or the worker does not accept new requests.
        """
        if not self._message.HasField("request"):
            raise invalid("request", "missing")
        request = self._message.request
        self.request = await from_proto.generation_request(request, dispatcher.info)
        self.generation = dispatcher.validated(self.request)

    async def try_guide(self, dispatcher: Dispatcher) -> None:
        """Has the engine try its guide.

        Raises:
            ServiceError: the engine cannot hold an output to it, or can't tell now.
        """
        await dispatcher.try_guide(self.request, self.generation, self.received_s)

    def cancel(self, sequences: Collection[int]) -> bool:
        """Notes a cancel that came while it was tried; returns whether nothing is left of it."""
        every = set(range(self.generation.sequence_count))
        self.cancelled |= every.intersection(sequences) if sequences else every
        return self.cancelled == every

    def refuse(self, recorder: Recorder, error: Exception) -> ServiceError:
        """Writes down that it was not accepted; returns what the caller is told."""
        request_id = self._message.request.request_id
        return recorder.refuse(request_id, error, self.received_s, self.parent)

    def submit(self, dispatcher: Dispatcher, sink: Sink, *, cancelled: bool = False) -> int:
        """Hands it over; returns the dispatcher's number for it.

        Args:
            dispatcher: what runs it.
            sink: where its events go.
            cancelled: its caller has cancelled all of it.

        Raises:
            ServiceError: there is no room, or the worker does not accept new requests.
        """
        return dispatcher.submit(
            self.request,
            self.generation,
            sink,
            handle=self.handle,
            received_s=self.received_s,
            parent=self.parent,
            cancelled=cancelled,
        )
