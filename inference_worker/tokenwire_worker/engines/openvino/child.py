"""One process of the engine, seen from the worker."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tokenwire_service.signals import held_back

from tokenwire_worker.engines import EngineStartError
from tokenwire_worker.engines.openvino.messages import (
    Arrived,
    Channel,
    Close,
    Drain,
    Failed,
    Ready,
    packed,
)
from tokenwire_worker.engines.port import EngineLoad

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

PROCESS = "tokenwire_worker.engines.openvino.process"

CLOSE_S = 20.0
"""Time that the process has to end its last step: below the worker's own LINGER_S."""


READ_BYTES = 64 * 1024
"""Read at once: some hundred steps, which take a loop that is behind a few milliseconds."""


class Child:
    """A process that loads the model and runs generations, until it is told to end."""

    def __init__(self) -> None:
        """Starts the process; `load_model` has it load the model."""
        self._socket, theirs = socket.socketpair()
        with theirs, held_back():
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", PROCESS, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._loop: AbstractEventLoop | None = None
        """Where it is heard, from `start` on."""
        self._is_open = False
        """The loop reads from it and writes to it."""
        self._arrived = Arrived()
        self._commands: deque[object] = deque()
        """Those that were not packed yet."""
        self._unsent = bytearray()
        self._over = threading.Event()
        """Set when all has been told that there was to tell."""
        self.load = EngineLoad(0, 0.0)
        """How busy it was after its last step."""
        self.forms: dict[bytes, int] = {}
        """Bytes that its compiler keeps for each form that it was given."""
        self.form_bytes = 0
        """All of them together."""
        self.told_to_end = False
        """It was told to end: that it does is no loss."""

    def hold(self, form: bytes, held_bytes: int) -> None:
        """Notes that it is given a form."""
        if form not in self.forms:
            self.forms[form] = held_bytes
            self.form_bytes += held_bytes

    def load_model(self, settings: WorkerSettings) -> Ready:
        """Has the process load the model; returns when it has.

        Raises:
            EngineError: OpenVINO refuses the model or a setting.
            ModelError: the model's files lack what is needed.
            EngineStartError: the process ended, as after `kill`.
        """
        channel = Channel(self._socket)
        with suppress(OSError):  # it ended at once; `receive` sees that too
            channel.send(settings)
        answer = channel.receive()
        if isinstance(answer, Ready):
            return answer
        self._socket.close()
        if isinstance(answer, Failed):
            self._process.wait()
            raise answer.error
        raise EngineStartError(f"the engine's process {self.how_it_ended()}")

    def start(
        self,
        loop: AbstractEventLoop,
        on_message: Callable[[Child, object], None],
        on_end: Callable[[Child], None],
    ) -> None:
        """Starts to send and to listen; from any thread.

        Args:
            loop: where that is done; it waits for nothing.
            on_message: told there what the process says.
            on_end: told, after all that it said, that it has ended; on a thread of its own.
        """
        self._on_message, self._on_end = on_message, on_end
        self._loop = loop
        loop.call_soon_threadsafe(self._open)

    def tell(self, command: object) -> None:
        """Sends a command, which the process takes between steps; does not block."""
        self.told_to_end = self.told_to_end or isinstance(command, (Close, Drain))
        self._commands.append(command)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._send)

    def kill(self) -> None:
        """Ends the process at once; from any thread."""
        self._process.kill()

    def how_it_ended(self) -> str:
        """Returns how the process ended, once it has."""
        code = self._process.wait()
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def ended_well(self) -> bool:
        """Tells whether the process ended of itself, once it has ended."""
        return self._process.wait() == 0

    def wait(self) -> None:
        """Returns once the process has ended."""
        self._process.wait()

    def release(self) -> None:
        """Closes the channel of a process that has ended."""
        self._socket.close()

    def close(self) -> None:
        """Ends the process; what is still held ends as cancelled."""
        self.tell(Close())
        if self._loop is None:
            self._socket.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._loop is not None:
            self._over.wait(CLOSE_S)
        self._socket.close()

    # --- on the loop -----------------------------------------------------------------------------

    def _open(self) -> None:
        if self._loop is None:
            raise AssertionError("it is started before. This is a bug.")
        self._socket.settimeout(0)
        self._is_open = True
        self._loop.add_reader(self._socket, self._read)
        self._send()

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # it was killed with commands unread
            data = b""
        if not data:
            self._shut()
            return
        for message in self._arrived.messages(data):
            self._on_message(self, message)

    def _send(self) -> None:
        """Sends what the socket has room for; the rest when it has more."""
        if not self._is_open or self._loop is None:
            return
        while self._commands:
            self._unsent += packed(self._commands.popleft())
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # the process is gone, as `_read` will hear
            self._unsent.clear()
        if self._unsent:
            self._loop.add_writer(self._socket, self._send)
        else:
            self._loop.remove_writer(self._socket)

    def _shut(self) -> None:
        """The process has said everything."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._is_open = False
        # It may take a moment to end, for which the loop does not wait.
        threading.Thread(target=self._end, name="engine-end", daemon=True).start()

    def _end(self) -> None:
        try:
            self._on_end(self)
        finally:
            self._over.set()
