"""`tokenwire-worker check-engine`: compares an installed engine with what its adapter relies on."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from tokenwire_service.settings import LineParser, refuse

from tokenwire_worker.engines.adapters import ADAPTERS

CHECKS = {"tensorrt_llm": "tokenwire_worker.engines.tensorrt_llm.installed"}
"""Modules that are a `Check`, by engine: of adapters that are tested against a recorded surface."""


class Check(Protocol):
    """What such a module offers; both raise ModuleNotFoundError where the engine is not there."""

    def version(self) -> str:
        """Returns the version that is installed."""

    def differences(self) -> Iterator[str]:
        """Yields each difference between the recorded surface and what is installed."""


def main(program: str, arguments: Sequence[str]) -> int:
    """Prints every difference; returns 0 where there is none, 1 otherwise; 64 if it can't be so."""
    parser = LineParser(
        prog=f"{program} check-engine",
        description="Compares the installed engine with the surface that its adapter was written "
        "for. Prints every difference; exits with 0 where there is none, else with 1.",
    )
    parser.add_argument(
        "--engine",
        choices=sorted(ADAPTERS),
        default="tensorrt_llm",
        help="the engine, of which a surface has to be recorded; default: %(default)s",
    )
    engine: str = parser.parse_args(arguments).engine
    if engine not in CHECKS:
        refuse(
            f"{program} check-engine",
            f"--engine {engine}: no surface is recorded to compare with; "
            f"one is for: {', '.join(sorted(CHECKS))}",
        )
    check: Any = importlib.import_module(CHECKS[engine])
    checked: Check = check
    adapter = ADAPTERS[engine]
    try:
        # Engines print to standard output when they are imported.
        with contextlib.redirect_stdout(sys.stderr):
            version, found = checked.version(), list(checked.differences())
    except ModuleNotFoundError as error:
        if error.name not in adapter.needs:
            raise
        print(f"{engine} is not installed: {adapter.how_to_install}")
        return 1
    for line in found:
        print(line)
    count = "1 difference" if len(found) == 1 else f"{len(found)} differences"
    print(f"{engine} {version}: {count if found else 'as recorded'}")
    return 1 if found else 0
