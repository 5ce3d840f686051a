"""The workers that had a part in one generation, and what they told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenwire_frontend.core.events import Mode, Part, Stage
from tokenwire_frontend.workers.receiver import WorkerReport

if TYPE_CHECKING:
    from tokenwire_service.errors import ServiceError

    from tokenwire_frontend.generation.attempt import Attempt


class Parts:
    """Parts in the order in which the workers took them."""

    __slots__ = ("_parts", "last", "report")

    def __init__(self) -> None:
        self.last: Attempt | None = None
        """The last that a worker took."""
        self.report: WorkerReport | None = None
        """What the first worker told that was done with what it had."""
        self._parts: list[Part] = []

    def began(self, attempt: Attempt) -> None:
        """A worker took it, or a sequence of it."""
        self.last = attempt
        info = attempt.link.info
        name = "" if info is None else info.name
        self._parts.append(Part(name, attempt.sequence or 0, attempt.token_offset, attempt.mode))

    def left(self, attempt: Attempt, error: ServiceError) -> None:
        """The worker was lost with what it had not ended."""
        for part in self._parts:
            if part.left_because == "" and attempt.has(part.sequence):
                part.left_because = error.reason

    def ended(self, report: WorkerReport) -> None:
        """A worker is done with what it had."""
        self.report = self.report or report

    @property
    def moved(self) -> Sequence[Part]:
        """All of them; none where one worker did all of it."""
        whole = len(self._parts) <= 1 and all(each.mode is Mode.NEW for each in self._parts)
        return () if whole else self._parts

    @property
    def worker(self) -> str:
        """Name of the last worker; empty where there was none."""
        info = None if self.last is None else self.last.link.info
        return "" if info is None else info.name

    def stages(self, received_s: float) -> list[Stage]:
        """Places the worker's own durations one after the other from the submission on."""
        stages: list[Stage] = []
        report = self.report
        if report is None or self.last is None:
            return stages
        start = self.last.submitted_s - received_s
        durations = (report.queue_s, report.prefill_s, report.decode_s)
        for name, duration in zip(("queue", "prefill", "decode"), durations, strict=True):
            if duration is not None:
                stages.append(Stage("worker", name, start, duration))
                start += duration
        return stages
