"""Writes log lines on a thread of its own, so that nobody waits for whoever reads them.

A pipe that is not read, or a disk that is slow, would otherwise stop the event loop with its next
line. Lines wait in a queue; once that is full they are dropped and counted, and a line tells the
count when there is room again.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

QUEUE_BYTES = 4 * 1024 * 1024
"""Lines that wait: some 10,000 requests' worth."""

LINE_OVERHEAD_BYTES = 128
"""What a line takes in memory beside its text."""

BATCH_BYTES = 64 * 1024
"""Most that is written at a time by default: what a pipe holds."""

GATHER_S = 0.025
"""Lines of this time are written together: waking for each would cost more than the line."""

FLUSH_S = 1.0
"""Time that a process which ends gives to lines that still wait."""


class LineWriter:
    """Writes lines to a file descriptor, in order, each whole.

    Args:
        descriptor: where to, such as that of standard error.
        on_dropped: told on the writer's thread, once there is room again, how many lines were
            dropped; it may write a line.
        batch_bytes: most that is written at a time, unless a line by itself is longer.
    """

    def __init__(
        self, descriptor: int, on_dropped: Callable[[int], None], batch_bytes: int = BATCH_BYTES
    ) -> None:
        self._descriptor = descriptor
        self._on_dropped = on_dropped
        self._batch_bytes = batch_bytes
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._busy = False
        self._changed = threading.Condition()
        # A daemon, since a process must be able to end though nobody reads what it writes.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Takes a line, without its end; from any thread, and never waits."""
        raw = line.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            size = len(raw) + LINE_OVERHEAD_BYTES
            if self._waiting_bytes + size > QUEUE_BYTES:
                self._dropped += 1
                return
            self._lines.append(raw)
            self._waiting_bytes += size
            if not self._busy:
                self._changed.notify_all()

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Waits until every line is written, or for so long."""
        if threading.current_thread() is self._thread:
            return
        with self._changed:
            self._changed.wait_for(lambda: not (self._lines or self._busy), timeout_s)

    def _run(self) -> None:
        while True:
            self._wait()
            batch, dropped = self._next()
            if not self._put(batch):
                with self._changed:
                    self._dropped += dropped + batch.count(b"\n")
            elif dropped:
                self._on_dropped(dropped)

    def _wait(self) -> None:
        """Waits until there are lines, and a moment for more."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._lines)
            self._busy = True
        time.sleep(GATHER_S)

    def _next(self) -> tuple[bytes, int]:
        """Returns the next lines, and how many were dropped till now."""
        with self._changed:
            batch = bytearray()
            while self._lines and (
                not batch or len(batch) + len(self._lines[0]) <= self._batch_bytes
            ):
                line = self._lines.popleft()
                self._waiting_bytes -= len(line) + LINE_OVERHEAD_BYTES
                batch += line
            dropped, self._dropped = self._dropped, 0
            return bytes(batch), dropped

    def _put(self, batch: bytes) -> bool:
        """Returns whether all of it was written."""
        left = memoryview(batch)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                # Somebody who shares the terminal has made it so.
                select.select([], [self._descriptor], [], 1.0)
            except OSError:
                # Nobody is there any more, or the disk is full: the next lines may do better.
                time.sleep(0.1)
                return False
        return True
