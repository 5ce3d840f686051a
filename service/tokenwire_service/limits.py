"""Bounds of the contracts that both services keep: one sends no more, the other takes no more."""

from __future__ import annotations

NAME_CHARACTERS = 256
"""Of each name in a worker's description: it stands in answers, logs and metrics."""

TRANSFER_HANDLE_BYTES = 64 * 1024
"""Of what one worker fetches a prompt's KV cache from another by. It names blocks: of a prompt of a
million tokens vLLM's has 10 KiB, packed."""

LORA_ADAPTERS = 4096
"""That one worker describes: a frontend answers with them, and looks through them for requests."""

MESSAGE_COMMANDS = 4096
"""Of each kind that one message of Session or Exchange may carry: each costs up to a third of a
millisecond, and 4 MiB have room for a million."""

GUIDE_BYTES = 64 * 1024
"""Longest schema, regex or grammar, and all options of a choice together, in UTF-8: compile time
grows faster than length."""

GUIDE_DEPTH = 64
"""Deepest nesting of brackets in a guide: grammar compilers recurse, and a stack that overflows
takes the process with it."""

CHOICE_OPTIONS = 256
"""Most options of a choice."""


def utf8_bytes(text: str) -> int:
    """Returns the size of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
