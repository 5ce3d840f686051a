"""Stop strings over a stream of text, holding back only what may still become one."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the stop string that is completed first, whatever the split of the text.

    Of stop strings completed by the same character, the longest counts.

    Args:
        stops: the stop strings, at least one, none empty.
        include: whether a found stop string stays in the text.
    """

    __slots__ = ("_held", "_include", "_longest", "_stops", "matched")

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        # The longest first, so that it wins among those completed together.
        self._stops = sorted(set(stops), key=len, reverse=True)
        self._longest = len(self._stops[0])
        self._include = include
        self._held = ""
        self.matched: str | None = None
        """The stop string found, once one is; then the stream is over."""

    def push(self, text: str) -> str:
        """Takes the next text and returns what can be given out."""
        buffer = self._held + text
        end = -1
        for stop in self._stops:
            start = buffer.find(stop)
            if start >= 0 and (end < 0 or start + len(stop) < end):
                end = start + len(stop)
                self.matched = stop
        if self.matched is not None:
            self._held = ""
            return buffer[: end if self._include else end - len(self.matched)]
        held = self._undecided(buffer)
        self._held = buffer[len(buffer) - held :]
        return buffer[: len(buffer) - held]

    def finish(self) -> str:
        """Returns the text still held back; the sequence has ended without a stop string."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, buffer: str) -> int:
        """Returns the length of the longest tail that begins some stop string."""
        for size in range(min(self._longest - 1, len(buffer)), 0, -1):
            tail = buffer[-size:]
            if any(stop.startswith(tail) for stop in self._stops):
                return size
        return 0
