"""The thread of grpc.aio that waits for the network."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

_giving_way: list[int] = []
"""Threads that do, by their number."""


def give_way() -> None:
    """Lets the event loop's thread finish what it does before the poller runs on the same core.

    gRPC wakes the poller at each operation, and the scheduler would run it at once in the place of
    the event loop, which holds a lock that the poller needs: several switches where none is
    required. A thread of SCHED_BATCH takes a core from nobody, and runs as soon as one is free.
    """
    if not hasattr(os, "SCHED_BATCH"):  # Linux alone
        return
    for thread in threading.enumerate():
        if "_poll_wrapper" in thread.name and thread.native_id is not None:
            with suppress(OSError):  # a sandbox may not permit it
                os.sched_setscheduler(thread.native_id, os.SCHED_BATCH, os.sched_param(0))
                _giving_way.append(thread.native_id)


def let_run() -> None:
    """Lets the poller run now if it gives way and waits for this core."""
    if _giving_way:
        os.sched_yield()
