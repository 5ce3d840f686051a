"""A server of the test's own process stops at once where its callers have gone before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from tokenwire_service import server


@contextmanager
def nobody_listens() -> Iterator[None]:
    """Leaves out the time in which a server's last statuses travel to its callers."""
    with mock.patch.object(server, "FAREWELL_S", 0.0):
        yield
