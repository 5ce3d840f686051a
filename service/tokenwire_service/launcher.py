"""Starts a service's `main`, or says what to install; imports nothing but the standard library.

The client's package brings the commands of both services, and not what they need.
"""

from __future__ import annotations

import importlib
import os
import sys

from tokenwire_service import signals
from tokenwire_service.telemetry import variables

EX_USAGE = 64
OWN = ("tokenwire", "tokenwire_service", "tokenwire_frontend", "tokenwire_worker")


def launch(program: str, module: str, extra: str) -> None:
    """Runs `main` of the module; exits with code 64 where a required package is missing."""
    _open_standard_files()
    signals.end_at_once()
    variables.settle()
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in OWN or error.name is None:
            raise
        print(
            f"{program}: {name} is not installed; this brings it, in a checkout of Tokenwire: "
            f"pip install -c constraints/cpu.txt '.[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(EX_USAGE)
    main()


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
