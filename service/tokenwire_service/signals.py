"""What asks a service to stop: SIGTERM, SIGINT, and SIGHUP, which a terminal sends as it closes.

There is nothing to reload. Signals reach every process of a terminal or a unit, so the processes
that a service starts leave them to it.
"""

from __future__ import annotations

import asyncio
import signal

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Those that reach a terminal's whole group of processes."""


def stop_signal() -> asyncio.Future[None]:
    """Returns a future that a signal to stop resolves; call it inside the running loop.

    A SIGINT after that ends the process at once: who presses Ctrl-C twice waits for no drain.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    for number in STOPS:
        # nohup has the process ignore SIGHUP.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    return stopped


def leave_to_parent(*numbers: signal.Signals) -> None:
    """Ignores these signals in a process whose end is its parent's to say."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
