"""Results as the real ones hand them over: one object, changed in place at each step."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from tensorrt_llm._classes import RequestError


class AsyncQueue:
    """Filled by the engine's thread, emptied on the event loop it was made on."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.items: deque[Any] = deque()
        self.event = asyncio.Event()

    async def get(self, timeout: float | None = None) -> Any:
        while not self.items:
            self.event.clear()
            if not self.items:
                await asyncio.wait_for(self.event.wait(), timeout)
        return self.items.popleft()


def notify(queues: list[AsyncQueue]) -> None:
    """Wakes the readers of several queues, of one loop, with one call."""

    def wake() -> None:
        for queue in queues:
            queue.event.set()

    if queues and not queues[0].loop.is_closed():
        queues[0].loop.call_soon_threadsafe(wake)


def async_queue() -> AsyncQueue | None:
    """A queue, or None where no event loop runs: what is made then cannot be awaited."""
    try:
        return AsyncQueue()
    except RuntimeError:
        return None


@dataclass(slots=True)
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass
class Response:
    """What one message of the engine says of one sequence."""

    sequence: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] | None = None
    reason: str | None = None
    final: bool = False
    cached_tokens: int = 0
    perf: Any = None
    error: str | None = None
    by_end_id: bool = False
    disaggregated: Any = None


@dataclass(slots=True)
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] | None = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[Any] | None = field(default_factory=list)
    prompt_logprobs: list[Any] | None = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    generation_logits: Any = None
    additional_context_outputs: Any = None
    additional_generation_outputs: Any = None
    disaggregated_params: Any = None
    request_perf_metrics: Any = None
    _last_token_ids_len: int = field(default=0, init=False)

    @property
    def length(self) -> int:
        return len(self.token_ids)

    @property
    def token_ids_diff(self) -> list[int]:
        return self.token_ids[self._last_token_ids_len :]


class RequestOutput:
    """One request: awaitable, and an iterator of itself."""

    def __init__(self, request_id: int, prompt: list[int], params: Any, executor: Any) -> None:
        self._id = request_id
        self.prompt_token_ids = prompt
        self.sampling_params = params
        self.cached_tokens = 0
        self._outputs = [CompletionOutput(index) for index in range(params.best_of)]
        self.aqueue = async_queue()
        self._executor = executor
        self._done = False
        self._aborted = False

    @property
    def request_id(self) -> int:
        return self._id

    @property
    def outputs(self) -> list[CompletionOutput]:
        return self._outputs

    @property
    def finished(self) -> bool:
        return self._done

    def abort(self) -> None:
        assert self._executor is not None, "The executor is not set for this result."
        self._executor.abort_request(self._id)
        self._aborted = True

    def aborted(self) -> bool:
        return self._aborted

    def __aiter__(self) -> RequestOutput:
        return self

    async def __anext__(self) -> RequestOutput:
        if self._done:
            raise StopAsyncIteration
        assert self.aqueue is not None, "The asyncio event loop was not present"
        self._handle(await self.aqueue.get())
        return self

    async def aresult(self) -> RequestOutput:
        async for _ in self:
            pass
        return self

    def __await__(self) -> Any:
        return self.aresult().__await__()

    def _handle(self, response: Response) -> None:
        if response.error is not None:
            raise RequestError(response.error)
        self._done = response.final
        self.cached_tokens = response.cached_tokens
        # Only the sequence that the message is of moves on; the diffs of others are stale.
        output = self.outputs[response.sequence]
        output._last_token_ids_len = len(output.token_ids)
        output.token_ids.extend(response.ids)
        if response.logprobs is not None:
            output.logprobs += response.logprobs
            assert len(output.logprobs) == output.length, "logprobs length != output.length"
        output.disaggregated_params = response.disaggregated
        if response.perf is not None:
            output.request_perf_metrics = response.perf
        if response.reason is not None:
            self._finish(output, response)
        self._executor.raise_background_error()

    def _finish(self, output: CompletionOutput, response: Response) -> None:
        output.finish_reason = response.reason
        if response.reason != "stop" or response.by_end_id:
            return
        for word in self.sampling_params._get_stop_words():
            if output.token_ids[-1:] == word:
                output.stop_reason = word[0]
                if not self.sampling_params.include_stop_str_in_output:
                    output.token_ids = output.token_ids[:-1]
                return


class IterationResult:
    """Statistics or events, until there is a silence; then done until the next request."""

    def __init__(self) -> None:
        self._done = False
        self._timeout: float | None = 2
        self.aqueue = async_queue()

    def set_timeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def mark_undone(self) -> None:
        self._done = False

    def put(self, data: Any) -> None:
        if self.aqueue is not None:
            self.aqueue.items.append(json.dumps(data))
            notify([self.aqueue])

    def __aiter__(self) -> IterationResult:
        return self

    async def __anext__(self) -> Any:
        if self._done:
            raise StopAsyncIteration
        assert self.aqueue is not None, "The asyncio event loop was not present"
        try:
            return json.loads(await self.aqueue.get(self._timeout))
        except TimeoutError:
            self._done = True
            raise StopAsyncIteration from None


async def nothing() -> Any:
    """What statistics are before a request has been submitted."""
    return
    yield


def perf_metrics(arrival_s: float, scheduled_s: float, first_s: float, last_s: float) -> Any:
    """Times of the steady clock, as timedeltas."""
    return SimpleNamespace(
        timing_metrics=SimpleNamespace(
            arrival_time=timedelta(seconds=arrival_s),
            first_scheduled_time=timedelta(seconds=scheduled_s),
            first_token_time=timedelta(seconds=first_s),
            last_token_time=timedelta(seconds=last_s),
            kv_cache_transfer_start=timedelta(),
            kv_cache_transfer_end=timedelta(),
            kv_cache_size=0,
        ),
        first_iter=0,
        last_iter=0,
        iter=0,
    )
