"""Ctrl-C while gRPC is at work."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Cancellable(Protocol):
    """What Ctrl-C cancels, such as a stream."""

    def cancel(self) -> None:
        """Ends it; whoever reads it finds it ended."""
        ...


@contextmanager
def cancelled_by_ctrl_c(work: Cancellable) -> Iterator[None]:
    """Cancels the work at Ctrl-C and raises KeyboardInterrupt at the end of the block.

    Python would raise it wherever the program is. Inside gRPC that can leave a lock of the channel
    held, and the next request of a conversation would wait for ever.
    """
    pressed = False

    def press(*_: object) -> None:
        nonlocal pressed
        pressed = True
        work.cancel()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            raise KeyboardInterrupt
