"""How long texts may be in what spans, events and metrics are told: callers' words are in some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from tokenwire_service.telemetry import semconv
from tokenwire_service.wording import cut

TEXT_BYTES = 1024

CONTENT_BYTES = 64 * 1024
"""Of an attribute that has a prompt or an output, where those are asked for."""

_CONTENT = frozenset({semconv.GEN_AI_INPUT_MESSAGES, semconv.GEN_AI_OUTPUT_MESSAGES})

_ValueT = TypeVar("_ValueT")


def bounded(attributes: Mapping[str, _ValueT]) -> dict[str, _ValueT]:
    """Returns the attributes with their texts cut."""
    return {name: _cut(name, value) for name, value in attributes.items()}


def _cut(name: str, value: _ValueT) -> _ValueT:
    if not isinstance(value, str):
        return value
    return cut(value, CONTENT_BYTES if name in _CONTENT else TEXT_BYTES)  # type: ignore[return-value]
