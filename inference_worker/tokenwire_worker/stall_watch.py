"""Looks whether an engine that has work gets on with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tokenwire_worker.core.stall import StallClock
from tokenwire_worker.engines.port import Engine

LOOK_S = 0.25
"""Between two looks."""


async def watch_for_stall(
    engine: Engine, stall_s: float, is_busy: Callable[[], bool], on_stall: Callable[[], None]
) -> None:
    """Returns once the engine has made no progress for so long, after it has told so.

    Args:
        engine: the engine.
        stall_s: time without progress after which it is stalled.
        is_busy: whether it has work.
        on_stall: told of the stall.
    """
    look_s = min(LOOK_S, stall_s / 4)
    clock = StallClock(stall_s, look_s)
    while True:
        if clock.look(engine.progress(), busy=is_busy(), now_s=time.monotonic()):
            on_stall()
            return
        await asyncio.sleep(look_s)
