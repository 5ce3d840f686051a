"""Starts a service's `main`, or says what to install; imports nothing but the standard library.

The client's package brings the commands of both services, and not what they need.
"""

from __future__ import annotations

import importlib
import sys

EX_USAGE = 64
OWN = ("tokenwire", "tokenwire_service", "tokenwire_frontend", "tokenwire_worker")


def launch(program: str, module: str, extra: str) -> None:
    """Runs `main` of the module; ends with 64 where a package that it needs is not installed."""
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
