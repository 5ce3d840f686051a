"""Ports of this host for services that keep theirs through restarts."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, suppress


def free_ports(count: int) -> int:
    """Returns the first of so many ports in a row that nothing listens on.

    They are below those that connections are given, which come and go.
    """
    for first in range(20_000 + os.getpid() % 10_000, 32_000, count):
        with suppress(OSError), ExitStack() as held:
            for port in range(first, first + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise AssertionError("no ports in a row are free")
