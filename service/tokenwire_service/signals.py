"""What asks a service to stop: SIGTERM, SIGINT, and SIGHUP, which a terminal sends as it closes.

There is nothing to reload. Signals reach every process of a terminal or a unit, so the processes
that a service starts leave them to it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Those that reach a terminal's whole group of processes."""


def end_at_once() -> None:
    """Has signals to stop end the process with 0, until `stop_signal` takes them.

    For the time of imports, when there is nothing to drain. Without a handler the first process of
    a container does not get SIGTERM at all, and SIGINT ends with a traceback.
    """
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(0))


def stop_signal(numbers: Sequence[signal.Signals] = STOPS) -> asyncio.Future[None]:
    """Returns a future that one of these signals resolves; call it inside the running loop.

    A SIGINT after that ends the process at once: who presses Ctrl-C twice waits for no drain.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    for number in numbers:
        # nohup has the process ignore SIGHUP.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    return stopped


def stopping() -> None:
    """Ignores SIGTERM and SIGHUP: the event loop has ended, and the process keeps its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[None]:
    """Has a process that is started inside the block not see signals to stop before it is ready.

    It calls `leave_to_parent` when it is. Until then they wait, for it alone.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent(*numbers: signal.Signals) -> None:
    """Ignores these signals in a process whose end is its parent's to say; see `held_back`."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
