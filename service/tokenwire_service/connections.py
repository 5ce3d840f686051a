"""The accepted TCP connections of this process, which gRPC offers no way to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OPEN_FILES = Path("/proc/self/fd")


def disconnect(port: int) -> None:
    """Ends every connection that was accepted on this port; what was written still arrives.

    Peers see their connection closed, so calls that are open end as UNAVAILABLE. Does nothing
    where the system has no /proc.
    """
    for connection in _accepted(port):
        with suppress(OSError):  # the peer was faster
            connection.shutdown(socket.SHUT_RDWR)


def _accepted(port: int) -> Iterator[socket.socket]:
    for file in OPEN_FILES.iterdir() if OPEN_FILES.is_dir() else ():
        with suppress(OSError):  # closed by another thread meanwhile
            if not file.is_socket():
                continue
            # A duplicate, since the descriptor itself is gRPC's to close.
            with socket.socket(fileno=os.dup(int(file.name))) as found:
                tcp = found.family in (socket.AF_INET, socket.AF_INET6)
                listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if tcp and not listens and found.getsockname()[1] == port:
                    yield found
