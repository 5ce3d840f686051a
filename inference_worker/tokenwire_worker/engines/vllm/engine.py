"""The vLLM engine: AsyncLLM on a thread and an event loop of its own.

AsyncLLM is an asyncio object whose work for each token (decoding the engine process's messages,
making an output for each request) takes its loop's time. On a thread of its own none of that delays
gRPC's loop other than through the GIL, `submit` and `cancel` come from any thread as for every
engine, and starting and stopping it may block.

Each sequence is a request of its own to vLLM, so that one can be cancelled alone, its seed is ours,
and several greedy ones are possible, which vLLM's own `n` refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vllm.v1.engine.exceptions import EngineDeadError

from tokenwire_worker.engines.carrying import begun_bans, fields_with_state
from tokenwire_worker.engines.descendants import kill_descendants
from tokenwire_worker.engines.guides.checker import compiler_checker
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
    Refused,
    Step,
    Times,
)
from tokenwire_worker.engines.text import told
from tokenwire_worker.engines.vllm import async_llm, params
from tokenwire_worker.engines.vllm.kv_events import KvEventReader
from tokenwire_worker.engines.vllm.lora import LiveAdapters
from tokenwire_worker.engines.vllm.transfers import packed

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

WATCH_INTERVAL_S = 0.5
"""Between looks at whether an idle engine still lives; a busy one tells at once."""

STOP_S = 10.0
"""Time that the engine's process has to end before it is killed."""

_FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "abort": Finish.CANCELLED}


@dataclass(slots=True, eq=False)
class _Sequence:
    """One sequence: a request of its own to vLLM."""

    key: int
    number: int
    generation: Generation
    fresh: bool = True
    """Nothing has come of it yet."""
    cancelled: bool = False
    turn: asyncio.Event | None = None
    """What it waits for before vLLM hears of it: the first sequence's log probabilities of the
    prompt, which come before any tokens, or its own cancel."""
    task: asyncio.Task[None] | None = None

    @property
    def request_id(self) -> str:
        return f"{self.key}-{self.number}"


