"""What all tests share."""

from __future__ import annotations

import pytest

from tests.guardian import guarded


@pytest.fixture(scope="session", autouse=True)
def _guardian():
    with guarded():
        yield
