"""A trial process that does what each form says: run as a module, and asked through guides.process.

ok               nothing is wrong with it
bad WORDS        that is what is wrong
walk WORDS       that is what is wrong with what it costs
hold FOLDER      waits until FOLDER/go is there; makes FOLDER/PID first, to tell that it has begun
spin             computes for ever
crash            overflows, as far as the parent can tell
leave            exits
keep MIB FOLDER  allocates so much and keeps it; makes FOLDER/PID
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tokenwire_worker.engines.guides.process import Tries, answer
from tokenwire_worker.engines.port import Guide

kept: list[bytearray] = []


def fault(guide: Guide) -> str | None:
    word, _, rest = guide.text.partition(" ")
    if word == "bad":
        return rest
    if word == "hold":
        held = Path(rest.split()[0])
        (held / str(os.getpid())).touch()
        while not (held / "go").exists():
            time.sleep(0.005)
    elif word == "spin":
        while True:
            pass
    elif word == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "leave":
        os._exit(0)
    elif word == "keep":
        mib, folder, *_ = rest.split()
        kept.append(bytearray(int(mib) * 1024**2))
        (Path(folder) / str(os.getpid())).touch()
    return None


def walk_fault(guide: Guide) -> str | None:
    word, _, rest = guide.text.partition(" ")
    return rest if word == "walk" else None


def load() -> Tries:
    return Tries(fault, walk_fault)


if __name__ == "__main__":
    answer(load)
