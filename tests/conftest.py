"""What all tests share."""

from __future__ import annotations

import os
import signal

import pytest

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


@pytest.fixture(scope="session", autouse=True)
def _guardian():
    with guarded():
        yield


@pytest.fixture
def main_here(monkeypatch, capfd):
    """Runs a service's `main` in this process."""
    from tests.services.main_here import MainHere  # a second of imports, for some tests

    return MainHere(monkeypatch, capfd)
