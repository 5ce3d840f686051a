"""Keeps the garbage collector from holding up the event loop."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000
"""Objects made between two looks at the youngest, which take up to some milliseconds. It is more
than what some hundred open requests are, which come and go without a look: with 20,000 the looks
took a fortieth of the time of a frontend with 64 requests open. With Python's 700 the collector
runs several times in each request, and takes a twentieth of its time."""


def settle() -> None:
    """Sets apart what has been imported: it is there for good, and is not looked at again.

    Otherwise each full pass of the collector looks at some 75,000 objects of modules, which holds
    up the event loop for 45 ms. Call it once, before the loop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
