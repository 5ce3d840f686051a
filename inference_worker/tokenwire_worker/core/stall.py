"""Tells an engine that hangs from one that is slow, and from one that has nothing to do."""

from __future__ import annotations


class StallClock:
    """Counts the time in which an engine had work and gave no sign of progress.

    The count goes on over times without work: callers who give up one after the other would
    otherwise hide an engine that answers nobody.
    """

    def __init__(self, stall_s: float, look_s: float) -> None:
        """Starts at zero.

        Args:
            stall_s: time without progress after which the engine is stalled.
            look_s: time between two looks. Of a longer one, such as after the whole machine was
                suspended, twice this is counted: the engine may have been as late as its watcher.
        """
        self._stall_s = stall_s
        self._most_s = 2 * look_s
        self._silent_s = 0.0
        self._progress = 0
        self._busy = False
        self._looked_s: float | None = None

    def look(self, progress: int, *, busy: bool, now_s: float) -> bool:
        """Returns whether the engine is stalled.

        Args:
            progress: the engine's count of signs of progress.
            busy: whether it has work.
            now_s: time.monotonic's time.
        """
        if progress != self._progress:
            self._silent_s = 0.0
        elif self._busy and busy and self._looked_s is not None:
            self._silent_s += min(now_s - self._looked_s, self._most_s)
        self._progress, self._busy, self._looked_s = progress, busy, now_s
        return self._silent_s >= self._stall_s
