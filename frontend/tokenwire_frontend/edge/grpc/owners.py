"""Which frontend, and which of its processes, has a generation that outlives its calls.

A call for one that is elsewhere goes from the frontend that got it to the owner, and there from the
process that got it to the one that has the generation: at most two hops, and never back.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import grpc
from tokenwire_service.errors import invalid

from tokenwire_frontend import kept_errors
from tokenwire_frontend.core.resume_token import ResumeToken, TokenSigner
from tokenwire_frontend.core.signer import KEY_BYTES

SENDER_KEY = "tokenwire-sender"
"""Metadata of a call that was sent on: by whom."""


class Sender(IntEnum):
    """Who sent a call; of two, the larger one is nearer to the owner."""

    CLIENT = 0
    FRONTEND = 1
    """Another one: this one has the generation, or had it."""
    PROCESS = 2
    """Another one of this frontend: this one has the generation, or had it."""

    @classmethod
    def of(cls, context: grpc.aio.ServicerContext[Any, Any]) -> Sender:
        """Returns who sent a call; what is unknown is a client."""
        for key, value in context.invocation_metadata() or ():
            if key == SENDER_KEY and str(value).upper() in cls.__members__:
                return cls[str(value).upper()]
        return cls.CLIENT


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call is to be sent on to."""

    address: str
    """HOST:PORT."""
    sender: Sender
    """As whom."""


class Siblings(Protocol):
    """The processes that serve together with this one."""

    async def address_of(self, process: str) -> str | None:
        """Returns the address of a process by its name; None: it has ended."""
        ...


class Owners:
    """Writes resume tokens, reads them, and finds whose they are.

    Args:
        secret: of this frontend's processes, which no other has.
        fleet_key: signs tokens for all frontends; None: they are good for this one.
        address: HOST:PORT at which other frontends reach this one; empty: they don't.
        peers: addresses of the frontends of the fleet; this one's may be among them.
        process: name of this process; no other run has it.
        siblings: the other processes; None: there are none.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        fleet_key: bytes | None = None,
        address: str = "",
        peers: Collection[str] = (),
        process: str = "",
        siblings: Siblings | None = None,
    ) -> None:
        self._frontend = hashlib.sha256(b"name of the frontend" + secret).hexdigest()[:16]
        self._signer = TokenSigner(fleet_key or secret)
        self._address = address
        self.peers = [peer for peer in dict.fromkeys(peers) if peer != address]
        """Addresses of the other frontends."""
        self._process = process
        self._siblings = siblings

    def token(self, generation: str) -> str:
        """Returns the token of a generation of this process."""
        token = ResumeToken(self._address, self._frontend, self._process, generation)
        return self._signer.write(token)

    def read(self, text: str, field: str) -> ResumeToken:
        """Returns the token.

        Raises:
            InvalidRequestError: it is none, or was signed with another key.
        """
        token = self._signer.read(text)
        if token is None:
            fault = (
                "is not a resume token of this fleet: it was changed, or signed with another key"
            )
            raise invalid(field, fault)
        return token

    async def locate(self, token: ResumeToken, sender: Sender) -> Place | None:
        """Returns where a call for this token is to be sent on to; None: it is for this process.

        Raises:
            ServiceError: the owner has ended, or is not one that calls are sent on to.
        """
        if token.frontend != self._frontend:
            if token.owner and token.owner == self._address:
                raise kept_errors.not_kept("OWNER_GONE")
            if sender is not Sender.CLIENT or token.owner not in self.peers:
                raise kept_errors.unknown_owner(token.owner)
            return Place(token.owner, Sender.FRONTEND)
        if token.process == self._process:
            return None
        address = None
        if self._siblings is not None and sender is not Sender.PROCESS:
            address = await self._siblings.address_of(token.process)
        if address is None:
            raise kept_errors.not_kept("OWNER_GONE")
        return Place(address, Sender.PROCESS)


def new_secret() -> bytes:
    """Returns a secret for the processes of one frontend."""
    return secrets.token_bytes(KEY_BYTES)
