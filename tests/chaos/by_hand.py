"""Generations continued with the stubs alone, as a client in any language may do it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import grpc
from google.rpc import error_details_pb2, status_pb2
from tokenwire.channel_arguments import USE_LOCAL_SUBCHANNEL_POOL, client, merged
from tokenwire.frontend.v1 import generation_pb2 as pb
from tokenwire.frontend.v1.generation_pb2_grpc import GenerationServiceStub

from tests.chaos.answers import Collected, Told

if TYPE_CHECKING:
    from tokenwire.frontend.v1.generation_pb2_grpc import GenerationServiceAsyncStub

_EventCall = (
    grpc.aio.UnaryStreamCall[pb.StreamGenerateRequest, pb.StreamGenerateResponse]
    | grpc.aio.UnaryStreamCall[pb.AttachRequest, pb.AttachResponse]
)

ATTACHES = 12
"""Calls of a detached generation; who needs more goes on without it."""

TRIES = 12
"""Calls in a row that bring nothing new, before what the last one said is the outcome."""

FIRST_DELAY_S, LONGEST_DELAY_S = 0.05, 2.0
"""Before the next call: doubled each time."""

DETACH_TTL_S = 30
"""Longer than any pause of a caller, so that nothing is lost by it."""


@dataclass
class Place:
    """A generation, and how far it has come."""

    generation: pb.Generation
    collected: Collected
    source: Random
    continued: int = 0
    """Calls that went on with it."""


class ByHand:
    """Calls frontends through one channel to each.

    Args:
        frontends: their addresses.
    """

    def __init__(self, frontends: Sequence[str]) -> None:
        self._channels = [
            grpc.aio.insecure_channel(each, merged(client(each), (USE_LOCAL_SUBCHANNEL_POOL, 1)))
            for each in frontends
        ]
        self._stubs = [GenerationServiceStub(channel) for channel in self._channels]

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels:
            await channel.close()

    async def stream(self, place: Place) -> list[Told]:
        """Streams a generation, on another frontend each time that a call ends too early.

        Raises:
            grpc.aio.AioRpcError: what it is refused with, or what the last call failed with.
            BrokenError: the answer breaks the contract.
        """
        turn = place.source.randrange(len(self._stubs))
        failures = 0
        while True:
            come = place.collected.token_offsets
            request = pb.StreamGenerateRequest(generation=place.generation)
            request.generation.output_so_far.extend(place.collected.so_far())
            try:
                async for event in self._stubs[turn % len(self._stubs)].StreamGenerate(request):
                    place.collected.take(event)
                return place.collected.told()
            except grpc.aio.AioRpcError as error:
                failures = 0 if place.collected.token_offsets != come else failures + 1
                asked_s = _asked_delay_s(error)
                if failures == TRIES or (not _goes_on(error) and asked_s is None):
                    raise
            await asyncio.sleep(min(FIRST_DELAY_S * 2**failures, LONGEST_DELAY_S) + (asked_s or 0))
            turn += 1
            place.continued += 1

    async def detached(self, place: Place) -> list[Told]:
        """Begins a generation that goes on without its caller, leaves, and attaches again.

        Where the frontend that had it is gone, it is continued as any other.

        Raises:
            grpc.aio.AioRpcError, BrokenError: as `stream`.
        """
        place.generation.on_disconnect = pb.ON_DISCONNECT_DETACH
        place.generation.detach_ttl.seconds = DETACH_TTL_S
        turn, failures = place.source.randrange(len(self._stubs)), 0
        # Once each frontend has failed, who goes on by itself is served sooner than who waits.
        while failures < len(self._stubs) and place.continued < ATTACHES:
            come = place.collected.token_offsets
            try:
                call = self._start(self._stubs[turn % len(self._stubs)], place)
                if await self._some(call, place):
                    return place.collected.told()
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    break  # its frontend has ended, and it with that
                if not _goes_on(error) and _asked_delay_s(error) is None:
                    raise
                failures = 1 if place.collected.token_offsets != come else failures + 1
            turn += 1
            place.continued += 1
        place.generation.on_disconnect = pb.ON_DISCONNECT_CANCEL
        place.generation.ClearField("detach_ttl")
        return await self.stream(place)

    def _start(self, stub: GenerationServiceAsyncStub, place: Place) -> _EventCall:
        """Begins a generation, or attaches to it where that has come about."""
        accepted = place.collected.accepted
        if accepted is None:
            return stub.StreamGenerate(pb.StreamGenerateRequest(generation=place.generation))
        return stub.Attach(
            pb.AttachRequest(
                resume_token=accepted.resume_token, token_offsets=place.collected.token_offsets
            )
        )

    async def _some(self, call: _EventCall, place: Place) -> bool:
        """Reads some events of a call and leaves it; returns whether they were the last ones."""
        left = place.source.choice((2, 5, 20, 1_000_000))
        async for event in call:
            place.collected.take(event)
            left -= 1
            if left == 0:
                call.cancel()
                return False
        return True


def _goes_on(error: grpc.aio.AioRpcError) -> bool:
    """Whether another frontend may go on: this one is gone, or is about to be."""
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def _asked_delay_s(error: grpc.aio.AioRpcError) -> float | None:
    """Returns after which time the server wants to be asked again, where it says so."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            retry = error_details_pb2.RetryInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(retry):
                    return float(retry.retry_delay.ToNanoseconds() / 1e9)
    return None
