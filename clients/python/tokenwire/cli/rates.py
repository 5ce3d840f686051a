"""How fast a frontend works, from what its counters gained between two snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from tokenwire.types import Activity


@dataclass(frozen=True)
class Rates:
    """Per second; None until two snapshots of one run of the frontend are there."""

    requests: float | None = None
    """Generations that ended, however they did."""
    prompt_tokens: float | None = None
    """Prompt tokens of accepted generations."""
    completion_tokens: float | None = None
    """Tokens generated."""


def between(before: Activity | None, now: Activity) -> Rates:
    """Returns the rates from one snapshot to a later one."""
    # By the frontend's own clock: a late message is no change of speed.
    elapsed_s = now.uptime_s - before.uptime_s if before is not None else 0.0
    if before is None or elapsed_s <= 0:  # not above 0: the frontend has started anew
        return Rates()
    ended = sum(now.outcomes.values()) - sum(before.outcomes.values())
    return Rates(
        requests=ended / elapsed_s,
        prompt_tokens=(now.prompt_tokens - before.prompt_tokens) / elapsed_s,
        completion_tokens=(now.completion_tokens - before.completion_tokens) / elapsed_s,
    )
