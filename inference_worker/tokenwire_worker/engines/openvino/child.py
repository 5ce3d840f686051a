"""One process of the engine, seen from the worker."""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from tokenwire_service.signals import held_back

from tokenwire_worker.engines import EngineStartError
from tokenwire_worker.engines.openvino.messages import Channel, Close, Drain, Failed, Ready
from tokenwire_worker.engines.port import EngineLoad

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

PROCESS = "tokenwire_worker.engines.openvino.process"

CLOSE_S = 20.0
"""Time that the process has to end its last step: below the worker's own LINGER_S."""


class Child:
    """A process that loads the model and runs generations, until it is told to end."""

    def __init__(self) -> None:
        """Starts the process; `load` has it load the model."""
        ours, theirs = socket.socketpair()
        with theirs, held_back():
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", PROCESS, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._channel = Channel(Connection(ours.detach()))
        self._commands: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
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
        with suppress(OSError):  # it ended at once; `receive` sees that too
            self._channel.send(settings)
        answer = self._channel.receive()
        if isinstance(answer, Ready):
            return answer
        self._channel.close()
        if isinstance(answer, Failed):
            self._process.wait()
            raise answer.error
        raise EngineStartError(f"the engine's process {self.how_it_ended()}")

    def start(
        self, on_message: Callable[[Child, object], None], on_end: Callable[[Child], None]
    ) -> None:
        """Starts to send and to listen.

        Args:
            on_message: told what the process says, on a thread of this object's.
            on_end: told, after all that it said, that it has ended.
        """

        def receive() -> None:
            while (message := self._channel.receive()) is not None:
                on_message(self, message)
            # A command that waits to be sent would wait for ever.
            self._commands.put(None)
            on_end(self)

        self._threads = [
            threading.Thread(target=self._send, name="engine-commands"),
            threading.Thread(target=receive, name="engine"),
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, command: object) -> None:
        """Sends a command; does not block."""
        self.told_to_end = self.told_to_end or isinstance(command, (Close, Drain))
        self._commands.put(command)

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
        self._channel.close()

    def close(self) -> None:
        """Ends the process; what is still held ends as cancelled."""
        self.tell(Close())
        if not self._threads:
            self._channel.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def _send(self) -> None:
        """Sends commands: the process takes them between steps, and nobody else shall wait."""
        with suppress(OSError):  # the process is gone, as the other thread says
            while (command := self._commands.get()) is not None:
                self._channel.send(command)
                if isinstance(command, Close):
                    break
