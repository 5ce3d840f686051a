"""How many lines of refusals a log gets: in an overload there are thousands a second, all alike.

Up to LINES_EACH_S for each reason are written; the next one that is tells how many were not. The
metrics count every one.
"""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from typing import Any

import structlog

LINES_EACH_S = 50
"""Enough to see who is refused and why; a line costs as much as the rest of a refusal."""

REASONS = 64
"""Most reasons that are told apart."""


class RefusalLines:
    """A processor of structlog's, the first: what it drops costs nothing more."""

    def __init__(self) -> None:
        self._seen: dict[str, _Second] = {}

    def __call__(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Returns the line; raises DropEvent where there are enough like it."""
        if event["event"] != "rpc_refused" and event.get("outcome") != "refused":
            return event
        reason = str(event.get("reason"))
        second = self._seen.get(reason)
        if second is None:
            if len(self._seen) == REASONS:
                return event
            second = self._seen[reason] = _Second()
        omitted = second.count()
        if omitted is None:
            raise structlog.DropEvent
        if omitted:
            event["omitted"] = omitted
        return event


class _Second:
    """What there was of one reason since its second began."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._lines = self._omitted = 0

    def count(self) -> int | None:
        """Counts a line; returns how many before it were omitted, or None: it is one of them."""
        now_s = time.monotonic()
        if now_s >= self._until_s:
            self._until_s, self._lines = now_s + 1.0, 0
        self._lines += 1
        if self._lines > LINES_EACH_S:
            self._omitted += 1
            return None
        omitted, self._omitted = self._omitted, 0
        return omitted
