"""The whole of a service's start in the test's own process, for starts that end by themselves.

A process of each costs more than a second of CPU time; a few tests show that the real one ends
just so.
"""

from __future__ import annotations

import contextvars
import importlib
import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import structlog
from opentelemetry import metrics, trace
from tokenwire_service import logs, signals
from tokenwire_service.line_writer import LineWriter

from tests.services.processes import EX_USAGE


@dataclass(frozen=True)
class Ended:
    """How it ended."""

    code: int
    said: str
    """Standard error, log lines included."""
    printed: str
    """Standard output."""

    def check_refused(self, *said: str) -> None:
        """Checks that it ended with 64 and a readable line that has these words."""
        assert self.code == EX_USAGE, self
        assert self.said.strip()
        for words in said:
            assert words in self.said
        assert "Traceback" not in self.said


class MainHere:
    """Runs a service by the name of its package."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capfd = capfd

    def __call__(self, package: str, *arguments: str, **environment: str) -> Ended:
        main = importlib.import_module(f"{package}.__main__").main
        with self._monkeypatch.context() as patched:
            for name in os.environ:
                if name.startswith(("TOKENWIRE_", "OTEL_")):
                    patched.delenv(name)
            patched.setenv(f"{package.upper()}_LISTEN", "127.0.0.1:0")
            for name, value in environment.items():
                patched.setenv(name, value)
            patched.setattr(sys, "argv", [package, *arguments])
            _keep_to_itself(package, patched)
            before = structlog.get_config() if structlog.is_configured() else None
            self._capfd.readouterr()
            try:
                with pytest.raises(SystemExit) as ended:
                    contextvars.copy_context().run(main)
                logs.flush()
            finally:
                structlog.reset_defaults()
                if before is not None:
                    structlog.configure(**before)
        printed, said = self._capfd.readouterr()
        return Ended(ended.value.code or 0, said, printed)


def _keep_to_itself(package: str, patched: pytest.MonkeyPatch) -> None:
    """What the service sets up for its whole process is gone with it."""
    configure = structlog.configure

    def configure_uncached(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    patched.setattr(structlog, "configure", configure_uncached)
    patched.setattr(logs, "LineWriter", lambda *_: _writer())
    patched.setattr(logs, "_writer", None)
    patched.setattr(sys, "excepthook", sys.excepthook)
    patched.setattr(trace, "set_tracer_provider", lambda _: None)
    patched.setattr(metrics, "set_meter_provider", lambda _: None)
    # A worker that has begun to load sees to it that the process ends, which is not its own here.
    module = importlib.import_module(f"{package}.main")
    patched.setattr(module, "_exit", sys.exit, raising=False)
    for name in ("end_at_once", "stopping"):
        patched.setattr(signals, name, lambda: None)


@cache
def _writer() -> LineWriter:
    """One for all: its thread runs until the process ends."""
    return LineWriter(logs.STANDARD_ERROR, lambda _: None)
