"""Steps the pipeline: openvino_genai.ContinuousBatchingPipeline, in the engine's own process.

Facts that this adapter stands on were found by running openvino-genai 2026.4 and are written where
they matter.

With prefix caching the pipeline finds KV blocks by the ids that they are for, and two things go
wrong with a block that is not full:

- Requests that are added before the same step, and begin alike, are given the same block, and
  write into it while they compute their prompts: only a sequence that already generates gets a
  copy of its own. The longer prompt then has wrong keys and values (seen in 15 of 120 pairs and
  triples). So a prompt is computed only once no other is that begins with the same id.
- A block counts as full as soon as the first of its ids is to be computed. A request that is
  cancelled in the middle of its prompt leaves it so, and later requests are given what was never
  computed (seen after 23 of 30 such cancels). So a prompt that was begun is computed to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from select import select
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as ov_genai

from tokenwire_worker.engines.openvino.config import generation_config
from tokenwire_worker.engines.openvino.forms import Form, Forms
from tokenwire_worker.engines.openvino.messages import (
    Cancel,
    Channel,
    Close,
    Compiling,
    Drain,
    Submit,
)
from tokenwire_worker.engines.openvino.pipeline import Loaded
from tokenwire_worker.engines.port import (
    EngineLoad,
    Finish,
    Generation,
    Output,
    Step,
    TokenLogprob,
)
from tokenwire_worker.engines.text import told

COMPILING_S = 0.25
"""Between two signs of life while forms are compiled: far below any bound on silence."""

_FINISHES = {"STOP": Finish.STOP, "LENGTH": Finish.LENGTH}


@dataclass(slots=True, eq=False)
class _Sequence:
    """One sequence: a request of its own to the pipeline.

    A request of several sequences is not streamed by the pipeline: it is readable when all of them
    have finished.
    """

    key: int
    number: int
    generation: Generation
    stops: frozenset[int]
    left: int
    """Tokens that it may still generate."""
    form: Form | None = None
    """Its guide's, which it waits for."""
    handle: Any = None
    """The pipeline's; None while it waits."""
    begun: bool = False
    """It has a token, so its prompt is computed."""
    cancelled: bool = False
    dropped: bool = False
    """The pipeline was told to drop it, which the next step does."""
    ended: bool = False


