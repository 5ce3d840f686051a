"""Bounds of the contracts that both services keep: one sends no more, the other takes no more."""

from __future__ import annotations

NAME_CHARACTERS = 256
"""Of each name in a worker's description: it stands in answers, logs and metrics."""

LORA_ADAPTERS = 4096
"""That one worker describes: a frontend answers with them, and looks through them for requests."""
