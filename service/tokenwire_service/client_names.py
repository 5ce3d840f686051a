"""The names in a caller's certificate, and which of them may call."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from tokenwire_service.errors import Code, ServiceError


class Certified(Protocol):
    """A call whose caller may have a certificate, such as gRPC's context."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Returns the names of the certificate, by their kind as gRPC calls it."""


def names_of(context: Certified) -> list[str]:
    """Returns the names of the caller's certificate: URIs, then DNS names; without one, none."""
    told = context.auth_context()
    kinds = ("peer_uri", "peer_dns")
    return [name.decode(errors="replace") for kind in kinds for name in told.get(kind, ())]


class ClientNames:
    """Admits the callers whose certificate has one of these names.

    Args:
        setting: which setting names them, for errors.
        allowed: DNS names and URIs, compared as they are written; empty: nobody is admitted.
    """

    def __init__(self, setting: str, allowed: Collection[str]) -> None:
        self._setting = setting
        self._allowed = frozenset(allowed)

    def admit(self, _method: str, context: Certified) -> None:
        """Checks the caller of a call.

        Raises:
            ServiceError: its certificate has none of the names.
        """
        names = names_of(context)
        if self._allowed.isdisjoint(names):
            raise ServiceError(
                Code.PERMISSION_DENIED,
                "CLIENT_NOT_ALLOWED",
                f"the client's certificate has none of the names of {self._setting}; "
                f"its names are: {', '.join(names) or 'none'}",
            )