class Stepper:
    """Runs generations on a pipeline, as the other end of a channel asks."""

    def __init__(self, loaded: Loaded, channel: Channel, forms: Forms) -> None:
        """Binds to a pipeline, used by nothing else from now on.

        Args:
            loaded: the pipeline.
            channel: where commands come from and steps go.
            forms: compiles what guides need.
        """
        self._loaded = loaded
        self._pipeline = loaded.pipeline
        self._channel = channel
        self._forms = forms
        self._waiting: list[_Sequence] = []
        self._running: list[_Sequence] = []
        self._adapter = ""
        """LoRA adapter that the pipeline applies; to all that it runs."""
        self._requests = 0
        self._load = EngineLoad(0, 0.0)
        self._draining = False

    def run(self) -> None:
        """Steps until told to close, or until the other end is gone.

        Raises:
            Exception: the pipeline failed; it can't be trusted after any of its exceptions.
        """
        while self._obey():
            step = Step()
            if self._waiting:
                self._add_waiting(step)
            if self._running:
                self._pipeline.step()
                self._collect(step)
                self._channel.send_step(step, self._load)
            elif step.outputs:
                self._channel.send_step(step, self._load)
        self._cancel_all()

    def _obey(self) -> bool:
        """Takes over what was asked since the last step; waits for it where there is nothing to do.

        The binding of `step` keeps the GIL, so no thread could do this meanwhile.

        Returns:
            False where it is time to close.
        """
        if self._waiting and not self._running:
            self._wait_for_a_form()
        idle = not (self._running or self._waiting or self._draining)
        while idle or self._channel.waiting():
            idle = False
            command = self._channel.receive()
            if isinstance(command, Submit):
                self._waiting += self._sequences(command)
            elif isinstance(command, Cancel):
                self._cancel(command)
            elif isinstance(command, Drain):
                self._draining = True
            elif command is None or isinstance(command, Close):
                return False
        return bool(self._running or self._waiting) or not self._draining

    def _wait_for_a_form(self) -> None:
        """Waits where nothing can run before a form is there; a command ends the wait."""
        while all(_lacks_its_form(each) and not each.cancelled for each in self._waiting):
            commands, forms = self._channel.fileno(), self._forms.fileno()
            ready, _, _ = select([commands, forms], [], [], COMPILING_S)
            if forms in ready:
                self._forms.clear()
            if commands in ready:
                return
            if not ready:
                self._channel.send(Compiling())

    def _cancel(self, command: Cancel) -> None:
        for sequence in (*self._running, *self._waiting):
            if sequence.key == command.key and command.sequence in (None, sequence.number):
                sequence.cancelled = True
                if sequence.begun or not self._loaded.shares_prompts:
                    _drop_from_pipeline(sequence)

    def _sequences(self, command: Submit) -> list[_Sequence]:
        key, generation = command.key, command.generation
        form: Form | None = None
        if generation.guide is not None:
            form = self._forms.get(generation.guide, heavy=command.heavy_form)
        stops = frozenset(generation.stop_token_ids)
        return [
            _Sequence(key, number, generation, stops, generation.max_tokens, form)
            for number in range(generation.sequence_count)
        ]

    def _add_waiting(self, step: Step) -> None:
        """Gives the pipeline what it can take now.

        It applies one LoRA adapter to everything, so requests for another wait until what runs has
        finished, and later ones behind them: adapters take turns and none starves.

        What begins like a prompt that is being computed waits for that; see the module.
        """
        waiting, self._waiting = self._waiting, []
        turn_over = False
        failed: set[int] = set()
        computed: set[int] = set()  # first ids of the prompts that are being computed
        if self._loaded.shares_prompts:
            computed = {each.generation.prompt[0] for each in self._running if not each.begun}
        for sequence in waiting:
            if sequence.key in failed:
                continue
            if sequence.cancelled:
                step.outputs.append(_cancelled(sequence))
            elif _lacks_its_form(sequence) or sequence.generation.prompt[0] in computed:
                self._waiting.append(sequence)
            elif turn_over or not self._turn_to(sequence.generation.lora_adapter):
                turn_over = True
                self._waiting.append(sequence)
            else:
                fault = self._add(sequence)
                if fault is not None:
                    failed.add(sequence.key)
                    step.outputs.append(Output(sequence.key, sequence.number, [], error=fault))
                    continue
                if self._loaded.shares_prompts:
                    computed.add(sequence.generation.prompt[0])
                if sequence.number == 0:
                    step.started.append(sequence.key)
        for key in failed:
            self._drop(key)

    def _turn_to(self, adapter: str) -> bool:
        """Has the pipeline apply an adapter; returns False while another's requests run."""
        if adapter == self._adapter:
            return True
        if self._running:
            return False
        # The pipeline applies adapters only at the start of generate(), and then keeps them.
        config = ov_genai.GenerationConfig()
        config.max_new_tokens = 1
        chosen = self._loaded.adapters.get(adapter)
        config.adapters = (
            ov_genai.AdapterConfig() if chosen is None else ov_genai.AdapterConfig(chosen, 1.0)
        )
        self._pipeline.generate([_tensor([0])], [config])
        self._adapter = adapter
        return True

    def _add(self, sequence: _Sequence) -> str | None:
        """Adds a sequence to the pipeline; returns what that says where it refuses."""
        if sequence.form is not None and sequence.form.fault is not None:
            return sequence.form.fault
        generation = sequence.generation
        self._requests += 1
        try:
            config = generation_config(generation, sequence.number, self._loaded.draft)
            sequence.handle = self._pipeline.add_request(
                self._requests, _tensor(generation.prompt), config
            )
        except Exception as error:  # noqa: BLE001 - the pipeline goes on after what it refuses here
            return told(error)
        self._running.append(sequence)
        return None

    def _drop(self, key: int) -> None:
        """Forgets a generation of which one sequence was refused."""
        for sequence in self._running:
            if sequence.key == key:
                sequence.handle.cancel()
        self._running = [sequence for sequence in self._running if sequence.key != key]
        self._waiting = [sequence for sequence in self._waiting if sequence.key != key]

    def _collect(self, step: Step) -> None:
        """Reads what the step brought. Its loop is the hot path of this process."""
        outputs, columns = step.outputs, step.columns
        any_ended = False
        for sequence in self._running:
            if sequence.dropped:
                output: Output | None = _cancelled(sequence)
            elif sequence.handle.can_read():
                output = _read(sequence)
            else:
                output = _unreadable(sequence)
            if output is None:
                continue
            if sequence.cancelled and not sequence.dropped:  # its prompt is computed now
                if output.finish is None and output.error is None:
                    _drop_from_pipeline(sequence)
                    continue
                output = _cancelled(sequence)
            if output.finish is not None or output.error is not None:
                sequence.ended = any_ended = True
            elif output.token_ids and output.logprobs is None:
                columns.keys.append(output.key)
                columns.sequences.append(output.sequence)
                columns.counts.append(len(output.token_ids))
                columns.token_ids += output.token_ids
                continue
            outputs.append(output)
        if any_ended:
            self._running = [sequence for sequence in self._running if not sequence.ended]
        usage = self._pipeline.get_metrics().cache_usage / 100 if self._running else 0.0
        self._load = EngineLoad(len(self._running), usage)

    def _cancel_all(self) -> None:
        for sequence in self._running:
            sequence.handle.cancel()
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()  # drops what was cancelled
        held = [*self._running, *self._waiting]
        if held:
            self._channel.send_step(
                Step([_cancelled(sequence) for sequence in held]), EngineLoad(0, 0.0)
            )


def _lacks_its_form(sequence: _Sequence) -> bool:
    return sequence.form is not None and sequence.form.pending()


def _drop_from_pipeline(sequence: _Sequence) -> None:
    if sequence.handle is not None:
        sequence.handle.cancel()
        sequence.dropped = True


def _cancelled(sequence: _Sequence) -> Output:
    return Output(sequence.key, sequence.number, [], Finish.CANCELLED)


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
        # Reading the reason costs as much as all the rest, so it is read only where there may be
        # one; what this should ever miss is found by `_unreadable` after the next step.
        if (
            sequence.left <= len(ids)
            or generation.guide is not None
            or not sequence.stops.isdisjoint(ids)
        ):
            finish = _FINISHES.get(read.finish_reason.name)
    sequence.left -= len(ids)
    sequence.begun = True
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
    # IGNORED: the pipeline drops a sequence that the KV cache cannot hold.
    message = "the KV cache has no room for this generation"
    return Output(sequence.key, sequence.number, [], error=message)


def _tensor(prompt: Sequence[int]) -> Any:
    return ov.Tensor(np.array([prompt], dtype=np.int64))
