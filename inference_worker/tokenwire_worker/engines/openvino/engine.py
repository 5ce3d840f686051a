"""The OpenVINO engine, in a process of its own.

The binding of the pipeline's `step()` keeps the GIL for as long as it computes. In the worker's
process that stopped the event loop for the length of every step: tokens, cancels, health checks and
deadlines all came a step late.

The pipeline keeps every form of a guide that it has compiled, and has no way to let go of one. So
once these are as much as they may be, another process takes over: new generations go to it, and the
first ends with its last one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from tokenwire_worker.engines import EngineError, EngineStartError
from tokenwire_worker.engines.carrying import fields_with_state
from tokenwire_worker.engines.guides.checker import GuideChecker
from tokenwire_worker.engines.openvino.child import Child
from tokenwire_worker.engines.openvino.guides import guide_checker
from tokenwire_worker.engines.openvino.messages import (
    Cancel,
    Close,
    Compiling,
    Died,
    Drain,
    Ready,
    Stepped,
    Submit,
)
from tokenwire_worker.engines.port import (
    Busy,
    EngineInfo,
    EngineListener,
    EngineLoad,
    Generation,
    Guide,
    Output,
    Refused,
    Step,
)
from tokenwire_worker.model_files import ModelError

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

MIB = 1024**2

HARD_BOUND = 1.5
"""Times the memory for guides that a process takes while there is no other yet."""

LOAD_S = 600.0
"""Time that a process which is to take over may load the model."""

RETRY_S = 30.0
"""After which one that failed to is tried again."""

GUIDE_RETRY_S = 5.0
"""After which a caller whose guide found no memory may ask again: a model may have loaded then."""

HEAVY_CPU_S = 0.2
"""CPU time of a form that is compiled apart from others."""

log = structlog.get_logger()


class OpenVinoEngine:
    """Runs generations on a ContinuousBatchingPipeline in another process."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Starts the process and waits until it has loaded the model.

        Raises:
            EngineError: OpenVINO refuses the model or a setting.
            ModelError: the model's files lack what is needed.
            EngineStartError: the process ended.
        """
        self._settings = settings
        self._guide_bytes = settings.openvino.guide_memory_mib * MIB
        self._current = Child()
        """Takes new generations."""
        self._draining: list[Child] = []
        """Have generations left from before they were replaced."""
        self._coming: Child | None = None
        """Loads the model, to take over."""
        self._replacement: threading.Thread | None = None
        self._retry_s = 0.0
        """When a replacement may be tried again, on time.monotonic's clock."""
        self._progress = 0
        self._signs: set[Child] = set()
        """Processes that gave a sign since the last progress."""
        self._closing = False
        self._dead = False
        self._changing = threading.Lock()
        """Guards which process is what, and the order of what each is told."""
        ready = self._current.load_model(settings)
        self._info = ready.info
        self._guides = _guide_checker(ready)

    @property
    def info(self) -> EngineInfo:
        """What the engine serves, and its bounds."""
        return self._info

    @property
    def lora(self) -> None:
        """Returns None: a pipeline takes its adapters only as it is built."""

    def start(self, listener: EngineListener) -> None:
        """Starts to listen to the process."""
        self._listener = listener
        self._current.start(listener.loop, self._on_message, self._on_end)

    async def check(self, generation: Generation) -> None:
        """Tries the guide of a generation, and has memory for it.

        Raises:
            Refused: it can't be held to.
            Busy: there is no room for it now.
        """
        guide = generation.guide
        if self._guides is None or guide is None:
            return
        verdict = await self._guides.check(guide)
        if verdict.held_bytes > self._guide_bytes:
            raise Refused(
                guide.form.value,
                f"takes {verdict.held_bytes // MIB} MiB compiled; all guides together may take "
                f"{self._guide_bytes // MIB}",
            )
        self._hold(guide, verdict.held_bytes)

    def not_carried(self, generation: Generation) -> Sequence[str]:
        """Returns what keeps the engine from going on with a generation exactly.

        The pipeline's repetition penalty counts the prompt too, the other two the tokens that it
        has generated itself (seen in 2026.4).
        """
        if self._settings.openvino.cache_eviction.max_tokens is not None:
            # What was evicted depends on the attention of every step before.
            return ["output_so_far"]
        return fields_with_state(generation, ("presence_penalty", "frequency_penalty"))

    def submit(self, key: int, generation: Generation) -> None:
        """Takes a generation under a number not in use."""
        with self._changing:
            tried, heavy = self._known(generation.guide)
            if tried:
                self._current.tell(Submit(key, generation, heavy))
        if not tried:  # compiling it might take for ever, and nobody could end that
            error = "its guide was not tried"
            self._listener.on_step(Step([Output(key, 0, [], error=error)]))

    def cancel(self, key: int, sequence: int | None = None) -> None:
        """Stops a generation, or one sequence of it."""
        with self._changing:
            for child in (self._current, *self._draining):  # those without it pass it over
                child.tell(Cancel(key, sequence))

    def load(self) -> EngineLoad:
        """Tells how busy the engine is, from what it last saw."""
        loads = [child.load for child in (self._current, *self._draining)]
        return EngineLoad(
            sum(each.running_sequences for each in loads),
            max(each.kv_cache_usage for each in loads),
        )

    def progress(self) -> int:
        """Returns how often every process that has work has told of a step, or of compiling."""
        if self._coming is self._current:
            self._progress += 1  # it loads, which has a bound of its own
        return self._progress

    def kill(self) -> None:
        """Ends the processes at once."""
        for child in (self._current, *self._draining):
            child.kill()

    def close(self) -> None:
        """Ends the processes; what is still held ends as cancelled."""
        with self._changing:
            self._closing = True
            coming = self._coming
            replacement = self._replacement
        if coming is not None:
            coming.kill()
        if self._guides is not None:
            self._guides.close()
        if replacement is not None:
            replacement.join()
        children = [self._current, *self._draining]
        for child in children:
            child.tell(Close())
        for child in children:
            child.close()

    # --- what the processes say, on the loop; and their ends, each on a thread of its own --------

    def _on_message(self, child: Child, message: object) -> None:
        if isinstance(message, Stepped):
            child.load = message.load
            self._note_sign(child)
            self._listener.on_step(message.step)
            if not message.load.running_sequences:
                self._replace_if_full()
        elif isinstance(message, Compiling):
            self._note_sign(child)
        elif isinstance(message, Died):
            self._die(message.reason)

    def _note_sign(self, child: Child) -> None:
        """Counts progress: all that have work have given a sign, so none hangs."""
        if not self._draining:
            self._progress += 1
            return
        with self._changing:
            self._signs.add(child)
            busy = set(self._draining)
            if self._current.load.running_sequences:
                busy.add(self._current)
            if busy <= self._signs:
                self._signs.clear()
                self._progress += 1

    def _on_end(self, child: Child) -> None:
        how = child.how_it_ended()
        with self._changing:
            expected = self._closing or (child.told_to_end and child.ended_well())
            if child in self._draining:
                self._draining.remove(child)
                child.release()
        if not expected:
            self._die(f"its process {how}")

    def _die(self, reason: str) -> None:
        with self._changing:
            dead, self._dead = self._dead, True
        if not dead:
            self._listener.on_death(reason)

    # --- guides ----------------------------------------------------------------------------------

    def _known(self, guide: Guide | None) -> tuple[bool, bool]:
        """Tells whether a guide was tried, and whether it takes long to compile; under the lock."""
        if guide is None:
            return True, False
        verdict = self._guides.known(guide) if self._guides is not None else None
        if verdict is None or verdict.fault is not None:
            return guide.digest in self._current.forms, False
        # Another process may have taken over since it was checked.
        self._current.hold(guide.digest, verdict.held_bytes)
        return True, verdict.cpu_s >= HEAVY_CPU_S

    def _hold(self, guide: Guide, held_bytes: int) -> None:
        with self._changing:
            child = self._current
            known = guide.digest in child.forms
            full = child.form_bytes + held_bytes > HARD_BOUND * self._guide_bytes
            if not known and not full:
                child.hold(guide.digest, held_bytes)
        self._replace_if_full()
        if not known and full:
            raise Busy(
                "GUIDE_MEMORY",
                f"the forms of guides fill their memory, {self._guide_bytes // MIB} MiB; "
                f"known forms go on",
                GUIDE_RETRY_S,
            )

    def _replace_if_full(self) -> None:
        """Has another process take over where this one's compiler holds as much as it may."""
        if self._current.form_bytes < self._guide_bytes:
            return
        with self._changing:
            if (
                self._closing
                or self._replacement is not None
                or time.monotonic() < self._retry_s
                or (self._settings.openvino.replace_when_idle and not self._is_idle())
            ):
                return
            self._replacement = threading.Thread(target=self._replace, name="engine-replacement")
            self._replacement.start()

    def _is_idle(self) -> bool:
        return not self._draining and not self._current.load.running_sequences

    def _replace(self) -> None:
        began_s = time.monotonic()
        log.info("replacing_engine", guide_mib=self._current.form_bytes // MIB)
        try:
            if self._settings.openvino.replace_when_idle:
                self._replace_in_turn()
            else:
                self._replace_beside()
        except (EngineError, EngineStartError, ModelError, OSError) as error:
            if not self._closing:
                log.warning("engine_not_replaced", reason=str(error))
                if self._coming is self._current:
                    self._die(f"its process could not be replaced: {error}")
        else:
            log.info("engine_replaced", took_s=round(time.monotonic() - began_s, 3))
        with self._changing:
            self._coming = self._replacement = None
            self._retry_s = time.monotonic() + RETRY_S

    def _replace_beside(self) -> None:
        """Loads the model once more, and has new generations go there once it is loaded."""
        child = Child()
        with self._changing:
            self._coming = child
        self._load(child)
        child.start(self._listener.loop, self._on_message, self._on_end)
        self._take_over(child)

    def _replace_in_turn(self) -> None:
        """Loads the model once the process before has ended; new generations wait for it."""
        before, child = self._current, Child()
        with self._changing:
            self._coming = child
        self._take_over(child)
        before.wait()
        self._load(child)
        child.start(self._listener.loop, self._on_message, self._on_end)

    def _load(self, child: Child) -> None:
        timer = threading.Timer(LOAD_S, child.kill)
        timer.start()
        try:
            if self._closing:
                child.kill()
            child.load_model(self._settings)
        finally:
            timer.cancel()

    def _take_over(self, child: Child) -> None:
        with self._changing:
            before, self._current = self._current, child
            self._draining.append(before)
            before.tell(Drain())


def _guide_checker(ready: Ready) -> GuideChecker | None:
    if ready.tokenizer is None:
        log.warning("no_guided_decoding", reason=ready.unguided)
        return None
    info = ready.info
    return guide_checker(ready.tokenizer, info.vocabulary_size, info.eos_token_ids[0])
