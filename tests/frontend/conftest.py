"""Scripted workers, a frontend of one of them, and the log lines of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.workers import link as link_module

from tests.frontend.frontend_here import FrontendHere, frontend_of
from tests.frontend.scripted_worker import ScriptedWorker


@pytest.fixture
async def worker() -> AsyncIterator[ScriptedWorker]:
    async with ScriptedWorker() as started:
        yield started


@pytest.fixture
async def other() -> AsyncIterator[ScriptedWorker]:
    async with ScriptedWorker() as started:
        started.info.worker_name = "other"
        yield started


@pytest.fixture
async def frontend(worker: ScriptedWorker) -> AsyncIterator[FrontendHere]:
    """A frontend to which the worker is READY."""
    async with frontend_of(worker) as started:
        await started.wait_for(worker, LinkState.READY)
        yield started


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets links reconnect without a wait."""
    monkeypatch.setattr(link_module, "RECONNECT_FIRST_S", 0.0)


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """The log lines of the test."""
    with structlog.testing.capture_logs() as captured:
        yield captured
