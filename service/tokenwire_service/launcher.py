"""Starts a service's `main`; imports nothing but the standard library before."""

from __future__ import annotations

import importlib
import os
import sys

from tokenwire_service import signals
from tokenwire_service.telemetry import variables


def launch(module: str) -> None:
    """Runs `main` of the module. A signal that comes while it is imported ends the process."""
    _open_standard_files()
    signals.end_at_once()
    variables.settle()
    importlib.import_module(module).main()


def _open_standard_files() -> None:
    """Opens /dev/null for standard input, output and error where they are closed.

    What is opened next would get their numbers, and log lines would go to it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))
