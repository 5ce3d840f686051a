"""The workers that had a part in one generation, and what they told of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tokenwire_frontend.core.events import Mode, Part, Stage
from tokenwire_frontend.workers.receiver import WorkerReport

if TYPE_CHECKING:
    from tokenwire_service.errors import ServiceError

    from tokenwire_frontend.generation.attempt import Attempt

_STAGES = {
    Mode.PREFILL: ("queue", "prefill", ""),
    Mode.FETCHED: ("queue", "fetch", "decode"),
}
"""What a worker's durations are called, where they are not queue, prefill and decode."""


class Parts:
    """Parts in the order in which the workers took them."""

    __slots__ = ("_parts", "_prefill", "last", "report")

    def __init__(self) -> None:
        self.last: Attempt | None = None
        """The last that a worker took."""
        self.report: WorkerReport | None = None
        """What the first worker told that was done with tokens."""
        self._prefill: tuple[Attempt, WorkerReport] | None = None
        """The worker that has computed the prompt for others, and what it told."""
        self._parts: list[tuple[Attempt, Part]] = []

    def began(self, attempt: Attempt) -> None:
        """A worker took it, or a sequence of it."""
        self.last = attempt
        info = attempt.link.info
        name = "" if info is None else info.name
        part = Part(name, attempt.sequence or 0, attempt.token_offset, attempt.mode)
        self._parts.append((attempt, part))

    def left(self, attempt: Attempt, error: ServiceError) -> None:
        """The worker was lost with what it had not ended."""
        for each, part in self._parts:
            if each is attempt:
                part.left_because = error.reason

    def ended(self, attempt: Attempt, report: WorkerReport) -> None:
        """A worker is done with what it had."""
        if attempt.mode is Mode.PREFILL:
            self._prefill = attempt, report
        else:
            self.report = self.report or report

    @property
    def cached_prompt_tokens(self) -> int | None:
        """Tokens of the prompt that the worker which computed it had; None: it did not tell."""
        report = self.report if self._prefill is None else self._prefill[1]
        return None if report is None else report.cached_prompt_tokens

    @property
    def moved(self) -> Sequence[Part]:
        """All of them; none where one worker did all of it."""
        parts = [part for _, part in self._parts]
        whole = len(parts) <= 1 and all(each.mode is Mode.NEW for each in parts)
        return () if whole else parts

    @property
    def worker(self) -> str:
        """Name of the last worker; empty where there was none."""
        info = None if self.last is None else self.last.link.info
        return "" if info is None else info.name

    def stages(self, received_s: float) -> list[Stage]:
        """Places the workers' own durations one after the other, from each submission on."""
        stages: list[Stage] = []
        if self._prefill is not None:
            stages += _stages(*self._prefill, received_s)
        if self.report is not None and self.last is not None:
            stages += _stages(self.last, self.report, received_s)
        return stages


def _stages(attempt: Attempt, report: WorkerReport, received_s: float) -> Iterator[Stage]:
    start = attempt.submitted_s - received_s
    names = _STAGES.get(attempt.mode, ("queue", "prefill", "decode"))
    durations = (report.queue_s, report.prefill_s, report.decode_s)
    for name, duration in zip(names, durations, strict=True):
        if name and duration is not None:
            yield Stage("worker", name, start, duration)
            start += duration
