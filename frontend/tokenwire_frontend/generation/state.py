"""How far a generation has come."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """A generation's states, in their order."""

    STARTING = "starting"
    """Admitted; being read, tokenised, and offered to workers."""
    RUNNING = "running"
    """A worker has taken it."""
    DONE = "done"
    """Nothing more will come; what came may still wait to be taken."""
