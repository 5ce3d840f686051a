"""The engine: tensorrt_llm.LLM on a thread and an event loop of its own.

`generate_async` does its work on the thread that calls it, and what it returns can only be read on
the event loop that ran then. So both happen here, off gRPC's loop: `submit` and `cancel` come from
any thread, and starting and stopping may block.

Each sequence is a request of its own (see `sampling`), followed by one task. The tasks that one
message of the engine wakes run in one turn of the loop; what they bring in it is one Step.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import structlog
from tensorrt_llm.llmapi import RequestError

from tokenwire_worker.engines.carrying import fields_with_state
from tokenwire_worker.engines.descendants import kill_descendants
from tokenwire_worker.engines.guides.prepare import grammar_text
from tokenwire_worker.engines.loop_thread import LoopThread
from tokenwire_worker.engines.port import (
    Ability,
    EngineInfo,
    EngineListener,
    EngineLoad,
    Finish,
    Generation,
    Guide,
    KvEvent,
    Output,
    Step,
)
from tokenwire_worker.engines.tensorrt_llm import sampling, transfers
from tokenwire_worker.engines.tensorrt_llm.feeds import follow_kv_events, follow_statistics
from tokenwire_worker.engines.tensorrt_llm.kv_events import KvEventReader
from tokenwire_worker.engines.tensorrt_llm.load_meter import LoadMeter
from tokenwire_worker.engines.tensorrt_llm.lora import LiveAdapters
from tokenwire_worker.engines.tensorrt_llm.results import SequenceReader
from tokenwire_worker.engines.tensorrt_llm.watchdog import LOOK_S, Watchdog
from tokenwire_worker.engines.text import told

log = structlog.get_logger()

UNHEARD_S = 1.0
"""Time that an aborted request has to say so before it is taken for gone. One that still waited in
the engine is dropped there without a word, and one that runs ends with the next step."""

LOST_S = 30.0
"""The same for a request that has begun, of which the engine always tells the end: a step may take
as long as a chunk of a long prompt on a busy machine."""

SHUTDOWN_S = 30.0
"""Time that TensorRT-LLM's shutdown has; with a dead worker process it never returns in 1.2."""


class Guides(Protocol):
    """Who tries guides beforehand."""

    async def check(self, guide: Guide) -> object:
        """Raises Refused where outputs cannot be held to the guide."""

    def close(self) -> None:
        """Ends it."""


@dataclass(slots=True, eq=False)
class _Sequence:
    """One sequence: a request of its own to TensorRT-LLM."""

    key: int
    number: int
    reader: SequenceReader
    task: asyncio.Task[None] | None = None
    result: Any = None
    """The RequestOutput; None until it is submitted."""
    cancelled: bool = False
    computes: bool = False
    """It computes the prompt, since that could not be fetched."""


