"""The TCP sockets that gRPC has opened for a server, which it offers no way to close by itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path

OPEN_FILES = Path("/proc/self/fd")

_TCP = (socket.AF_INET, socket.AF_INET6)


def disconnect(port: int, only: Container[str] | None = None) -> None:
    """Ends connections that were accepted on this port; what was written still arrives.

    Peers see their connection closed, so calls that are open end as UNAVAILABLE. Does nothing
    where the system has no /proc.

    Args:
        port: of the server.
        only: names of the peers whose connections are ended, as `peers` gives them; None: all.
    """
    for _, connection in _sockets(port, listening=False):
        with suppress(OSError):  # the peer was faster
            if only is None or _peer(connection) in only:
                connection.shutdown(socket.SHUT_RDWR)


def peers(port: int) -> set[str]:
    """Returns the names of the peers that are connected on this port.

    They are those of gRPC's `context.peer()`, without its escapes.
    """
    names = set()
    for _, connection in _sockets(port, listening=False):
        with suppress(OSError):
            names.add(_peer(connection))
    return names


def stop_listening(port: int) -> None:
    """Closes what listens on this port; connections that were accepted stay."""
    for number, _ in _sockets(port, listening=True):
        # The number stays gRPC's, which closes it at its end: it is another socket's from now on.
        with socket.socket() as other:
            os.dup2(other.fileno(), number, inheritable=False)


def _sockets(port: int, *, listening: bool) -> Iterator[tuple[int, socket.socket]]:
    """Yields the number and a duplicate of each socket that has this port on our side."""
    for file in OPEN_FILES.iterdir() if OPEN_FILES.is_dir() else ():
        with suppress(OSError):  # closed by another thread meanwhile
            if not file.is_socket():
                continue
            # A duplicate, since the descriptor itself is gRPC's to close.
            with socket.socket(fileno=os.dup(int(file.name))) as found:
                listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if (
                    found.family in _TCP
                    and bool(listens) is listening
                    and found.getsockname()[1] == port
                ):
                    yield int(file.name), found


def _peer(connection: socket.socket) -> str:
    host, port, *_ = connection.getpeername()
    host = host.removeprefix("::ffff:")
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
