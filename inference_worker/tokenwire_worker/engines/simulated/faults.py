"""Faults on command: what an engine meets, and when.

[WORKER/]KIND@WHEN[:FACTOR]

KIND    stall     the engine makes no progress any more
        die       the engine is gone
        refuse    the engine fails the generation
        garbage   the engine brings an id that the vocabulary does not have
        slow      each further step takes FACTOR times as long
WHEN    N         when the engine takes up its N-th generation, counted from 1
        N+K       when K tokens of that have come, of its first sequence
        stepN     before the N-th step; not of refuse and garbage, which meet a generation
WORKER  which of several workers of one process, counted from 1; default: each of them

A fault happens once, in each worker that has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Self

_FORM = re.compile(
    r"(?:(?P<worker>[1-9]\d{0,3})/)?(?P<kind>[a-z]+)@"
    r"(?:step(?P<step>[1-9]\d{0,9})|(?P<generation>[1-9]\d{0,9})(?:\+(?P<tokens>\d{1,9}))?)"
    r"(?::(?P<factor>\d{1,6}(?:\.\d{1,6})?))?"
)

FORM = "[WORKER/]KIND@WHEN[:FACTOR], such as die@100, stall@20+8, slow@step500:10"


class FaultKind(Enum):
    """What an engine meets."""

    STALL = "stall"
    DIE = "die"
    REFUSE = "refuse"
    GARBAGE = "garbage"
    SLOW = "slow"


OF_A_GENERATION = frozenset({FaultKind.REFUSE, FaultKind.GARBAGE})


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, to happen once."""

    text: str
    """As it was given."""
    kind: FaultKind
    generation: int = 0
    """Number of the generation that it comes with; 0: it comes with a step."""
    tokens: int = 0
    """Tokens of that generation which have come by then."""
    step: int = 0
    """Number of the step that it comes before; 0: it comes with a generation."""
    factor: float = 1.0
    """With SLOW."""
    worker: int = 0
    """Number of the worker; 0: each."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the fault of a text; raises ValueError where it is not of the form."""
        found = _FORM.fullmatch(text)
        kinds = [each.value for each in FaultKind]
        if found is None or found["kind"] not in kinds:
            raise ValueError(f"{text!r} is not {FORM}; KIND is one of {', '.join(kinds)}")
        kind = FaultKind(found["kind"])
        if kind in OF_A_GENERATION and found["step"]:
            raise ValueError(f"{text!r}: {kind.value} comes with a generation, not with a step")
        if (kind is FaultKind.SLOW) != (found["factor"] is not None):
            raise ValueError(f"{text!r}: a factor goes with slow, and with no other")
        return cls(
            text,
            kind,
            int(found["generation"] or 0),
            int(found["tokens"] or 0),
            int(found["step"] or 0),
            float(found["factor"] or 1),
            int(found["worker"] or 0),
        )
