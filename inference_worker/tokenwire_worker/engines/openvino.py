"""The OpenVINO engine: openvino_genai.ContinuousBatchingPipeline, stepped in a thread of its own.

`step()` releases the GIL for as long as it computes. Facts that this adapter stands on were found
by running openvino-genai 2026.4 and are written where they matter.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from tokenwire_worker.engines import openvino_pipeline
from tokenwire_worker.engines.openvino_config import generation_config
from tokenwire_worker.engines.port import (
    EngineInfo,
    EngineListener,
    EngineLoad,
    Finish,
    Generation,
    Output,
    Step,
    TokenLogprob,
)

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

_FINISHES = {"STOP": Finish.STOP, "LENGTH": Finish.LENGTH}


def check_model(settings: WorkerSettings) -> None:
    """Raises EngineError where the model is not one that this engine can load."""
    openvino_pipeline.check_model(settings)


def build(settings: WorkerSettings) -> OpenVinoEngine:
    """Loads the model; raises EngineError or ModelError where that fails."""
    return OpenVinoEngine(openvino_pipeline.load(settings))


@dataclass(slots=True, eq=False)
class _Sequence:
    """One sequence: a request of its own to the pipeline.

    The pipeline does not stream a request of several sequences, so each is a request; prefix
    caching has them share the prompt's KV blocks.
    """

    key: int
    number: int
    generation: Generation
    handle: Any
    left: int
    """Tokens that it may still generate."""
    stops: frozenset[int]
    cancelled: bool = False
    ended: bool = False


class OpenVinoEngine:
    """Runs generations on a ContinuousBatchingPipeline."""

    def __init__(self, loaded: openvino_pipeline.Loaded) -> None:
        """Takes a loaded pipeline, used by nothing else from now on."""
        self._pipeline = loaded.pipeline
        self._info = loaded.info
        self._draft = loaded.draft
        self._commands: deque[tuple[int, Generation | int | None]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._running: list[_Sequence] = []
        self._requests = 0
        self._load = EngineLoad(0, 0.0)

    @property
    def info(self) -> EngineInfo:
        """What the engine serves, and its bounds."""
        return self._info

    def start(self, listener: EngineListener) -> None:
        """Starts the engine's thread."""
        self._thread = threading.Thread(target=self._run, args=(listener,), name="engine")
        self._thread.start()

    def check(self, generation: Generation) -> None:
        """Tries the guide of a generation."""

    def submit(self, key: int, generation: Generation) -> None:
        """Takes a generation under a number not in use."""
        self._commands.append((key, generation))
        self._wake.set()

    def cancel(self, key: int, sequence: int | None = None) -> None:
        """Stops a generation, or one sequence of it."""
        self._commands.append((key, sequence))
        self._wake.set()

    def load(self) -> EngineLoad:
        """Tells how busy the engine is, from what it last saw."""
        return self._load

    def close(self) -> None:
        """Ends the thread; what is still held ends as cancelled."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    # --- the engine's thread ---------------------------------------------------------------------

    def _run(self, listener: EngineListener) -> None:
        try:
            while not self._closing:
                if not self._running and not self._commands:
                    self._load = EngineLoad(0, 0.0)
                    self._wake.wait()
                self._wake.clear()
                step = Step()
                self._obey(step)
                if self._running:
                    self._pipeline.step()
                    self._collect(step)
                    listener.on_step(step)
                elif step.outputs:
                    listener.on_step(step)
            self._cancel_all(listener)
        except Exception as error:  # noqa: BLE001 - the pipeline cannot be trusted after any of them
            listener.on_death(_first_line(error))

    def _obey(self, step: Step) -> None:
        """Carries out what was asked since the last step."""
        while self._commands:
            key, what = self._commands.popleft()
            if isinstance(what, Generation):
                self._add(key, what, step)
                continue
            for sequence in self._running:
                if sequence.key == key and what in (None, sequence.number):
                    sequence.cancelled = True
                    sequence.handle.cancel()

    def _add(self, key: int, generation: Generation, step: Step) -> None:
        step.started.append(key)
        added: list[_Sequence] = []
        prompt = _tensor(generation.prompt)
        stops = frozenset(generation.stop_token_ids)
        try:
            for number in range(generation.sequence_count):
                config = generation_config(generation, number, self._draft)
                self._requests += 1
                handle = self._pipeline.add_request(self._requests, prompt, config)
                added.append(
                    _Sequence(key, number, generation, handle, generation.max_tokens, stops)
                )
        except Exception as error:  # noqa: BLE001 - the pipeline goes on after what it refuses here
            for sequence in added:
                sequence.handle.cancel()
            step.outputs.append(Output(key, 0, [], error=_first_line(error)))
            return
        self._running += added

    def _collect(self, step: Step) -> None:
        """Reads what the step brought. Its loop is the hot path of this thread."""
        outputs = step.outputs
        any_ended = False
        for sequence in self._running:
            if sequence.cancelled:
                output = Output(sequence.key, sequence.number, [], Finish.CANCELLED)
            elif sequence.handle.can_read():
                output = _read(sequence)
            else:
                unreadable = _unreadable(sequence)
                if unreadable is None:
                    continue
                output = unreadable
            outputs.append(output)
            if output.finish is not None or output.error is not None:
                sequence.ended = any_ended = True
        if any_ended:
            self._running = [sequence for sequence in self._running if not sequence.ended]
        usage = self._pipeline.get_metrics().cache_usage / 100 if self._running else 0.0
        self._load = EngineLoad(len(self._running), usage)

    def _cancel_all(self, listener: EngineListener) -> None:
        step = Step()
        for sequence in self._running:
            sequence.handle.cancel()
            step.outputs.append(Output(sequence.key, sequence.number, [], Finish.CANCELLED))
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()  # drops what was cancelled
        if step.outputs:
            listener.on_step(step)


def _read(sequence: _Sequence) -> Output:
    """Returns what the pipeline has of a sequence."""
    ids: list[int] = []
    values: list[float] = []
    finish = None
    generation = sequence.generation
    for read in sequence.handle.read().values():
        ids += read.generated_ids
        if generation.logprobs:
            values += read.generated_log_probs
        sequence.left -= len(ids)
        # Reading the reason costs as much as all the rest, so it is read only where there may be
        # one; what this should ever miss is found by `_unreadable` in the next step.
        if sequence.left <= 0 or generation.guide is not None or not sequence.stops.isdisjoint(ids):
            finish = _FINISHES.get(read.finish_reason.name)
    logprobs = [TokenLogprob(*pair) for pair in zip(ids, values, strict=True)] if values else None
    return Output(sequence.key, sequence.number, ids, finish, logprobs)


def _unreadable(sequence: _Sequence) -> Output | None:
    """Returns the end of a sequence that brings nothing more, or None while it is only waiting."""
    status = sequence.handle.get_status().name
    if status == "RUNNING":
        return None
    if status == "FINISHED":
        finish = Finish.LENGTH if sequence.left <= 0 else Finish.STOP
        return Output(sequence.key, sequence.number, [], finish)
    # IGNORED: the pipeline drops a sequence when the KV cache cannot hold it.
    return Output(
        sequence.key, sequence.number, [], error="the KV cache has no room for this generation"
    )


def _tensor(prompt: Sequence[int]) -> Any:
    return ov.Tensor(np.array([prompt], dtype=np.int64))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
