"""The OpenVINO engine, in a process of its own.

The binding of the pipeline's `step()` keeps the GIL for as long as it computes. In the worker's
process that stopped the event loop for the length of every step: tokens, cancels, health checks and
deadlines all came a step late.
"""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import structlog

from tokenwire_worker.engines import EngineStartError
from tokenwire_worker.engines.guides.checker import GuideChecker
from tokenwire_worker.engines.openvino.guides import guide_checker
from tokenwire_worker.engines.openvino.messages import (
    Cancel,
    Channel,
    Close,
    Died,
    Failed,
    Ready,
    Stepped,
    Submit,
    Tried,
    Try,
)
from tokenwire_worker.engines.port import (
    EngineInfo,
    EngineListener,
    EngineLoad,
    Generation,
    Guide,
)

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

PROCESS = "tokenwire_worker.engines.openvino.process"

CLOSE_S = 20.0
"""Time that the process has to end its last step: below the worker's own LINGER_S."""

log = structlog.get_logger()


class OpenVinoEngine:
    """Runs generations on a ContinuousBatchingPipeline in another process."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Starts the process and waits until it has loaded the model.

        Raises:
            EngineError: OpenVINO refuses the model or a setting.
            ModelError: the model's files lack what is needed.
            EngineStartError: the process ended.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", PROCESS, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._channel = Channel(Connection(ours.detach()))
        self._commands: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._faults: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._gone = ""
        """Why no guide can be tried any more."""
        self._load = EngineLoad(0, 0.0)
        self._progress = 0
        self._threads: list[threading.Thread] = []
        self._closing = False
        ready = self._wait_until_ready(settings)
        self._info = ready.info
        self._guides = self._guide_checker(ready)

    @property
    def info(self) -> EngineInfo:
        """What the engine serves, and its bounds."""
        return self._info

    def start(self, listener: EngineListener) -> None:
        """Starts to listen to the process."""
        self._threads = [
            threading.Thread(target=self._send, name="engine-commands"),
            threading.Thread(target=self._receive, args=(listener,), name="engine"),
        ]
        for thread in self._threads:
            thread.start()

    async def check(self, generation: Generation) -> None:
        """Tries the guide of a generation; raises Refused where it can't be held to."""
        if self._guides is not None and generation.guide is not None:
            await self._guides.check(generation.guide)

    def submit(self, key: int, generation: Generation) -> None:
        """Takes a generation under a number not in use."""
        self._commands.put(Submit(key, generation))

    def cancel(self, key: int, sequence: int | None = None) -> None:
        """Stops a generation, or one sequence of it."""
        self._commands.put(Cancel(key, sequence))

    def load(self) -> EngineLoad:
        """Tells how busy the engine is, from what it last saw."""
        return self._load

    def progress(self) -> int:
        """Returns how many steps the process has told of; it tells of each."""
        return self._progress

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process; what is still held ends as cancelled."""
        self._closing = True
        self._give_up_trials("the worker is being stopped")
        if self._guides is not None:
            self._guides.close()
        if self._threads:
            self._commands.put(Close())
        else:
            self._channel.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    # --- the process -----------------------------------------------------------------------------

    def _wait_until_ready(self, settings: WorkerSettings) -> Ready:
        with suppress(OSError):  # it ended at once; `receive` sees that too
            self._channel.send(settings)
        answer = self._channel.receive()
        if isinstance(answer, Ready):
            return answer
        self._channel.close()
        if isinstance(answer, Failed):
            self._process.wait()
            raise answer.error
        raise EngineStartError(f"the engine's process {self._how_it_ended()}")

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def _send(self) -> None:
        """Sends commands: the process takes them between steps, and nobody else shall wait."""
        with suppress(OSError):  # the process is gone, as `_receive` says
            command: object = None
            while not isinstance(command, Close):
                command = self._commands.get()
                self._channel.send(command)

    def _receive(self, listener: EngineListener) -> None:
        while True:
            message = self._channel.receive()
            if isinstance(message, Stepped):
                self._load = message.load
                self._progress += 1
                listener.on_step(message.step)
            elif isinstance(message, Tried):
                self._faults.put(message.fault)
            else:
                break
        # A command that waits to be sent would wait for ever.
        self._commands.put(Close())
        self._give_up_trials("the engine is gone")
        if isinstance(message, Died):
            listener.on_death(message.reason)
        elif not self._closing:
            listener.on_death(f"its process {self._how_it_ended()}")

    # --- guides ----------------------------------------------------------------------------------

    def _guide_checker(self, ready: Ready) -> GuideChecker | None:
        if ready.tokenizer is None:
            log.warning("no_guided_decoding", reason=ready.unguided)
            return None
        info = ready.info
        return guide_checker(
            ready.tokenizer, info.vocabulary_size, info.eos_token_ids[0], self._fault_there
        )

    def _fault_there(self, guide: Guide) -> str | None:
        """Tries a form where the pipeline is, so that it is cached when the first step needs it.

        The checker tries one form at a time, so the next answer is to this one.
        """
        self._commands.put(Try(guide))
        return self._gone or self._faults.get()

    def _give_up_trials(self, reason: str) -> None:
        self._gone = reason
        self._faults.put(reason)