class VllmEngine:
    """Runs generations on an AsyncLLM. What has no comment of its own runs on the engine's loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Starts the thread and loads the model, for as long as that takes."""
        self._listener: EngineListener | None = None
        self._live: dict[int, list[_Sequence]] = {}
        """Sequences that have not ended, by the generation's number."""
        self._outputs: list[Output] = []
        self._aborts: list[str] = []
        self._step_began_s = time.monotonic()
        self._load = EngineLoad(0, 0.0)
        self._progress = 0
        self._death: str | None = None
        self._closed = False
        self._kv_events = KvEventReader()
        self._thread = LoopThread()
        starting = async_llm.start(settings, self._kv_events.endpoint, self._on_engine_step)
        try:
            self._started: async_llm.Started = self._thread.run(starting)
        except Exception:
            self._end_thread()
            raise
        self._llm = self._started.llm
        self.lora = LiveAdapters(self._started.adapters, self._thread)
        """Loads and unloads LoRA adapters."""
        self._guides = compiler_checker(settings.text_folder, self.info.vocabulary_size)

    @property
    def info(self) -> EngineInfo:
        """What the engine serves, and its bounds. From any thread."""
        return self._started.info

    def start(self, listener: EngineListener) -> None:
        """Has the listener hear of it from now on. From any thread."""
        self._listener = listener
        self._thread.call(self._begin)

    async def check(self, generation: Generation) -> None:
        """Tries the guide of a generation. On any event loop.

        First by a process that may be lost to it, then as vLLM does before it takes a request,
        which has rules of its own.
        """
        guide = generation.guide
        if guide is None:
            return
        await self._guides.check(guide)
        await asyncio.to_thread(self._verify, generation, guide)

    def _verify(self, generation: Generation, guide: Guide) -> None:
        config = self._llm.vllm_config
        try:
            params.sampling_params(generation, 0, self._started.guide_stops).verify(
                config.model_config,
                config.speculative_config,
                config.structured_outputs_config,
                self._llm.get_tokenizer(),
            )
        except Exception as error:  # each grammar compiler has errors of its own
            raise Refused(guide.form.value, told(error)) from error

    def not_carried(self, generation: Generation) -> Sequence[str]:
        """Returns what keeps the engine from going on with a generation exactly. From any thread.

        vLLM's repetition penalty counts the prompt too. The other two count the tokens that it has
        generated itself, among which it also looks for banned sequences.
        """
        counting = ("presence_penalty", "frequency_penalty")
        return [*fields_with_state(generation, counting), *begun_bans(generation)]

    def submit(self, key: int, generation: Generation) -> None:
        """Takes a generation under a number not in use. From any thread."""
        self._thread.call(self._add, key, generation)

    def cancel(self, key: int, sequence: int | None = None) -> None:
        """Stops a generation, or one sequence of it. From any thread."""
        self._thread.call(self._cancel, key, sequence)

    def load(self) -> EngineLoad:
        """Tells how busy the engine is, from what it last saw. From any thread."""
        return self._load

    def progress(self) -> int:
        """Returns how many iterations the engine has told of. From any thread.

        vLLM tells of each, also of those that only prefill a part of a prompt.
        """
        return self._progress

    def kill(self) -> None:
        """Ends the engine's processes at once. From any thread."""
        kill_descendants(os.getpid())

    def close(self) -> None:
        """Ends the engine's process and thread; what is held ends as cancelled. Any thread."""
        if not self._closed:
            self._closed = True
            self._guides.close()
            self._thread.run(self._stop())
            self._end_thread()

    def _end_thread(self) -> None:
        self._thread.close()
        self._kv_events.close()

    async def _stop(self) -> None:
        tasks = []
        for sequence in [each for group in self._live.values() for each in group]:
            self._end(sequence, Output(sequence.key, sequence.number, [], Finish.CANCELLED))
            if sequence.task is not None:
                sequence.task.cancel()
                tasks.append(sequence.task)
        self._flush()
        if tasks:
            await asyncio.wait(tasks)  # vLLM hears of each while it still can
        self._llm.shutdown(timeout=STOP_S)

    # --- the engine's life -----------------------------------------------------------------------

    def _begin(self) -> None:
        self._watch()
        if Ability.KV_EVENTS in self.info.abilities:
            events = self._kv_events.run(self.info.kv_block_tokens, self._on_kv_events)
            self._thread.scope.start(events)

    def _watch(self) -> None:
        if self._llm.errored:
            self._die("vLLM's engine process ended")
        else:
            self._thread.later(WATCH_INTERVAL_S, self._watch)

    def _die(self, reason: str) -> None:
        if self._death is None and not self._closed:
            self._death = reason
            self._live.clear()
            if self._listener is not None:
                self._listener.on_death(reason)

    def _on_kv_events(self, events: Sequence[KvEvent]) -> None:
        if self._listener is not None:
            self._listener.on_kv_events(events)

    # --- sequences -------------------------------------------------------------------------------

    def _add(self, key: int, generation: Generation) -> None:
        if not (self._live or self._outputs):  # it was idle
            self._step_began_s = time.monotonic()
        sequences = [
            _Sequence(key, number, generation) for number in range(generation.sequence_count)
        ]
        if generation.prompt_logprobs is not None:
            for sequence in sequences[1:]:
                sequence.turn = asyncio.Event()
        self._live[key] = sequences
        for sequence in sequences:
            sequence.task = self._thread.scope.start(
                self._generate(sequence), on_fault=partial(self._on_fault, sequence)
            )

    async def _generate(self, sequence: _Sequence) -> None:
        """Runs one sequence. Its loop is the hot path: once for each sequence and step."""
        generation = sequence.generation
        try:
            if sequence.turn is not None:
                await sequence.turn.wait()
            if sequence.cancelled:  # before vLLM has heard of it
                self._end(sequence, Output(sequence.key, sequence.number, [], Finish.CANCELLED))
                self._thread.soon(self._flush)
                return
            outputs = self._llm.generate(
                params.prompt(generation),
                self._sampling_params(sequence),
                sequence.request_id,
                lora_request=self._started.adapters.request(generation.lora_adapter),
                trace_headers=dict(generation.trace_headers) if self._started.traced else None,
                priority=-generation.priority,  # vLLM has the lowest go first
            )
            take = self._take_prefilled if generation.prefill_only else self._take
            async for output in outputs:
                take(sequence, output)
        except EngineDeadError as error:
            self._die(told(error.__cause__ or error))
        except Exception as error:  # noqa: BLE001 - vLLM goes on after what it refuses here
            self._fail(sequence, told(error))

    def _sampling_params(self, sequence: _Sequence) -> Any:
        generation = sequence.generation
        if generation.prefill_only:
            return params.prefill_params()
        return params.sampling_params(generation, sequence.number, self._started.guide_stops)

    def _on_fault(self, sequence: _Sequence, error: Exception) -> None:
        self._fail(sequence, told(error))

    def _take(self, sequence: _Sequence, result: Any) -> None:
        """Takes what one step brought to one sequence."""
        completion = result.outputs[0]
        ids, reason = completion.token_ids, completion.finish_reason
        output = Output(sequence.key, sequence.number, ids)
        if sequence.fresh:
            sequence.fresh = False
            output.cached_prompt_tokens = result.num_cached_tokens
            if sequence.generation.transfer_handle:
                # vLLM tells one number of what it has read and of what it had.
                output.fetched_prompt_tokens = result.num_cached_tokens
                output.cached_prompt_tokens = 0
            output.started_s = _started_s(result.metrics, sequence.generation)
            if result.prompt_logprobs:
                output.prompt_logprobs = params.prompt_logprobs(
                    sequence.generation, result.prompt_logprobs
                )
            self._let_others_begin(sequence)
        if ids and completion.logprobs is not None:
            top = sequence.generation.top_logprobs
            output.logprobs = params.token_logprobs(ids, completion.logprobs, top)
        if reason is None:
            self._outputs.append(output)
        elif reason in _FINISHES:
            output.finish = _FINISHES[reason]
            output.times = _times(result.metrics, sequence.generation)
            self._end(sequence, output)
            if output.finish is Finish.CANCELLED:  # comes of no engine step
                self._thread.soon(self._flush)
        else:
            self._fail(sequence, f"vLLM ended it with {reason!r}")

    def _take_prefilled(self, sequence: _Sequence, result: Any) -> None:
        """Takes the end of a prompt that was computed alone, without the token that it has."""
        reason = result.outputs[0].finish_reason
        if reason is None:
            return
        if reason not in _FINISHES:
            self._fail(sequence, f"vLLM ended it with {reason!r}")
            return
        output = Output(sequence.key, sequence.number, [], _FINISHES[reason])
        output.cached_prompt_tokens = result.num_cached_tokens
        output.started_s = _started_s(result.metrics, sequence.generation)
        if output.finish is Finish.LENGTH:
            output.transfer_handle = packed(sequence.generation, result.kv_transfer_params)
        self._end(sequence, output)
        if output.finish is Finish.CANCELLED:  # comes of no engine step
            self._thread.soon(self._flush)

    def _end(self, sequence: _Sequence, output: Output) -> None:
        """Hands out the last of a sequence, unless its generation has been given up."""
        siblings = self._live.get(sequence.key)
        if siblings is None or sequence not in siblings:
            return
        siblings.remove(sequence)
        self._let_others_begin(sequence)
        if not siblings:
            del self._live[sequence.key]
        self._outputs.append(output)

    def _let_others_begin(self, first: _Sequence) -> None:
        for sequence in self._live.get(first.key, ()):
            if sequence.turn is not None and not first.number:
                sequence.turn.set()

    def _fail(self, sequence: _Sequence, reason: str) -> None:
        """Gives up a generation of which one sequence failed."""
        siblings = self._live.pop(sequence.key, None)
        if siblings is None:
            return
        self._outputs.append(Output(sequence.key, sequence.number, [], error=reason))
        self._abort(each for each in siblings if each is not sequence)
        self._thread.soon(self._flush)

    def _cancel(self, key: int, number: int | None) -> None:
        self._abort(each for each in self._live.get(key, ()) if number in (None, each.number))

    def _abort(self, sequences: Any) -> None:
        """Has vLLM drop sequences; all of one turn of the loop go in one message."""
        for sequence in sequences:
            if not sequence.cancelled:
                sequence.cancelled = True
                if sequence.turn is not None:
                    sequence.turn.set()
                if not self._aborts:
                    self._thread.scope.start(self._send_aborts())
                self._aborts.append(sequence.request_id)

    async def _send_aborts(self) -> None:
        request_ids, self._aborts = self._aborts, []
        with contextlib.suppress(EngineDeadError):
            await self._llm.abort(request_ids)

    # --- steps -----------------------------------------------------------------------------------

    def _on_engine_step(self, stats: Any) -> None:
        """Hears of each engine step after its outputs were handed to the tasks that wait for them.

        Those tasks run in the loop's next turn, and the flush, being last in line, behind them all:
        what one engine step brought is one Step.
        """
        self._progress += 1
        if stats is not None:
            self._load = EngineLoad(stats.num_running_reqs, stats.kv_cache_usage)
        self._thread.soon(self._flush, bool(self._live))

    def _flush(self, stepped: bool = False) -> None:
        """Hands over what has gathered as one Step.

        Args:
            stepped: there was an engine step with something to do; it may have brought nothing, as
                while a long prompt is prefilled.
        """
        if not self._live:
            # vLLM tells nothing of a last request that was aborted; what is left is cache.
            self._load = EngineLoad(0, 0.0)
        if self._listener is None or not (self._outputs or stepped):
            return
        step = Step(self._outputs, began_s=self._step_began_s)
        self._outputs = []
        self._step_began_s = time.monotonic()
        self._listener.on_step(step)


def _started_s(metrics: Any, generation: Generation) -> float | None:
    """Returns when vLLM took a sequence up; its clock is the host's monotonic one.

    One whose prompt is fetched is scheduled once that is there, and waits for it until then.
    """
    if metrics is None or not metrics.scheduled_ts:
        return None
    fetches = generation.transfer_handle and metrics.queued_ts
    started_s: float = metrics.queued_ts if fetches else metrics.scheduled_ts
    return started_s


def _times(metrics: Any, generation: Generation) -> Times | None:
    """Returns the engine process's times of a sequence."""
    started_s = _started_s(metrics, generation)
    if started_s is None or not metrics.last_token_ts:
        return None
    return Times(started_s, metrics.first_token_ts, metrics.last_token_ts)
