"""Answers a shell that completes a service's command line; imports only what that takes.

`tokenwire completion` prints the script that asks.
"""

from __future__ import annotations

import importlib
import os
import re

ASKED = "_ARGCOMPLETE"
"""A variable that the shell's script sets."""

_CHOICES = re.compile(r"\{([^{}]+)\}")


def answer(program: str, settings: str) -> None:
    """Answers where a shell asks, and ends the process; returns otherwise.

    Args:
        program: name of the command.
        settings: where the model of its settings is, MODULE:NAME.
    """
    if ASKED not in os.environ:
        return
    try:
        import argcomplete  # noqa: PLC0415 - only for this
        from argcomplete.completers import ChoicesCompleter  # noqa: PLC0415 - likewise
    except ImportError:
        return
    from tokenwire_service.settings import parser  # noqa: PLC0415

    module, _, name = settings.partition(":")
    made, _ = parser(getattr(importlib.import_module(module), name), program)
    for action in made._actions:  # noqa: SLF001 - argparse has no other way to change them
        found = _CHOICES.fullmatch(str(action.metavar or ""))
        if found:
            completer = ChoicesCompleter(dict.fromkeys(found[1].split(","), ""))
            action.completer = completer  # type: ignore[attr-defined]
    argcomplete.autocomplete(made)
