"""What signals ask of a service: SIGTERM and SIGINT to stop, SIGHUP to read its files again.

A terminal that closes sends SIGHUP too, to whatever runs in it: a service whose terminal has gone
stops. Signals reach every process of a terminal or a unit, so the processes that a service starts
leave them to it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

STOPS = (signal.SIGTERM, signal.SIGINT)

HANDLED = (*STOPS, signal.SIGHUP)

FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Those that reach a terminal's whole group of processes."""


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


_BEGAN_IN_TERMINAL = _has_terminal()


def _terminal_has_gone() -> bool:
    """Returns whether the process was started in a terminal that has closed since."""
    return _BEGAN_IN_TERMINAL and not _has_terminal()


def end_at_once() -> None:
    """Has signals to stop end the process with 0, until `stop_signal` takes them.

    For the time of imports, when there is nothing to drain. Without a handler the first process of
    a container does not get SIGTERM at all, and SIGINT ends with a traceback.
    """

    def end(number: int, _frame: object) -> None:
        if number != signal.SIGHUP or _terminal_has_gone():
            os._exit(0)

    for number in HANDLED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)


def stop_signal(
    reload: Callable[[], None] | None = None, numbers: Sequence[signal.Signals] = STOPS
) -> asyncio.Future[None]:
    """Returns a future that one of these signals resolves; call it inside the running loop.

    A SIGINT after that ends the process at once: who presses Ctrl-C twice waits for no drain.

    Args:
        reload: called on SIGHUP; None: SIGHUP is left as it is.
        numbers: the signals.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    for number in numbers:
        loop.add_signal_handler(number, stop)
    # nohup has the process ignore SIGHUP.
    if reload is not None and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, lambda: stop() if _terminal_has_gone() else reload())
    return stopped


def stopping() -> None:
    """Ignores SIGTERM and SIGHUP: the event loop has ended, and the process keeps its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[None]:
    """Has a process that is started inside the block not see these signals before it is ready.

    It calls `leave_to_parent` when it is. Until then they wait, for it alone.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent(*numbers: signal.Signals) -> None:
    """Ignores these signals in a process whose end is its parent's to say; see `held_back`."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
