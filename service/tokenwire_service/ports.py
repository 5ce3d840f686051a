"""Addresses to listen on: whether one is free, and one that several processes share."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any


class ListenError(ValueError):
    """The address can't be listened on.

    Args:
        setting: which setting has the address, such as `--listen`.
        address: HOST:PORT.
        reason: why not.
    """

    def __init__(self, setting: str, address: str, reason: str) -> None:
        super().__init__(f"{setting} {address} can't be listened on: {reason}")


def check_free(setting: str, address: str) -> None:
    """Checks that nobody listens on the address; gRPC gives no reason where it can't.

    Raises:
        ListenError: somebody does, or the host has no such address.
    """
    fault: OSError | None = None
    try:
        for family, place in _places(address):
            try:
                with _bound(family, place):
                    return  # one of a name's addresses is enough for gRPC too
            except OSError as error:
                fault = error
    except OSError as error:
        fault = error
    # Where the host has no IPv6, gRPC takes 0.0.0.0 for [::].
    if fault is not None and (_host(address) != "::" or fault.errno == errno.EADDRINUSE):
        raise ListenError(setting, address, fault.strerror or str(fault)) from fault


class SharedAddress:
    """An address that processes started by this one listen on together (SO_REUSEPORT).

    This process keeps it without listening, so that it stays theirs while none of them runs.

    Args:
        setting: which setting has the address.
        address: HOST:PORT; port 0 takes any.

    Raises:
        ListenError: somebody else listens on it, or the host has no such address.
    """

    def __init__(self, setting: str, address: str) -> None:
        check_free(setting, address)
        self._sockets: list[socket.socket] = []
        self.address = address
        """HOST:PORT with the port that was taken."""
        for family, place in _places(address):
            port = place[1] or (self._sockets[0].getsockname()[1] if self._sockets else 0)
            with suppress(OSError):  # one of a name's addresses is enough
                self._sockets.append(
                    _bound(family, (place[0], port, *place[2:]), socket.SO_REUSEPORT)
                )
        for each in self._sockets:
            # With it, another process that sets it too could bind until somebody listens.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        if self._sockets:
            port = self._sockets[0].getsockname()[1]
            self.address = f"{address.rpartition(':')[0]}:{port}"
        elif address.endswith(":0"):  # [::] where the host has no IPv6; with a port, gRPC manages
            raise ListenError(setting, address, "the host has no such address")

    def close(self) -> None:
        """Lets go of it."""
        for each in self._sockets:
            each.close()


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _places(address: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yields the family and socket address of each address that the name stands for."""
    port = int(address.rpartition(":")[2])
    for family, *_, place in socket.getaddrinfo(
        _host(address), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        yield family, place


def _bound(family: int, place: tuple[Any, ...], *options: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in (socket.SO_REUSEADDR, *options):
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(place)
    except OSError:
        made.close()
        raise
    return made
