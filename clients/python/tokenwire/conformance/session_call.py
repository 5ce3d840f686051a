"""A Session call, on raw stubs."""

from __future__ import annotations

import queue
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

from google.rpc import status_pb2

from tokenwire.conformance import refusal
from tokenwire.conformance.answer import Answer, Event
from tokenwire.conformance.refusal import Refusal
from tokenwire.conformance.rule import Broken
from tokenwire.frontend.v1 import generation_pb2, generation_pb2_grpc

SessionRequest = generation_pb2.SessionRequest


class SessionCall:
    """A Session call: commands go out at once, events gather by number as they are read.

    Leaving the block cancels the call. Reading raises grpc.RpcError where the call fails, and
    Broken where it ends before what is waited for has come.
    """

    def __init__(
        self, stub: generation_pb2_grpc.GenerationServiceStub, timeout_s: float, metadata: Any = ()
    ) -> None:
        self._commands: queue.SimpleQueue[SessionRequest | None] = queue.SimpleQueue()
        self.call = stub.Session(
            iter(self._commands.get, None), timeout=timeout_s, metadata=metadata
        )
        self._events: dict[int, list[Event]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_sending()
        self.call.cancel()

    def send(self, **fields: Any) -> None:
        """Sends a message of these fields."""
        self._commands.put(SessionRequest(**fields))

    def open(self, number: int, what: generation_pb2.Generation, **fields: Any) -> None:
        """Opens a generation; what came under its number before is forgotten."""
        self.forget(number)
        self.send(open=generation_pb2.Open(id=number, generation=what, **fields))

    def forget(self, *numbers: int) -> None:
        """Forgets what came under these numbers."""
        for number in numbers:
            self._events.pop(number, None)

    def cancel(self, number: int) -> None:
        """Cancels a generation."""
        self.send(cancel=generation_pb2.Cancel(id=number))

    def close_sending(self) -> None:
        """Closes the sending side."""
        self._commands.put(None)

    def answer(self, number: int) -> Answer:
        """Returns what has come under a number."""
        return Answer(self._events[number])

    def read_until(self, done: Callable[[], bool], awaited: str) -> None:
        """Reads until the condition holds."""
        while not done():
            response = next(self.call, None)
            if response is None:
                raise Broken(f"the session ended before {awaited}")
            for event in response.events:
                self._events[event.id].append(event)

    def read_to_first_token(self, number: int) -> None:
        """Reads until a generation has sent a delta or has ended."""
        self.read_until(
            lambda: bool(self.answer(number).deltas) or self.is_over(number),
            f"generation {number} had sent a delta",
        )

    def read_to_end(self) -> None:
        """Reads until the call ends."""
        for response in self.call:
            for event in response.events:
                self._events[event.id].append(event)

    def is_over(self, number: int) -> bool:
        """Tells whether a generation has ended."""
        return bool({"completed", "error"} & set(self.answer(number).kinds))

    def finish(self, number: int) -> Answer:
        """Reads until a generation has ended, and returns it; raises Broken where it failed."""
        self.read_until(lambda: self.is_over(number), f"generation {number} had ended")
        answer = self.answer(number)
        for event in answer.events:
            if isinstance(event, generation_pb2.SessionEvent) and event.HasField("error"):
                raise Broken(f"generation {number} ended with an error: {event.error.message}")
        return answer

    def failure(self, number: int) -> Refusal:
        """Reads until an error has come under a number, and returns it."""
        self.read_until(lambda: self.is_over(number), f"an error of number {number}")
        for event in self._events[number]:
            if isinstance(event, generation_pb2.SessionEvent) and event.HasField("error"):
                return _refusal(event.error)
        raise Broken(f"generation {number} ended without an error")


def _refusal(status: Any) -> Refusal:
    return refusal.of_status(status_pb2.Status.FromString(status.SerializeToString()))
