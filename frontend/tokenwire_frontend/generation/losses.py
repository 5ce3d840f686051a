"""What the error of a worker says of the worker, and what of the request."""

from __future__ import annotations

from tokenwire_service.errors import Code, ServiceError

LOST = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.ABORTED})
"""Of a generation that was running: the worker's failure, not the request's."""

DEATHS = frozenset({"WORKER_LOST", "ENGINE_DIED"})
"""Reasons with which a worker has died, as far as can be told."""

OUTPUT_NOT_CARRIED = "OUTPUT_NOT_CARRIED"
"""Reason with which a worker refuses to go on after ids that exist."""


def is_unable(refusal: ServiceError) -> bool:
    """Tells whether a worker can't go on after ids that exist."""
    return refusal.reason == OUTPUT_NOT_CARRIED


def has_unloaded(refusal: ServiceError) -> bool:
    """Tells whether a worker has unloaded the request's LoRA adapter since it last told of it."""
    return [each.field for each in refusal.violations] == ["lora_adapter"]
