"""A bad value of a field and how it is refused, and values that no field takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.protobuf import duration_pb2

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND

ANY_VALUE_IS_VALID: list[Bad] = []

VOCABULARY = 4096
CONTEXT = 4096
"""Of the demo model; `test_the_model_is_what_the_cases_take_it_for` checks both."""

BEYOND = 2**32 - 1


@dataclass(frozen=True)
class Bad:
    """Fields of a request, at least one of them bad, and how that is told."""

    values: dict[str, Any]
    field: str | None
    """Path that BadRequest names; None: it names none."""
    code: grpc.StatusCode = INVALID_ARGUMENT
    reason: str = "INVALID_FIELD"
    says: tuple[str, ...] = ()
    """Parts of the message."""

    def under(self, prefix: str, wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> Bad:
        """Returns the same within a larger message."""
        field = self.field if self.field is None else f"{prefix}{self.field}"
        return replace(self, values=wrap(self.values), field=field)


Cases = dict[str, list[Bad]]


def under(cases: Cases, prefix: str, wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> Cases:
    """Returns the cases of a message as those of a field of a larger one."""
    return {
        f"{prefix}{path}": [bad.under(prefix, wrap) for bad in bads] for path, bads in cases.items()
    }


def each_of(field: str, *values: Any) -> list[Bad]:
    """Returns a case for each value of one field, which may lie in messages of its own."""
    cases = []
    for value in values:
        whole = value
        for name in reversed(field.split(".")):
            whole = {name: whole}
        cases.append(Bad(whole, field))
    return cases


UNKNOWN_MODEL = Bad({"model": "nope"}, None, NOT_FOUND, "UNKNOWN_MODEL", ("nope", "demo"))

NOT_DURATIONS = [
    duration_pb2.Duration(nanos=2_000_000_000),
    duration_pb2.Duration(seconds=1, nanos=-5),
    duration_pb2.Duration(seconds=2**62),
]

OUT_OF_RANGE = [math.nan, math.inf, -math.inf]

SAMPLING: Cases = {
    "sampling": ANY_VALUE_IS_VALID,
    "sampling.temperature": each_of("sampling.temperature", -0.01, 100.5, *OUT_OF_RANGE),
    "sampling.top_p": each_of("sampling.top_p", 0.0, -1.0, 1.01, *OUT_OF_RANGE),
    "sampling.top_k": ANY_VALUE_IS_VALID,
    "sampling.min_p": each_of("sampling.min_p", -0.01, 1.01, *OUT_OF_RANGE),
    "sampling.repetition_penalty": each_of("sampling.repetition_penalty", 0.0, -1.0, *OUT_OF_RANGE),
    "sampling.presence_penalty": each_of("sampling.presence_penalty", -2.01, 2.01, *OUT_OF_RANGE),
    "sampling.frequency_penalty": each_of("sampling.frequency_penalty", -2.01, 2.01, *OUT_OF_RANGE),
    "sampling.seed": ANY_VALUE_IS_VALID,
}
"""Both contracts have it."""
