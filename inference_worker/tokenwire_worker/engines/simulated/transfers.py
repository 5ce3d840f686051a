"""How simulated engines, of one process or of several, hand over the KV cache of prompts.

The engine that has computed a prompt keeps its blocks under a ticket. Another engine asks for them
by a datagram, waits for as long as the transfer would take, and says that it is done. Whoever gets
no answer, or is told that the blocks are gone, computes the prompt itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.simulated.clock import CLOCK

ANSWER_S = 0.25
"""Time that the engine with the blocks has to answer; it takes less than a millisecond."""

TICKET_BYTES = 16
"""Of a ticket: nobody guesses one."""

_ASK, _HELD, _GONE, _DONE = b"?", b"+", b"-", b"!"
"""Kinds of datagrams; the ticket follows."""


@dataclass(frozen=True)
class TransferPace:
    """What a transfer takes, and how long blocks wait for one."""

    token_s: float
    """Time for each token of the prompt."""
    hold_s: float
    """Time after which blocks that nobody has fetched are free again."""


class Transfers:
    """One engine's end of all transfers. From any thread.

    Args:
        host: address to listen on, and at which the others find it.
        pace: what transfers take.

    Raises:
        EngineError: the host can't be listened on, or nobody finds anything there.
    """

    def __init__(self, host: str, pace: TransferPace) -> None:
        self._pace = pace
        self._socket = _listening(host)
        self._socket.settimeout(0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._held: dict[bytes, Callable[[], None]] = {}
        """What gives the blocks of a ticket back."""
        self._asked: dict[bytes, Callable[[bool], None]] = {}
        """Who waits for the word on a ticket."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has others' datagrams read on this loop from now on."""
        self._loop = loop
        loop.call_soon_threadsafe(loop.add_reader, self._socket, self._read)

    def close(self) -> None:
        """Answers nobody any more."""
        loop, self._loop = self._loop, None
        with suppress(RuntimeError):  # the loop may be closed by now
            if loop is not None:
                loop.call_soon_threadsafe(self._leave, loop)
                return
        self._socket.close()

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._socket)
        self._socket.close()

    def hold(self, release: Callable[[], None]) -> bytes:
        """Returns the handle of blocks that `release` gives back, once they were fetched or never.

        Args:
            release: called once, on any thread.
        """
        ticket = secrets.token_bytes(TICKET_BYTES)
        with self._lock:
            self._held[ticket] = release
        CLOCK.call_at(time.monotonic() + self._pace.hold_s, lambda: self._release(ticket))
        host, port = self._socket.getsockname()
        return f"{host}:{port}/{ticket.hex()}".encode()

    def fetch(self, handle: bytes, tokens: int, arrived: Callable[[int], None]) -> None:
        """Fetches the blocks of a prompt.

        Args:
            handle: another engine's.
            tokens: of the prompt, that are to be fetched.
            arrived: called once, on any thread, with the tokens that came; 0: there are none.
        """
        read = _read_handle(handle)
        if read is None:
            arrived(0)
            return
        address, ticket = read

        def answered(held: bool) -> None:
            if held:
                CLOCK.call_at(time.monotonic() + tokens * self._pace.token_s, came)
            else:
                arrived(0)

        def came() -> None:
            self._send(_DONE + ticket, address)
            arrived(tokens)

        with self._lock:
            is_first = self._asked.setdefault(ticket, answered) is answered
        if not is_first:  # a handle is good for one
            arrived(0)
            return
        self._send(_ASK + ticket, address)
        CLOCK.call_at(time.monotonic() + ANSWER_S, lambda: self._answer(ticket, held=False))

    def forgo(self, handle: bytes) -> None:
        """Tells another engine that nobody here fetches its blocks."""
        read = _read_handle(handle)
        if read is not None:
            address, ticket = read
            self._send(_DONE + ticket, address)

    def _send(self, datagram: bytes, address: tuple[str, int]) -> None:
        with suppress(OSError):  # it is as good as lost
            self._socket.sendto(datagram, address)

    def _answer(self, ticket: bytes, *, held: bool) -> None:
        with self._lock:
            answered = self._asked.pop(ticket, None)
        if answered is not None:
            answered(held)

    def _release(self, ticket: bytes) -> None:
        with self._lock:
            release = self._held.pop(ticket, None)
        if release is not None:
            release()

    def _read(self) -> None:
        with suppress(OSError):  # there is nothing more to read
            while True:
                datagram, address = self._socket.recvfrom(1 + TICKET_BYTES)
                kind, ticket = datagram[:1], datagram[1:]
                if kind == _ASK:
                    self._send((_HELD if ticket in self._held else _GONE) + ticket, address)
                elif kind == _DONE:
                    self._release(ticket)
                else:
                    self._answer(ticket, held=kind == _HELD)


def _listening(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        made.bind((host, 0))
        if ipaddress.IPv4Address(made.getsockname()[0]).is_unspecified:
            raise OSError(0, "others can't find this worker there; its own address is required")
    except OSError as error:
        made.close()
        raise EngineError(f"--simulated.transfer-host {host}: {error.strerror}") from error
    return made


def _read_handle(handle: bytes) -> tuple[tuple[str, int], bytes] | None:
    """Returns whom to ask and the ticket; None: it is not a handle, and must not end the engine.

    The host is an address, never a name: all engines would wait for that to be resolved.
    """
    try:
        where, _, text = handle.decode().partition("/")
        host, _, port = where.rpartition(":")
        address, ticket = (str(ipaddress.IPv4Address(host)), int(port)), bytes.fromhex(text)
    except ValueError:
        return None
    return (address, ticket) if 0 < address[1] < 2**16 and len(ticket) == TICKET_BYTES else None
