"""In which transfer groups it pays to compute prompts at one worker for another."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import TypeAlias

import structlog

from tokenwire_frontend.core.pairing import Handed, Pairing
from tokenwire_frontend.workers.link import WorkerLink
from tokenwire_frontend.workers.receiver import WorkerReport

log = structlog.get_logger()

Group: TypeAlias = tuple[str, str]
"""A model's name, and the transfer group of workers that serve it."""


def group_of(link: WorkerLink) -> Group | None:
    """Returns the group of a worker; None: it has not described itself."""
    return None if link.info is None else (link.info.model, link.info.transfer_group)


def computing_s(report: WorkerReport, prompt_tokens: int) -> float | None:
    """Returns how long a worker would have taken that had nothing of a prompt in its cache.

    None where it does not tell, or has computed too little of it to say so.
    """
    cached, took_s = report.cached_prompt_tokens, report.prefill_s
    if cached is None or took_s is None or cached * 2 > prompt_tokens:
        return None
    return took_s * prompt_tokens / (prompt_tokens - cached)


class Pairings:
    """What is known of each group that prompts were handed over in.

    Args:
        factor: see `Pairing`; 0: it pays always.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._pairings: dict[Group, Pairing] = {}

    def __iter__(self) -> Iterator[tuple[Group, bool]]:
        """Yields each group, and whether every long prompt is paired there. From any thread."""
        for group, pairing in list(self._pairings.items()):
            yield group, pairing.pays

    def allows(self, link: WorkerLink) -> bool:
        """Returns whether a worker may be sent a prompt to compute for another."""
        pairing = self._of(link)
        return pairing is None or pairing.allows(time.monotonic())

    def sent(self, link: WorkerLink) -> None:
        """Notes that a worker is sent one."""
        pairing = self._of(link)
        if pairing is not None:
            pairing.sent(time.monotonic())

    def note(
        self, link: WorkerLink, sent_s: float, computing_s: float | None, report: WorkerReport
    ) -> None:
        """Notes how long a prompt took that a worker has fetched.

        Args:
            link: that worker.
            sent_s: time.monotonic() when the first worker was sent it.
            computing_s: how long the first worker took; None: not known.
            report: the second's.
        """
        group = group_of(link)
        if not self._factor or group is None or computing_s is None or report.prefill_s is None:
            return
        # A prompt that the second worker computes waits for the end of a step there as well.
        alone_s = computing_s + (link.load.step_s or 0.0)
        pairing = self._pairings.setdefault(group, Pairing(self._factor))
        ratio = pairing.note(Handed(sent_s, alone_s, report.prefill_s), time.monotonic())
        if ratio is not None:
            level = log.info if pairing.pays else log.warning
            level(
                "pairing",
                model=group[0],
                transfer_group=group[1],
                pays=pairing.pays,
                fetch_factor=round(ratio, 2),
                limit=self._factor,
            )

    def keep(self, groups: Collection[Group | None]) -> None:
        """Forgets all other groups."""
        for group in self._pairings.keys() - set(groups):
            del self._pairings[group]

    def _of(self, link: WorkerLink) -> Pairing | None:
        group = group_of(link)
        return None if group is None else self._pairings.get(group)
