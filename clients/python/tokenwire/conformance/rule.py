"""A rule of the contract, and how its check ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenwire.conformance.deployment import Deployment


class Broken(Exception):  # noqa: N818 - what is broken is the rule
    """The deployment breaks the rule; the text says what was seen."""


class Skipped(Exception):  # noqa: N818 - likewise
    """The rule can't be checked here; the text says why."""


@dataclass(frozen=True)
class Rule:
    """A rule of docs/contract.md."""

    number: str
    """Its number there, such as `S1`."""
    title: str
    """The rule in a few words."""
    check: Callable[[Deployment], None]
    """Raises Broken or Skipped, or grpc.RpcError where a call fails that should not."""


def unseen(number: str, title: str, why: str) -> Rule:
    """Returns a rule that can't be checked from outside."""

    def check(_: Deployment) -> None:
        raise Skipped(why)

    return Rule(number, title, check)


class Outcome(StrEnum):
    """How a check ended."""

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True)
class Finding:
    """What became of one check."""

    rule: Rule
    outcome: Outcome
    seen: str
    """What was seen, or why it was skipped; empty where it passed."""
    duration_s: float


def expect(holds: bool, seen: str) -> None:
    """Raises Broken with what was seen, unless the condition holds."""
    if not holds:
        raise Broken(seen)
