"""Compiles forms of guides where the pipeline is, before a step needs them.

A step that meets a form which is not in the compiler's cache compiles it itself and holds up all
that runs. Here it is compiled by a thread: the compiler is given the interpreter meanwhile, so that
steps go on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from tokenwire_worker.engines.guides.process import FaultOf
from tokenwire_worker.engines.port import Guide
from tokenwire_worker.engines.text import told

LIMIT_S = 60.0
"""Longest time that a form may take: it took some seconds at the most where it was tried, and may
wait here behind others of its kind."""


@dataclass(slots=True, eq=False)
class Form:
    """A form that was compiled, or is being."""

    until_s: float
    """When it counts as failed, on time.monotonic's clock."""
    done: bool = False
    fault: str | None = None
    """What the compiler says once it is done, where it can't."""

    def pending(self) -> bool:
        """Tells whether it is still being compiled."""
        if not self.done and time.monotonic() > self.until_s:
            self.fault = f"its guide was not compiled within {LIMIT_S:g} s"
            return False
        return not self.done


class Forms:
    """Every form that the pipeline's compiler holds, and two threads that add to them.

    Used by the stepper's thread alone.
    """

    def __init__(self, fault_of: Callable[[], FaultOf]) -> None:
        """Starts nothing yet.

        Args:
            fault_of: makes what compiles a form on the pipeline's own tokenizer, for one thread.
        """
        self._fault_of = fault_of
        self._forms: dict[bytes, Form] = {}
        # What takes long has a thread for itself, so that nobody else waits for it.
        self._lanes = {heavy: ThreadPoolExecutor(1, "guide-forms") for heavy in (False, True)}
        self._compilers: dict[bool, FaultOf] = {}
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)

    def get(self, guide: Guide, *, heavy: bool) -> Form:
        """Returns a form; one that is new is being compiled from now on."""
        form = self._forms.get(guide.digest)
        if form is None:
            form = self._forms[guide.digest] = Form(time.monotonic() + LIMIT_S)
            self._lanes[heavy].submit(self._compile, form, guide, heavy)
        return form

    def fileno(self) -> int:
        """Returns what becomes readable whenever a form is done; `clear` ends that."""
        return self._wake_reader

    def clear(self) -> None:
        """Takes note of the forms that are done."""
        os.read(self._wake_reader, 4096)

    def close(self) -> None:
        """Compiles nothing more that has not begun."""
        for lane in self._lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)

    def _compile(self, form: Form, guide: Guide, heavy: bool) -> None:
        try:
            if heavy not in self._compilers:
                self._compilers[heavy] = self._fault_of()
            form.fault = self._compilers[heavy](guide)
        except Exception as error:  # noqa: BLE001 - the generation's end, and nobody else's
            form.fault = told(error)
        form.done = True
        with suppress(BlockingIOError):  # it is readable already
            os.write(self._wake_writer, b"\0")
