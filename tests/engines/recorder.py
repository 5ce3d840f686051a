"""Runs generations on an engine as the worker does, and keeps what comes of them."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tokenwire_worker.engines.port import (
    Columns,
    Engine,
    Finish,
    Generation,
    KvEvent,
    Output,
    Sampling,
    Step,
    TokenLogprob,
    Untried,
)

WAIT_S = 60.0
"""Bound of every wait: longer than a loaded machine takes, so that a hang fails instead."""

GREEDY = Sampling(temperature=0.0)


@dataclass
class Ran:
    """What came of one sequence."""

    ids: list[int] = field(default_factory=list)
    deltas: list[list[int]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    transfer_handle: bytes = b""
    fetched_prompt_tokens: int | None = None
    finish: Finish | None = None
    finished_at_step: int = 0


class Recorder:
    """The listener of an engine, and the caller of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.loop = _loop()
        self.steps = 0
        self.death: str | None = None
        self.started: list[int] = []
        self.errors: dict[int, str] = {}
        self._ran: dict[tuple[int, int], Ran] = {}
        self._keys = itertools.count(1)
        self._news = threading.Condition()

    # --- the listener ----------------------------------------------------------------------------

    def on_step(self, step: Step) -> None:
        with self._news:
            self.steps += 1
            self.started += step.started
            for output in (*_outputs(step.columns), *step.outputs):
                self._take(output)
            self._news.notify_all()

    def on_death(self, reason: str) -> None:
        with self._news:
            self.death = reason
            self._news.notify_all()

    def on_kv_events(self, events: Sequence[KvEvent]) -> None:
        raise AssertionError(f"not asked for: {events}")

    def _take(self, output: Output) -> None:
        if output.key not in self.started and (output.started_s or output.times):
            self.started.append(output.key)
        ran = self._ran[output.key, output.sequence]
        assert ran.finish is None, "output after the end of a sequence"
        assert output.key not in self.errors, "output after a failure"
        ran.ids += output.token_ids
        if output.token_ids:
            ran.deltas.append(output.token_ids)
        ran.logprobs += output.logprobs or []
        ran.transfer_handle = output.transfer_handle or ran.transfer_handle
        if output.fetched_prompt_tokens is not None:
            ran.fetched_prompt_tokens = output.fetched_prompt_tokens
        ran.finish = output.finish
        ran.finished_at_step = self.steps
        if output.error is not None:
            self.errors[output.key] = output.error

    # --- the caller ------------------------------------------------------------------------------

    def submit(self, generation: Generation) -> int:
        """Submits a generation and returns its key."""
        with self._news:
            key = next(self._keys)
            for sequence in range(generation.sequence_count):
                self._ran[key, sequence] = Ran()
        self.engine.submit(key, generation)
        return key

    def check(self, generation: Generation) -> None:
        """Has the engine try the guide of a generation, again where a busy machine had no time."""
        ends_s = time.monotonic() + WAIT_S
        while True:
            try:
                return asyncio.run(self.engine.check(generation))
            except Untried:
                if time.monotonic() > ends_s:
                    raise

    def wait(self, done: Callable[[], bool]) -> None:
        """Waits until something holds, checked after each step."""
        with self._news:
            assert self._news.wait_for(lambda: done() or self.death is not None, WAIT_S), "a hang"
            assert self.death is None, self.death

    def of(self, key: int) -> list[Ran]:
        """What came of each sequence of a generation, in order."""
        return [ran for (each, _), ran in sorted(self._ran.items()) if each == key]

    def finish(self, *keys: int) -> list[Ran]:
        """Waits for generations to end, and returns what came of all their sequences."""
        self.wait(
            lambda: (
                any(key in self.errors for key in keys)
                or all(ran.finish for key in keys for ran in self.of(key))
            )
        )
        assert not self.errors.keys() & set(keys), self.errors
        return [ran for key in keys for ran in self.of(key)]

    def run(self, *generations: Generation) -> list[Ran]:
        """Runs generations together to their ends."""
        return self.finish(*[self.submit(generation) for generation in generations])


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The loop of all recorders, on a thread that runs as long as the tests."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="recorders", daemon=True).start()
    return loop


def _outputs(columns: Columns) -> Iterator[Output]:
    """What each entry is as an output of its own."""
    ids = iter(columns.token_ids)
    for key, sequence, count in zip(columns.keys, columns.sequences, columns.counts, strict=True):
        yield Output(key, sequence, list(itertools.islice(ids, count)))
    assert next(ids, None) is None, "more ids than counted"
