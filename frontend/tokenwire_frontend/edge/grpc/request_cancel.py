"""Ends what runs under a request id, wherever in the fleet it runs."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import structlog
from tokenwire.frontend.v1 import generation_pb2 as pb
from tokenwire_service.errors import Code, ServiceError

from tokenwire_frontend import errors, kept_errors
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.grpc.activity import Processes
from tokenwire_frontend.edge.grpc.owners import Owners, Place, Sender
from tokenwire_frontend.edge.grpc.relay import Relay

PEER_ANSWER_S = 2.0
"""Time that another frontend has to answer; one asks its processes, which have 1 s."""

PEER_CALLS = 64
"""Calls to other frontends at once: a flood of cancels is not to become one for all of them."""

log = structlog.get_logger()


class RequestCancel:
    """Cancels by request id, here and at the other frontends.

    Args:
        processes: of this frontend.
        owners: knows the other frontends.
        relay: asks them, as the caller.
    """

    def __init__(self, processes: Processes, owners: Owners, relay: Relay) -> None:
        self._processes = processes
        self._owners = owners
        self._relay = relay
        self._turns = asyncio.Semaphore(PEER_CALLS)

    async def run(
        self, request: pb.CancelGenerationRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CancelGenerationResponse:
        """Cancels the generations that the caller may end, and says how many there were.

        Raises:
            ServiceError: none runs; or none was found, and a frontend that may have one is silent.
        """
        # What another frontend sends has come to all of them already.
        peers = self._owners.peers if Sender.of(context) is Sender.CLIENT else []
        tenant = callers.current().seen_tenant
        here = self._processes.cancel(request.request_id, tenant)
        counts = await asyncio.gather(
            here, *[self._at(address, request, context) for address in peers]
        )
        count = sum(each or 0 for each in counts)
        if not count:
            silent = [peer for peer, each in zip(peers, counts[1:], strict=True) if each is None]
            if silent:
                raise kept_errors.peers_unreachable(request.request_id, silent)
            raise errors.not_running(request.request_id)
        return pb.CancelGenerationResponse(cancelled=count)

    async def _at(
        self,
        address: str,
        request: pb.CancelGenerationRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> int | None:
        """Returns how many another frontend has ended; None where it does not say."""
        place = Place(address, Sender.FRONTEND)
        try:
            async with asyncio.timeout(PEER_ANSWER_S), self._turns:
                answer = await self._relay.unary(place, "CancelGeneration", request, context)
        except TimeoutError:
            log.warning("cancel_not_forwarded", peer=address, reason="no answer in time")
            return None
        except ServiceError as error:
            if error.code is Code.NOT_FOUND:
                return 0
            log.warning("cancel_not_forwarded", peer=address, reason=error.message)
            return None
        return pb.CancelGenerationResponse.FromString(answer).cancelled
