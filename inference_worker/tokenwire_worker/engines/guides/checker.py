"""Tries guides before the engine sees them.

vLLM and TensorRT-LLM compile a guide beside everything that runs, and a form may take minutes to
compile or overflow the stack. So each new form is tried before, on the same compiler, by a
process that may be lost. It is started for the first guide: most workers never see one.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenwire_worker.engines.guides.json_schema import unheeded_keywords
from tokenwire_worker.engines.port import Ability, Guide, Refused

LIMIT_S = 3.0
"""Longest time that a form may take to compile: everything that runs waits for it once more when
the engine compiles it. Schemas of everyday size take milliseconds."""

START_S = 120.0
"""Longest time that the process may take to import the compiler and load the tokenizer."""

REMEMBERED = 1024
"""Forms known to be good that are not tried again."""

_MODULE = "tokenwire_worker.engines.guides.trial"


class GuideChecker:
    """Tries guides on their compiler; used by one thread at a time, and closed by any."""

    def __init__(self, model: Path, vocabulary_size: int, compiler: str = "xgrammar") -> None:
        """Starts nothing yet.

        Args:
            model: folder of the checkpoint, with its tokenizer.
            vocabulary_size: the model's.
            compiler: the engine's, xgrammar or llguidance.
        """
        asked = (compiler, str(model), str(vocabulary_size))
        self._command = [sys.executable, "-m", _MODULE, *asked]
        self._compiler = compiler
        self._process: subprocess.Popen[bytes] | None = None
        self._good: OrderedDict[Guide, None] = OrderedDict()
        self._closed = False
        self._starting = threading.Lock()
        """Guards the process while it is started or ended."""
        self._checking = threading.Lock()
        """Held while something is tried."""

    def check(self, guide: Guide) -> None:
        """Returns when the form is known to compile.

        Raises:
            Refused: it does not, or not in time.
        """
        if guide in self._good:
            self._good.move_to_end(guide)
            return
        # llguidance refuses these by itself.
        if guide.form is Ability.GUIDED_JSON_SCHEMA and self._compiler == "xgrammar":
            for keyword, path in unheeded_keywords(guide.text):
                raise Refused(
                    guide.form.value, f"this engine does not hold outputs to {keyword!r}, at {path}"
                )
        with self._checking:
            fault = self._fault(guide)
        if fault is not None:
            raise Refused(guide.form.value, fault)
        self._good[guide] = None
        if len(self._good) > REMEMBERED:
            self._good.popitem(last=False)

    def close(self) -> None:
        """Ends the process; a check under way is refused."""
        with self._starting:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        with self._checking:  # what waited for the process has seen it end
            self._end()

    def _fault(self, guide: Guide) -> str | None:
        asked = {"form": guide.form.value, "text": guide.text, "options": guide.options}
        try:
            process = self._running()
        except OSError as error:  # TimeoutError is one
            self._end()
            raise Refused("guide", f"can't be tried: {error}") from error
        try:
            _send(process, asked)
            answer = _receive(process, LIMIT_S)
        except TimeoutError:
            self._end()
            return f"takes longer than {LIMIT_S:g} s to compile"
        except OSError:
            self._end()
            return "is more than the grammar compiler can take"
        fault: str | None = answer["fault"]
        return fault

    def _running(self) -> subprocess.Popen[bytes]:
        with self._starting:
            if self._closed:
                raise BrokenPipeError("the worker is being stopped")
            if self._process is not None:
                return self._process
            self._process = process = subprocess.Popen(  # noqa: S603 - our own module
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        _receive(process, START_S)
        return process

    def _end(self) -> None:
        with self._starting:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # what it did not live to read
                        pipe.close()


def _send(process: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    if process.stdin is None:
        raise AssertionError("the process has pipes. This is a bug.")
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()


def _receive(process: subprocess.Popen[bytes], limit_s: float) -> Any:
    """Returns the next answer.

    Raises:
        TimeoutError: it does not come in time.
        OSError: the process is gone.
    """
    if process.stdout is None:
        raise AssertionError("the process has pipes. This is a bug.")
    # Answers are one at a time and short, so what is readable is a whole line.
    if not select.select([process.stdout], [], [], limit_s)[0]:
        raise TimeoutError("no answer in time")
    line = process.stdout.readline()
    if not line:
        raise BrokenPipeError("the grammar compiler's process has ended")
    return json.loads(line)
