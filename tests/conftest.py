"""What all tests share."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import tokenwire_frontend

from tests.guardian import guarded

# A run in the background, or one that outlives its terminal, ignores these, and so would the
# services that tests start and send them to.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# Containers often set it. Each of the hundreds of services that tests start would compile its
# modules again, which is half of its start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure() -> None:
    """Ends a run in which something compiled stands before a newer source."""
    for each in Path(tokenwire_frontend.__file__).parent.rglob("*.so"):
        sources = each.parent.glob(f"{each.name.partition('.')[0]}.p*")
        if any(source.stat().st_mtime > each.stat().st_mtime for source in sources):
            pytest.exit(f"{each.name} is older than its source; run `make setup`", returncode=4)


@pytest.fixture(scope="session", autouse=True)
def _guardian():
    with guarded():
        yield


@pytest.fixture
def main_here(monkeypatch, capfd):
    """Runs a service's `main` in this process."""
    from tests.services.main_here import MainHere  # a second of imports, for some tests

    return MainHere(monkeypatch, capfd)


@pytest.fixture
async def early_timers(monkeypatch):
    """Has the event loop's timers fire after half their time; uvloop's fire up to 1.5 ms early."""
    loop = asyncio.get_running_loop()
    call_at = loop.call_at

    def call_early(when_s: float, *arguments: Any, **named: Any) -> asyncio.TimerHandle:
        return call_at((loop.time() + when_s) / 2, *arguments, **named)

    monkeypatch.setattr(loop, "call_at", call_early)
