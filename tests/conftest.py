"""What all tests share."""

from __future__ import annotations

import pytest

from tests.guardian import guarded


@pytest.fixture(scope="session", autouse=True)
def _guardian():
    with guarded():
        yield


@pytest.fixture
def main_here(monkeypatch, capfd):
    """Runs a service's `main` in this process."""
    from tests.services.main_here import MainHere  # a second of imports, for some tests

    return MainHere(monkeypatch, capfd)