class TensorRtLlmEngine:
    """Runs generations on an LLM. What has no comment of its own runs on the engine's loop."""

    def __init__(self, llm: Any, fixed: sampling.Fixed) -> None:
        """Starts the thread; `info` is to be set before the engine is used.

        Args:
            llm: the tensorrt_llm.LLM, used by nothing else from now on.
            fixed: what requests have in common.
        """
        self.info: EngineInfo
        """What the engine serves, and its bounds."""
        self.meter = LoadMeter()
        self.guides: Guides | None = None
        self._llm = llm
        self._fixed = fixed
        self._listener: EngineListener | None = None
        self._live: dict[int, list[_Sequence]] = {}
        """Sequences that have not ended, by the generation's number."""
        self._live_count = 0
        self._outputs: list[Output] = []
        self._step_began_s = time.monotonic()
        self._kv_events: list[KvEvent] = []
        self._feeds: list[asyncio.Task[None]] = []
        self._submitted = asyncio.Event()
        self._death_lock = threading.Lock()
        self._closed = False
        self._over = False
        """It has died or is being closed: the listener hears of no death any more."""
        self._progress = 0
        self._watchdog = Watchdog(self._is_healthy, self._die)
        self._thread = LoopThread()
        self.lora = LiveAdapters(llm, fixed.lora, self._thread)
        """Loads and unloads LoRA adapters."""

    # --- from any thread -------------------------------------------------------------------------

    def start(self, listener: EngineListener) -> None:
        """Has the listener hear of it from now on."""
        self._listener = listener
        self._thread.call(self._begin)
        self._watchdog.start()

    async def check(self, generation: Generation) -> None:
        """Tries the guide of a generation; raises Refused where it can't be held to."""
        if self.guides is not None and generation.guide is not None:
            await self.guides.check(generation.guide)
            if self._fixed.guide_backend == "xgrammar":
                # Made here, off the loop, and found in memory when it is submitted.
                await asyncio.to_thread(grammar_text, generation.guide)

    def not_carried(self, generation: Generation) -> Sequence[str]:
        """Returns what keeps the engine from going on with a generation exactly.

        Penalties go on: how much of the prompt they pass over is told with each request.
        """
        return fields_with_state(generation)

    def submit(self, key: int, generation: Generation) -> None:
        """Takes a generation under a number not in use."""
        self._thread.call(self._add, key, generation)

    def cancel(self, key: int, sequence: int | None = None) -> None:
        """Stops a generation, or one sequence of it."""
        self._thread.call(self._cancel, key, sequence)

    def load(self) -> EngineLoad:
        """Tells how busy the engine is, from what it last saw."""
        live = self._live_count
        # Statistics of the last step were taken before its sequences let go, and no more come.
        return EngineLoad(live, self.meter.kv_cache_usage if live else 0.0)

    def progress(self) -> int:
        """Returns how many results and iterations the engine has told of."""
        return self._progress

    def kill(self) -> None:
        """Ends the engine's processes at once."""
        kill_descendants(os.getpid())

    def run(self, coroutine: Any) -> Any:
        """Runs a coroutine on the engine's loop and returns what it returns."""
        return self._thread.run(coroutine)

    def close(self) -> None:
        """Ends TensorRT-LLM and the thread; what is held ends as cancelled."""
        with self._death_lock:
            closed, self._closed, self._over = self._closed, True, True
        if closed:
            return
        self._watchdog.stop()
        if self.guides is not None:
            self.guides.close()
        with suppress(TimeoutError):
            self._thread.run(self._end_all(), UNHEARD_S)
        # By a thread that may be left behind: it blocks for ever where a worker process is dead.
        shutdown = threading.Thread(target=self._shut_down, name="engine-shutdown", daemon=True)
        shutdown.start()
        shutdown.join(SHUTDOWN_S)
        if shutdown.is_alive():
            log.warning("engine_shutdown_stuck", waited_s=SHUTDOWN_S)
        self._thread.close(UNHEARD_S)

    def _shut_down(self) -> None:
        try:
            self._llm.shutdown()
        except Exception as error:  # noqa: BLE001 - there is nothing left to save
            log.warning("engine_shutdown_failed", error=told(error))

    def _is_healthy(self) -> bool:
        healthy: bool = self._llm._check_health()  # noqa: SLF001 - 1.2 has no public one
        return healthy

    def _die(self, reason: str) -> None:
        """Tells that the engine is dead, once. From any thread."""
        with self._death_lock:
            if self._over:
                return
            self._over = True
        if self._listener is not None:
            self._listener.on_death(reason)

    # --- the thread ------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._tick()
        feeds = [follow_statistics(self._llm, self._submitted, self._on_statistics)]
        if Ability.KV_EVENTS in self.info.abilities:
            reader = KvEventReader(self.info.kv_block_tokens)
            feeds.append(follow_kv_events(self._llm, self._submitted, reader, self._on_kv_events))
        self._feeds = [self._thread.scope.start(feed) for feed in feeds]

    def _tick(self) -> None:
        self._watchdog.note_turn()
        self._thread.later(LOOK_S, self._tick)

    async def _end_all(self) -> None:
        for feed in self._feeds:
            feed.cancel()
        for sequence in [each for group in self._live.values() for each in group]:
            self._abort(sequence)
            if sequence.task is not None:
                sequence.task.cancel()
            self._end(sequence, _cancelled(sequence))
        self._flush()

    # --- sequences -------------------------------------------------------------------------------

    def _add(self, key: int, generation: Generation) -> None:
        if not (self._live or self._outputs):  # it was idle
            self._step_began_s = time.monotonic()
        ends = sampling.stops(generation, self._fixed.eos_token_ids)
        numbers = range(generation.sequence_count)
        group = [_Sequence(key, n, SequenceReader(key, n, generation, ends)) for n in numbers]
        self._live[key] = group
        self._live_count += len(group)
        for sequence in group:
            sequence.task = self._thread.scope.start(
                self._follow(sequence, generation, ends),
                on_fault=partial(self._on_error, sequence),
            )

    async def _follow(
        self, sequence: _Sequence, generation: Generation, ends: sampling.Stops
    ) -> None:
        """Runs one sequence. Its loop is the hot path: once for each sequence and step."""
        try:
            if sequence.cancelled:  # before TensorRT-LLM has heard of it
                self._end(sequence, _cancelled(sequence))
                return
            sequence.result = self._generate(sequence, generation, ends)
            self._submitted.set()
            read = sequence.reader.prefilled if generation.prefill_only else sequence.reader.read
            async for result in sequence.result:
                self._progress += 1
                output = read(result)
                if output is None:
                    continue
                if output.finish is None and output.error is None:
                    self._put(output)
                    continue
                if sequence.reader.stopped_here:
                    self._abort(sequence)
                self._end(sequence, output)
                return
            self._end_without_reason(sequence)
        except asyncio.CancelledError:
            # Aborted, and the engine says nothing of it; or the engine is being closed.
            self._end(sequence, _cancelled(sequence))
        except RequestError as error:
            if generation.transfer_handle and not (sequence.computes or sequence.reader.begun):
                # It could not be fetched, and nothing came of it.
                sequence.computes = True
                await self._follow(sequence, generation, ends)
            else:
                self._on_error(sequence, error)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything
            self._on_error(sequence, error)

    def _generate(self, sequence: _Sequence, generation: Generation, ends: sampling.Stops) -> Any:
        """Submits a sequence. TensorRT-LLM does the work of it here, within the call."""
        fixed, prompt = self._fixed, generation.prompt
        further: dict[str, Any] = {}
        if generation.lora_adapter:
            further["lora_request"] = fixed.lora.request(generation.lora_adapter)
        if generation.cache_salt:
            further["cache_salt"] = generation.cache_salt
        if fixed.kv_retention and generation.priority:
            further["kv_cache_retention_config"] = sampling.retention(generation.priority)
        if generation.prefill_only:
            further["disaggregated_params"] = transfers.context_only()
        elif generation.transfer_handle and not sequence.computes:
            further["disaggregated_params"] = transfers.generation_only(generation)
        return self._llm.generate_async(
            prompt if isinstance(prompt, list) else list(prompt),
            sampling.sampling_params(generation, sequence.number, ends, fixed),
            streaming=not generation.prefill_only,
            **further,
        )

    def _end_without_reason(self, sequence: _Sequence) -> None:
        """Ends a sequence whose request is over without having said why."""
        if sequence.cancelled:
            self._end(sequence, _cancelled(sequence))
        else:
            self._fail(sequence, "the engine ended it without a reason")

    def _on_error(self, sequence: _Sequence, error: Exception) -> None:
        """Takes what submitting or reading a request raised.

        A RequestError is of this request. Anything else may be a fatal error of the engine, which
        it raises to whichever request touches it next, having shut down before.
        """
        if not isinstance(error, RequestError) and not self._is_healthy():
            self._die(told(error))
        elif isinstance(error, AssertionError) and sequence.cancelled:
            # 1.2 asserts that ids and log probabilities are as many, also of aborted requests.
            self._end(sequence, _cancelled(sequence))
        else:
            self._fail(sequence, told(error))

    def _end(self, sequence: _Sequence, output: Output) -> None:
        """Hands out the last of a sequence, unless its generation has been given up."""
        group = self._live.get(sequence.key)
        if group is None or sequence not in group:
            return
        group.remove(sequence)
        self._live_count -= 1
        if not group:
            del self._live[sequence.key]
        self._put(output)

    def _fail(self, sequence: _Sequence, reason: str) -> None:
        """Gives up a generation of which one sequence failed."""
        group = self._live.pop(sequence.key, None)
        if group is None:
            return
        self._live_count -= len(group)
        self._put(Output(sequence.key, sequence.number, [], error=reason))
        for each in group:
            self._abort(each)
            if each is not sequence and each.task is not None:
                each.task.cancel()

    def _cancel(self, key: int, number: int | None) -> None:
        for sequence in self._live.get(key, ()):
            if number in (None, sequence.number) and not sequence.cancelled:
                sequence.cancelled = True
                self._abort(sequence)
                patience_s = LOST_S if sequence.reader.begun else UNHEARD_S
                if sequence.task is not None:
                    self._thread.later(patience_s, sequence.task.cancel)

    def _abort(self, sequence: _Sequence) -> None:
        """Has TensorRT-LLM stop a request; dropping its result would let it run on."""
        if sequence.result is None or sequence.result.finished:
            return
        try:
            sequence.result.abort()
        except Exception as error:  # noqa: BLE001 - its executor may be gone
            log.warning("abort_failed", error=told(error))

    # --- what is handed over ---------------------------------------------------------------------

    def _put(self, output: Output) -> None:
        """Adds to the step; it is handed over after all that this turn of the loop brings."""
        if not self._outputs:
            self._thread.soon(self._flush)
        self._outputs.append(output)

    def _flush(self) -> None:
        outputs, self._outputs = self._outputs, []
        events, self._kv_events = self._kv_events, []
        if self._listener is None:
            return
        if outputs:
            step = Step(outputs, began_s=self._step_began_s)
            self._step_began_s = time.monotonic()
            self._listener.on_step(step)
        if events:
            self._listener.on_kv_events(events)

    def _on_statistics(self, statistics: dict[str, Any]) -> None:
        self._progress += 1
        self.meter.take(statistics)

    def _on_kv_events(self, events: Sequence[KvEvent]) -> None:
        if events and not self._kv_events:
            self._thread.soon(self._flush)
        self._kv_events += events


def _cancelled(sequence: _Sequence) -> Output:
    return Output(sequence.key, sequence.number, [], Finish.CANCELLED)
