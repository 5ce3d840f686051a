"""Log lines about what a worker must not send."""

from __future__ import annotations

import time

import structlog

log = structlog.get_logger()

INTERVAL_S = 1.0
"""Between two lines: a worker that sends one bad frame may send thousands a second."""


class Complaints:
    """Writes of one worker at most one line in each interval, with the number of those left out."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._left_out = 0
        self._next_s = 0.0

    def __call__(self, fault: str, **concerning: object) -> None:
        """Writes what is wrong, or counts it."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._left_out += 1
            return
        log.warning(
            "worker_protocol",
            address=self._worker,
            fault=fault,
            **concerning,
            left_out=self._left_out,
        )
        self._left_out = 0
        self._next_s = now_s + INTERVAL_S
