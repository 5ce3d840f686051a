"""Finds out that the engine is dead when it does not say so.

In 1.2 an engine can be dead while its own health check says that all is well: a worker process was
killed, or TensorRT-LLM's shutdown blocks the thread that found an error. So the watch is kept from
a thread of its own, and besides asking it looks whether the engine's event loop still turns.
Whether anything comes of an engine is watched for all engines alike, by the dispatcher.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOK_S = 1.0
"""Between two looks."""

LOOP_STUCK_S = 30.0
"""Time that the engine's event loop may take for one turn; a turn takes milliseconds, and only
TensorRT-LLM's own shutdown has been known to block it for longer."""


class Watchdog:
    """Watches until the engine is dead or it is stopped."""

    def __init__(
        self,
        is_healthy: Callable[[], bool],
        on_death: Callable[[str], None],
    ) -> None:
        """Does not start yet.

        Args:
            is_healthy: TensorRT-LLM's own opinion; must not block.
            on_death: told the reason, once, on the watchdog's thread.
        """
        self._is_healthy = is_healthy
        self._on_death = on_death
        self._stopped = threading.Event()
        self._turn_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine-watchdog", daemon=True)

    def start(self) -> None:
        """Starts to watch."""
        self.note_turn()
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()

    def note_turn(self) -> None:
        """Notes that the engine's event loop turns."""
        self._turn_s = time.monotonic()

    def look(self, now_s: float) -> str | None:
        """Returns why the engine is dead, or None.

        Args:
            now_s: time.monotonic's time.
        """
        if not self._is_healthy():
            return "TensorRT-LLM's executor has shut down"
        if now_s - self._turn_s > LOOP_STUCK_S:
            return f"TensorRT-LLM has blocked its caller for {LOOP_STUCK_S:g} s"
        return None

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_S):
            reason = self.look(time.monotonic())
            if reason is not None:
                self._on_death(reason)
                return
