"""Which phases of generations a worker is for."""

from __future__ import annotations

from enum import Enum


class Phases(Enum):
    """What its operator wants a worker to be sent; each can run a generation to its end."""

    ANY = "any"
    """Generations, whole."""
    PREFILL = "prefill"
    """Long prompts, for other workers to go on with."""
    DECODE = "decode"
    """What comes after such prompts, and generations with short ones."""
