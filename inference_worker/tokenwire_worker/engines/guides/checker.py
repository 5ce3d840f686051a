"""Decides whether a guide can be held to, before the engine sees it.

In an engine, compiling a form holds up everything that runs or, where the form is bad, ends it. So
each new form is tried before, on the same compiler, by a process that may be lost: regular
expressions of 30 characters are known that take minutes, and texts that overflow the stack.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

from tokenwire_worker.engines.guides.json_schema import unheeded_keywords
from tokenwire_worker.engines.guides.process import FaultOf, TrialProcess, Unavailable
from tokenwire_worker.engines.port import Ability, Guide, Refused

LIMIT_S = 3.0
"""Longest time that a form may take to compile: what runs may wait for it once more when the engine
compiles it. Schemas of everyday size take milliseconds."""

REMEMBERED = 1024
"""Forms known to be good that are not tried again."""


class GuideChecker:
    """Tries guides, one at a time; used and closed by any thread."""

    def __init__(
        self, process: TrialProcess, *, refuses_unheeded: bool = True, then: FaultOf | None = None
    ) -> None:
        """Starts nothing yet.

        Args:
            process: tries them.
            refuses_unheeded: refuse what the compiler would pass over in a JSON Schema.
            then: tries what has passed the process once more, in this one.
        """
        self._process = process
        self._refuses_unheeded = refuses_unheeded
        self._then = then
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._checking = threading.Lock()

    async def check(self, guide: Guide) -> None:
        """Returns when the form is known to compile.

        Raises:
            Refused: it does not, or not in time.
        """
        await asyncio.to_thread(self._check, guide)

    def _check(self, guide: Guide) -> None:
        with self._checking:
            digest = _digest(guide)
            if digest in self._good:
                self._good.move_to_end(digest)
                return
            fault = self._fault(guide)
            if fault is not None:
                raise Refused(guide.form.value, fault)
            self._good[digest] = None
            if len(self._good) > REMEMBERED:
                self._good.popitem(last=False)

    def close(self) -> None:
        """Ends the process; a check under way is refused."""
        self._process.kill()
        with self._checking:  # what waited for the process has seen it end
            self._process.end()

    def _fault(self, guide: Guide) -> str | None:
        if self._refuses_unheeded and guide.form is Ability.GUIDED_JSON_SCHEMA:
            for keyword, path in unheeded_keywords(guide.text):
                return f"this engine does not hold outputs to {keyword!r}, at {path}"
        try:
            fault = self._process.fault(guide, LIMIT_S)
        except Unavailable as error:
            raise Refused("guide", f"can't be tried: {error}") from error
        except TimeoutError:
            return f"takes longer than {LIMIT_S:g} s to compile"
        except OSError:
            return "is more than the grammar compiler can take"
        return fault if fault is not None or self._then is None else self._then(guide)


def compiler_checker(model: Path, vocabulary_size: int, compiler: str = "xgrammar") -> GuideChecker:
    """Returns what tries guides on a compiler that is a package of its own.

    Args:
        model: folder of the checkpoint, with its tokenizer.
        vocabulary_size: the model's.
        compiler: the engine's, xgrammar or llguidance.
    """
    process = TrialProcess(
        "tokenwire_worker.engines.guides.trial", compiler, str(model), str(vocabulary_size)
    )
    # llguidance refuses by itself what it does not heed.
    return GuideChecker(process, refuses_unheeded=compiler == "xgrammar")


def _digest(guide: Guide) -> bytes:
    """Returns what stands for a form, which itself may be long."""
    return hashlib.sha256(repr((guide.form, guide.text, guide.options)).encode()).digest()
