"""Decides whether a guide can be held to, before the pipeline that serves ever sees it.

A form that does not compile raises from the pipeline's `step()`, again at each step and for every
request in it, so it must not get there. Each new form is tried twice: by a process that may be
lost, because regular expressions of 30 characters are known that take minutes, and texts that
overflow the stack; then in this process, so that the compiled form is in the cache when the first
step needs it.
"""

from __future__ import annotations

import hashlib
import json
import select
import subprocess
import sys
import threading
from collections import OrderedDict
from typing import Any

from tokenwire_worker.engines.guides.json_schema import unheeded_keywords
from tokenwire_worker.engines.openvino.text import told
from tokenwire_worker.engines.openvino.trial import Trial
from tokenwire_worker.engines.port import Ability, Guide, Refused

LIMIT_S = 3.0
"""Longest time that a form may take to compile. The serving pipeline waits behind it if it needs
another form meanwhile; schemas of everyday size take milliseconds."""

START_S = 60.0
"""Longest time that the trial process may take to load the tokenizer."""

REMEMBERED = 1024
"""Forms known to be good that are not tried again."""


class GuideChecker:
    """Tries guides; used by one thread at a time, and closed by any."""

    def __init__(self, tokenizer: Any, path: str, vocabulary_size: int, stop_id: int) -> None:
        """Starts nothing yet: most workers never see a guide.

        Args:
            tokenizer: the serving pipeline's openvino_genai.Tokenizer.
            path: where the trial process loads the same one from.
            vocabulary_size: the model's.
            stop_id: an end-of-sequence id.
        """
        self._tokenizer = tokenizer
        self._arguments = [path, str(vocabulary_size), str(stop_id)]
        self._vocabulary_size = vocabulary_size
        self._stop_id = stop_id
        self._process: subprocess.Popen[bytes] | None = None
        self._here: Trial | None = None
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._checking = threading.Lock()
        self._starting = threading.Lock()
        self._closed = False

    def check(self, guide: Guide) -> None:
        """Returns when the form is known to compile.

        Raises:
            Refused: it does not, or not in time.
        """
        with self._checking:
            self._check(guide)

    def _check(self, guide: Guide) -> None:
        digest = _digest(guide)
        if digest in self._good:
            self._good.move_to_end(digest)
            return
        if guide.form is Ability.GUIDED_JSON_SCHEMA:
            for keyword, path in unheeded_keywords(guide.text):
                raise Refused(
                    guide.form.value, f"this engine does not hold outputs to {keyword!r}, at {path}"
                )
        fault = self._fault_elsewhere(guide) or self._fault_here(guide)
        if fault is not None:
            raise Refused(guide.form.value, fault)
        self._good[digest] = None
        if len(self._good) > REMEMBERED:
            self._good.popitem(last=False)

    def close(self) -> None:
        """Ends the trial process; a check under way is refused."""
        with self._starting:
            self._closed = True
            if self._process is not None:
                self._process.kill()
        with self._checking:  # what waited for the process has seen it end
            if self._process is not None:
                self._end(self._process)

    def _fault_here(self, guide: Guide) -> str | None:
        if self._here is None:
            self._here = Trial(self._tokenizer, self._vocabulary_size, self._stop_id)
        return self._here.fault(guide)

    def _fault_elsewhere(self, guide: Guide) -> str | None:
        process = self._running()
        asked = {
            "form": guide.form.value,
            "text": guide.text,
            "options": guide.options,
            "limit_s": LIMIT_S,
        }
        try:
            _send(process, asked)
            answer = _receive(process, LIMIT_S)
        except TimeoutError:
            self._end(process)
            return f"takes longer than {LIMIT_S:g} s to compile"
        except OSError:
            self._end(process)
            return "is more than the grammar compiler can take"
        fault: str | None = answer["fault"]
        return fault

    def _running(self) -> subprocess.Popen[bytes]:
        with self._starting:
            if self._closed:
                raise Refused("guide", "the worker is being stopped")
            if self._process is not None and self._process.poll() is None:
                return self._process
            command = [sys.executable, "-m", "tokenwire_worker.engines.openvino.trial"]
            self._process = process = subprocess.Popen(  # noqa: S603 - our own module
                [*command, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        try:
            _receive(process, START_S)
        except OSError as error:  # TimeoutError is one
            self._end(process)
            raise Refused("guide", f"can't be tried: {told(error)}") from error
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _digest(guide: Guide) -> bytes:
    """Returns what stands for a form, which itself may be long."""
    return hashlib.sha256(repr((guide.form, guide.text, guide.options)).encode()).digest()


def _send(process: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    if process.stdin is None:
        raise AssertionError("the trial process has pipes. This is a bug.")
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()


def _receive(process: subprocess.Popen[bytes], limit_s: float) -> Any:
    """Returns the next answer.

    Raises:
        TimeoutError: it does not come in time.
        OSError: the process is gone.
    """
    if process.stdout is None:
        raise AssertionError("the trial process has pipes. This is a bug.")
    # Answers are one at a time and short, so what is readable is a whole line.
    if not select.select([process.stdout], [], [], limit_s)[0]:
        raise TimeoutError
    line = process.stdout.readline()
    if not line:
        raise BrokenPipeError("the trial process has ended")
    return json.loads(line)
