"""The engine's process, as a thread: in-flight batching on a paged cache."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tensorrt_llm import _results
from tensorrt_llm._cache import Cache
from tensorrt_llm._classes import DisaggregatedParams
from tensorrt_llm._model import Chooser
from tensorrt_llm._results import IterationResult, Logprob, RequestOutput, Response

STEP_S = float(os.environ.get("STAND_IN_STEP_S", "0.002"))

FATAL_TOKEN = int(os.environ.get("STAND_IN_FATAL_TOKEN", "-1"))
"""A prompt with it ends the engine."""

HANGING_TOKEN = int(os.environ.get("STAND_IN_HANGING_TOKEN", "-1"))
"""A prompt with it has the engine do nothing more, and say that all is well."""


@dataclass
class _Sequence:
    """One sequence of a request: of several, each is a request of its own within the engine."""

    result: RequestOutput
    number: int
    prompt: list[int]
    chooser: Chooser
    max_tokens: int
    arrival_s: float
    salt: str | None
    disaggregated: Any = None
    prefilled: int = 0
    cached: int = 0
    generated: list[int] = field(default_factory=list)
    unsent: list[int] = field(default_factory=list)
    unsent_logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    scheduled_s: float = 0.0
    first_s: float = 0.0
    blocks: int = 0


class Executor:
    """Runs requests; made by LLM."""

    contexts: ClassVar[dict[int, list[int]]] = {}
    """Prompts that engines hold for others, by the context request's id."""

    def __init__(self, args: Any, vocabulary: int, eos: int) -> None:
        self.args = args
        self.cache = Cache(args.kv_cache_config)
        self.doing_shutdown = False
        self.requests: list[dict[str, Any]] = []
        """What each request was submitted with, for tests to look at."""
        self.aborts: list[int] = []
        self._vocabulary, self._eos = vocabulary, eos
        self._waiting: deque[_Sequence] = deque()
        self._active: list[_Sequence] = []
        self._cancelled: set[int] = set()
        self._errors: list[BaseException] = []
        self._changed = threading.Condition()
        self._paused = False
        self._ids = 0
        self._iteration = 0
        self.stats_result: IterationResult | None = None
        self.kv_events_result: IterationResult | None = None
        self._thread = threading.Thread(target=self._run, name="stand-in-engine", daemon=True)
        self._thread.start()

    # --- what LLM calls --------------------------------------------------------------------------

    def submit(self, prompt: list[int], params: Any, further: dict[str, Any]) -> RequestOutput:
        with self._changed:
            self._ids += 1
            self.requests.append({"prompt": prompt, "params": params, **further})
            result = RequestOutput(self._ids, prompt, params, self)
            self._begin_iterations()
            fault = self._fault(prompt, params, further)
            if fault is not None:
                result.aqueue.items.append(Response(error=fault))
                _results.notify([result.aqueue])
                return result
            sampler = getattr(self.args.sampler_type, "value", self.args.sampler_type)
            for number in range(params.best_of):
                chooser = Chooser(prompt, params, self._vocabulary, self._eos, sampler)
                room = self.args.max_seq_len - len(prompt)
                self._waiting.append(
                    _Sequence(
                        *(result, number, prompt, chooser, min(params.max_tokens, room)),
                        *(time.monotonic(), further.get("cache_salt")),
                        further.get("disaggregated"),
                    )
                )
            self._changed.notify_all()
            return result

    def _fault(self, prompt: list[int], params: Any, further: dict[str, Any]) -> str | None:
        if params.max_tokens <= 0:
            return f"max_tokens must be greater than 0, got {params.max_tokens}"
        if len(prompt) >= self.args.max_seq_len:
            return (
                f"default_max_tokens ({self.args.max_seq_len - len(prompt)}) must be greater than 0"
            )
        if any(not 0 <= token < self._vocabulary for token in prompt):
            return "Token ID is out of range"
        asked = further.get("disaggregated")
        fetches = asked is not None and asked.request_type == "generation_only"
        if fetches and self.contexts.pop(asked.ctx_request_id, None) != prompt:
            return "the KV cache of the context request is not there"
        if params.guided_decoding is not None and self.args.guided_decoding_backend is None:
            return "Guided decoding is not enabled"
        return None

    def _begin_iterations(self) -> None:
        if self.stats_result is None:
            self.stats_result, self.kv_events_result = IterationResult(), IterationResult()
        self.stats_result.mark_undone()
        self.kv_events_result.mark_undone()

    def abort_request(self, request_id: int) -> None:
        with self._changed:
            self.aborts.append(request_id)
            self._cancelled.add(request_id)
            self._changed.notify_all()

    def raise_background_error(self) -> None:
        """Raises a fatal error to whoever touches a result, once the engine has shut down."""
        if self._errors:
            error = self._errors.pop(0)
            self.shutdown()
            raise error

    def is_shutdown(self) -> bool:
        return self.doing_shutdown

    def shutdown(self) -> None:
        with self._changed:
            self.doing_shutdown = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)

    # --- what tests call -------------------------------------------------------------------------

    def pause(self) -> None:
        """Has the engine take no further step."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def die(self, error: BaseException) -> None:
        """Ends the engine by a fatal error, which the next touch of a result raises."""
        with self._changed:
            self._errors.append(error)
            touched = [sequence.result.aqueue for sequence in (*self._active, *self._waiting)]
            for queue in touched:
                queue.items.append(Response())
            self._active.clear()
            self._waiting.clear()
            self._paused = True
            _results.notify(touched)

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.doing_shutdown or self._has_work())
                if self.doing_shutdown:
                    return
                self._step()
            time.sleep(STEP_S)  # what a step takes on a GPU

    def _has_work(self) -> bool:
        return not self._paused and bool(self._waiting or self._active)

    def _step(self) -> None:
        self._iteration += 1
        responses = self._drop_cancelled()
        self._admit()
        if any(FATAL_TOKEN in each.prompt for each in self._active):
            self.die(RuntimeError("CUDA error: an illegal memory access was encountered"))
            return
        if any(HANGING_TOKEN in each.prompt for each in self._active):
            self._paused = True
            return
        budget = self.args.max_num_tokens
        for sequence in list(self._active):
            budget -= self._advance(sequence, budget, responses)
            if budget <= 0:
                break
        self._tell_iteration()
        for sequence, response in responses:
            sequence.result.aqueue.items.append(response)
        _results.notify([sequence.result.aqueue for sequence, _ in responses])

    def _drop_cancelled(self) -> list[tuple[_Sequence, Response]]:
        """Ends what was cancelled: what runs says so, what waits goes without a word."""
        self._waiting = deque(
            each for each in self._waiting if each.result.request_id not in self._cancelled
        )
        responses = []
        for sequence in list(self._active):
            request_id = sequence.result.request_id
            if request_id in self._cancelled:
                # The id is dropped with the first, so that only one of several is cancelled.
                self._cancelled.discard(request_id)
                self._leave(sequence)
                final = self._is_last(sequence)
                # Without log probabilities for what had not been sent, as in 1.2.
                responses.append(
                    (sequence, Response(sequence.number, sequence.unsent, [], "cancelled", final))
                )
        return responses

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self.args.max_batch_size:
            head = self._waiting[0]
            blocks = self.cache.blocks_of(len(head.prompt) + head.max_tokens)
            if not self.cache.take(blocks):
                return
            head.blocks = blocks
            head.scheduled_s = time.monotonic()
            head.cached = head.prefilled = self.cache.reusable(head.prompt, head.salt)
            self._active.append(self._waiting.popleft())

    def _advance(
        self, sequence: _Sequence, budget: int, responses: list[tuple[_Sequence, Response]]
    ) -> int:
        """Computes a chunk of a prompt or one token; returns how many tokens that took."""
        left = len(sequence.prompt) - sequence.prefilled
        taken = min(max(left, 1), budget)
        sequence.prefilled += min(left, taken)
        if sequence.prefilled < len(sequence.prompt):
            return taken
        token, ranked = sequence.chooser.next()
        sequence.first_s = sequence.first_s or time.monotonic()
        if self._prefills(sequence):
            self._hand_over(sequence, token, responses)
            return taken
        reason, by_end_id = self._reason(sequence, token)
        # The TRTLLMSampler does not output end_id.
        if not (by_end_id and self.args.sampler_type == "TRTLLMSampler"):
            sequence.unsent.append(token)
            sequence.unsent_logprobs.append(self._logprobs(sequence, token, ranked))
        sequence.generated.append(token)
        if reason or len(sequence.unsent) >= self.args.stream_interval:
            responses.append((sequence, self._response(sequence, reason, by_end_id)))
        return taken

    @staticmethod
    def _prefills(sequence: _Sequence) -> bool:
        asked = sequence.disaggregated
        return asked is not None and asked.request_type == "context_only"

    def _hand_over(
        self, sequence: _Sequence, token: int, responses: list[tuple[_Sequence, Response]]
    ) -> None:
        """Ends a request with its prompt and its first token."""
        number = 1000 + sequence.result.request_id
        self.contexts[number] = sequence.prompt
        self._leave(sequence)
        told = DisaggregatedParams(
            request_type="context_only",
            first_gen_tokens=[token],
            ctx_request_id=number,
            opaque_state=b"\x00where\xff",
        )
        response = Response(sequence.number, [token], reason="not_finished", final=True)
        response.cached_tokens, response.disaggregated = sequence.cached, told
        responses.append((sequence, response))

    def _reason(self, sequence: _Sequence, token: int) -> tuple[str | None, bool]:
        params = sequence.result.sampling_params
        if token == params.end_id:
            return "stop", True
        if len(sequence.generated) + 1 >= sequence.max_tokens:
            return "length", False
        return ("stop", False) if [token] in params._get_stop_words() else (None, False)

    def _logprobs(
        self, sequence: _Sequence, token: int, ranked: list[tuple[int, float]]
    ) -> dict[int, Logprob]:
        shown = sequence.result.sampling_params.logprobs or 0
        if self.args.sampler_type == "TRTLLMSampler":
            return {token: Logprob(dict(ranked)[token], 1)}
        found = {each: Logprob(value, at + 1) for at, (each, value) in enumerate(ranked[:shown])}
        return found | {token: Logprob(dict(ranked)[token], shown + 1)}

    def _response(self, sequence: _Sequence, reason: str | None, by_end_id: bool) -> Response:
        params = sequence.result.sampling_params
        response = Response(sequence.number, sequence.unsent, reason=reason, by_end_id=by_end_id)
        if params.logprobs:
            response.logprobs = sequence.unsent_logprobs
        response.cached_tokens = sequence.cached
        sequence.unsent, sequence.unsent_logprobs = [], []
        if reason is not None:
            self._leave(sequence)
            self.cache.store(sequence.prompt + sequence.generated[:-1], sequence.salt)
            response.final = self._is_last(sequence)
            if self.args.return_perf_metrics:
                times = (sequence.arrival_s, sequence.scheduled_s, sequence.first_s)
                response.perf = _results.perf_metrics(*times, time.monotonic())
        return response

    def _leave(self, sequence: _Sequence) -> None:
        self._active.remove(sequence)
        self.cache.give_back(sequence.blocks)

    def _is_last(self, sequence: _Sequence) -> bool:
        return not any(each.result is sequence.result for each in (*self._active, *self._waiting))

    def _tell_iteration(self) -> None:
        if self.args.enable_iter_perf_stats and self.stats_result is not None:
            self.stats_result.put(
                {
                    "iter": self._iteration,
                    "numActiveRequests": len(self._active),
                    "numQueuedRequests": len(self._waiting),
                    "kvCacheStats": self.cache.statistics(),
                    "specDecodingStats": None,
                }
            )
        for event in self.cache.take_events():
            self.kv_events_result.put(event)
