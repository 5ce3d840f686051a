"""Decides whether a guide can be held to, before the engine sees it.

In an engine, compiling a form holds up everything that runs or, where the form is bad, ends it. So
each new form is tried before, on the same compiler, by a process that may be lost: regular
expressions of 30 characters are known that take minutes, and texts that overflow the stack. What is
known of a form is told from memory, before any queue.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from tokenwire_worker.engines.guides.lanes import Lanes, QueueFull, TooBusy
from tokenwire_worker.engines.guides.process import Lost, TrialProcess, Unavailable, Verdict
from tokenwire_worker.engines.guides.weight import is_heavy
from tokenwire_worker.engines.port import Busy, Guide, Refused, Untried

REMEMBERED = 4096
"""Forms of which it is remembered what came of them, good and bad ones each. A bad one is up to 300
characters, a good one two numbers."""

PROCESSES = 2
"""Processes that try forms: one for what takes long, and one that is there for everybody else. Each
is some 130 MiB, and is started when it has something to do."""

RETRY_S = 5.0
"""After which a form that found the queue full may be tried again: about as long as the queue."""


WAIT_S = 8.0
"""Longest time that a caller waits for a form to be tried. A frontend takes a worker for lost that
says nothing of a request for 10 s."""


class GuideChecker:
    """Tries guides, each once; used on any event loop, and closed by any thread."""

    def __init__(self, process: Callable[[], TrialProcess]) -> None:
        """Starts nothing yet; `process` makes what tries forms."""
        self._good: OrderedDict[bytes, Verdict] = OrderedDict()
        self._bad: OrderedDict[bytes, Verdict] = OrderedDict()
        self._remembering = threading.Lock()
        self._lanes = Lanes([process() for _ in range(PROCESSES)], self._remember)

    async def check(self, guide: Guide) -> Verdict:
        """Returns what is known of a form that can be held to, once it is.

        A caller that waits no longer cancels this; the form is then not tried, unless others wait.

        Raises:
            Refused: it does not compile, or costs too much.
            Busy: too many forms wait to be tried.
            Untried: the machine is too busy, or the process that tries forms was lost.
        """
        verdict = self.known(guide) or await self._tried(guide)
        if verdict.fault is not None:
            raise Refused(guide.form.value, verdict.fault)
        return verdict

    def known(self, guide: Guide) -> Verdict | None:
        """Returns what is remembered of a form, if it is."""
        with self._remembering:
            for memory in (self._good, self._bad):
                if guide.digest in memory:
                    memory.move_to_end(guide.digest)
                    return memory[guide.digest]
        return None

    def close(self) -> None:
        """Ends the processes; who waits for a form is refused."""
        self._lanes.close()

    async def _tried(self, guide: Guide) -> Verdict:
        try:
            future = self._lanes.join(guide, heavy=is_heavy(guide))
            returns = False
            try:
                async with asyncio.timeout(WAIT_S):
                    return await asyncio.wrap_future(future)
            except TimeoutError:
                returns = True
                raise
            finally:
                self._lanes.leave(guide, future, returns=returns)
        except QueueFull as full:
            raise Busy(
                "GUIDE_QUEUE_FULL", "too many forms of guides wait to be tried", RETRY_S
            ) from full
        except (TooBusy, TimeoutError) as busy:
            raise Untried("the machine is too busy", RETRY_S) from busy
        except (Unavailable, Lost) as error:
            raise Untried(str(error), RETRY_S) from error

    def _remember(self, guide: Guide, verdict: Verdict) -> None:
        memory = self._good if verdict.fault is None else self._bad
        with self._remembering:
            memory[guide.digest] = verdict
            if len(memory) > REMEMBERED:
                memory.popitem(last=False)


def compiler_checker(model: Path, vocabulary_size: int, compiler: str = "xgrammar") -> GuideChecker:
    """Returns what tries guides on a compiler that is a package of its own.

    Args:
        model: folder of the checkpoint, with its tokenizer.
        vocabulary_size: the model's.
        compiler: the engine's, xgrammar or llguidance.
    """
    return GuideChecker(
        lambda: TrialProcess(
            "tokenwire_worker.engines.guides.trial", compiler, str(model), str(vocabulary_size)
        )
    )
