"""TCP relays in a process of their own: each stands before one service and can cut it off.

    python -m tests.chaos.relay 20001 20002 ...

It prints a JSON list with the port of each relay, in the order of the services' ports, and then
takes commands from standard input, one a line: the number of a relay and one of

    hold    nothing is passed on any more, to either side, and nothing is closed
    pass    what waits is passed on, and what follows
    reset   every connection is reset
    close   every connection is closed as a peer that ends closes it

Relays need no rights on the host, unlike network namespaces. To both ends a relay that holds looks
like a network that drops everything: data, pings and their answers.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from typing import cast

HOST = "127.0.0.1"

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: the kernel sends RST instead of what waits."""


class _Side(asyncio.Protocol):
    """One side of a relayed connection, which passes on what it reads to the other."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._relay.sides.add(self)
        # Python before 3.11.4 begins to read after this call, paused or not.
        asyncio.get_running_loop().call_soon(self._wait)

    def _wait(self) -> None:
        """Reads nothing until the other side is there, or while the relay holds."""
        if self.other is None or self._relay.held:
            self.pause()

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, exception: Exception | None) -> None:
        self._relay.sides.discard(self)
        self.transport = None
        if self.other is not None:
            self.other.end(reset=exception is not None)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.pause()

    def resume_writing(self) -> None:
        if self.other is not None and not self._relay.held:
            self.other.resume()

    def pause(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and self.other is not None:
            self.transport.resume_reading()

    def end(self, *, reset: bool) -> None:
        """Ends this side's connection."""
        if self.transport is None:
            return
        if reset:
            own = cast("socket.socket", self.transport.get_extra_info("socket"))
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        else:
            self.transport.close()


class Relay:
    """Passes connections on to one service."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._connecting: set[asyncio.Task[None]] = set()
        self.sides: set[_Side] = set()
        self.held = False

    async def listen(self) -> int:
        """Listens on any port, and returns it."""
        server = await asyncio.get_running_loop().create_server(self._accept, HOST, 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def _accept(self) -> _Side:
        side = _Side(self)
        task = asyncio.ensure_future(self._connect(side))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        return side

    async def _connect(self, side: _Side) -> None:
        loop = asyncio.get_running_loop()

        def upstream() -> _Side:
            made = _Side(self)
            made.other = side
            return made

        try:
            _, made = await loop.create_connection(upstream, HOST, self._upstream_port)
        except OSError:
            side.end(reset=True)
            return
        side.other = made
        if side.transport is None:
            made.end(reset=True)
        elif not self.held:
            side.resume()

    def obey(self, command: str) -> None:
        """Does what a command says."""
        sides = list(self.sides)
        if command in ("hold", "pass"):
            self.held = command == "hold"
            for side in sides:
                side.pause() if self.held else side.resume()
        else:
            for side in sides:
                side.end(reset=command == "reset")


async def _serve(upstream_ports: list[int]) -> None:
    relays = [Relay(port) for port in upstream_ports]
    print(json.dumps([await relay.listen() for relay in relays]), flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while line := await commands.readline():
        number, command = line.decode().split()
        relays[int(number)].obey(command)


if __name__ == "__main__":
    asyncio.run(_serve([int(port) for port in sys.argv[1:]]))
