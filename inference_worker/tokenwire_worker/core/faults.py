"""What is wrong with a request, in the words of all that judge a part of one."""

from __future__ import annotations

from tokenwire_worker.engines.port import Ability, EngineInfo

Fault = tuple[str, str]
"""Path within the request, and what is wrong."""

TOLD_FAULTS = 8
"""Most elements of one list that are named as being at fault."""


def unable(ability: Ability, info: EngineInfo) -> Fault:
    """Returns the fault of asking for what the engine can't do."""
    return ability.value, f"{engine_of(info)}, does not support it"


def engine_of(info: EngineInfo) -> str:
    """Returns what the engine is called in a description."""
    return f"the engine of this worker, {info.engine}"
