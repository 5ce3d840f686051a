"""One deployment for all tests of this folder, in one event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.openai.deployment import Deployment, deployed


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the tests of this folder in the loop that their deployment has."""
    for item in items:
        if "tests/openai/" in item.path.as_posix():
            item.add_marker(pytest.mark.asyncio(loop_scope="package"), append=False)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def deployment() -> AsyncIterator[Deployment]:
    async with deployed() as started:
        yield started
