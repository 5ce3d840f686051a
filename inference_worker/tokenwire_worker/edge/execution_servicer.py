"""ExecutionService: runs generations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opentelemetry import context as otel_context
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.errors import ServiceError
from tokenwire_service.tasks import Scope

from tokenwire_worker.core.frame import Frame
from tokenwire_worker.core.generations import Completion, Ending
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.edge import to_proto
from tokenwire_worker.edge.exchange import ExchangeStream
from tokenwire_worker.edge.outbox import Outbox
from tokenwire_worker.edge.submission import Submission
from tokenwire_worker.engines.port import PromptLogprobs, TokenLogprob
from tokenwire_worker.generation_record import Recorder


class ExecutionServicer:
    """Serves ExecutionService from a dispatcher."""

    def __init__(
        self, dispatcher: Dispatcher, recorder: Recorder, move_after_s: float | None = None
    ) -> None:
        """Takes what runs the generations and what writes down those that are refused.

        `move_after_s` is the age at which the caller of an Exchange is asked to open another.
        """
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._move_after_s = move_after_s

    async def Execute(self, message: pb.ExecuteRequest, context: Any) -> None:
        """Runs one generation on one stream."""
        sink = _ExecuteSink(context)
        submission = Submission(message, otel_context.get_current())
        try:
            await submission.read(self._dispatcher)
            if submission.generation.guide is not None:
                await submission.try_guide(self._dispatcher)
            key = submission.submit(self._dispatcher, sink)
        except Exception as error:
            raise submission.refuse(self._recorder, error) from error
        try:
            async with Scope("execute") as scope:
                await sink.write(scope)
        finally:
            # Passed over where it has ended; a cancelled call or a spent deadline comes here early.
            self._dispatcher.abandon(key)

    async def Exchange(self, _messages: Any, context: Any) -> None:
        """Runs any number of generations on one stream."""
        stream = ExchangeStream(self._dispatcher, self._recorder, context, self._move_after_s)
        await stream.run()


class _ExecuteSink:
    """Gathers one generation's events; steps merge while an earlier message is being written."""

    def __init__(self, context: Any) -> None:
        self._outbox = Outbox(context.write, self._messages, lambda: self._over)
        self._request_id = ""
        self._error: ServiceError | None = None
        self._over = False

    async def write(self, scope: Scope) -> None:
        """Writes events until the generation has ended; raises what it failed with."""
        await self._outbox.run(scope)
        if self._error is not None:
            raise self._error

    def _messages(self, part: Frame) -> Iterator[pb.ExecuteResponse]:
        if part.accepted:
            yield pb.ExecuteResponse(accepted=pb.Accepted(request_id=self._request_id))
        yield from to_proto.execute_responses(part)

    def accepted(self, handle: int, request_id: str) -> None:
        self._request_id = request_id
        self._outbox.frame.add_accepted(handle)
        self._outbox.news.set()

    def prompt_logprobs(self, handle: int, logprobs: PromptLogprobs) -> None:
        """Takes log probabilities of a prompt into the next frame."""
        self._outbox.add_prompt_logprobs(handle, logprobs)

    def columns(
        self, handles: list[int], sequences: list[int], counts: list[int], token_ids: list[int]
    ) -> None:
        self._outbox.frame.add_columns(handles, sequences, counts, token_ids)
        self._outbox.news.set()

    def tokens(
        self, handle: int, sequence: int, token_ids: list[int], logprobs: list[TokenLogprob] | None
    ) -> None:
        self._outbox.frame.add_tokens(handle, sequence, token_ids, logprobs)
        self._outbox.news.set()

    def ended(self, handle: int, sequence: int, ending: Ending) -> None:
        self._outbox.frame.add_ending(handle, sequence, ending)
        self._outbox.news.set()

    def completed(self, handle: int, completion: Completion) -> None:
        self._outbox.frame.add_completion(handle, completion)
        self._over = True
        self._outbox.news.set()

    def failed(self, _handle: int, error: ServiceError) -> None:
        self._error = error
        self._over = True
        self._outbox.news.set()
