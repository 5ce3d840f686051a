"""One Exchange stream: many generations in, one message for each engine step out.

A handle names one generation from its Submit until its Completed or Failure has been sent. A Submit
under a handle that is still live ends both generations with one Failure: whatever the caller meant,
after that message it and the worker agree again that the handle is free, and no late token of the
first can be taken for one of the second. No command ends the stream, and an exception that one
meets ends that one generation. Bytes that are no command end it, a message of more commands than
one may have, and a caller that does not read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator
from typing import Any

import grpc
import structlog
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.errors import ServiceError, invalid
from tokenwire_service.limits import MESSAGE_COMMANDS
from tokenwire_service.tasks import Scope
from tokenwire_service.telemetry import tracing

from tokenwire_worker import errors
from tokenwire_worker.core.frame import Frame
from tokenwire_worker.core.generations import Completion, Ending
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.edge import from_proto, to_proto
from tokenwire_worker.edge.outbox import Outbox
from tokenwire_worker.edge.submission import Submission
from tokenwire_worker.engines.port import PromptLogprobs, TokenLogprob
from tokenwire_worker.generation_record import Recorder

TURN_S = 0.005
"""Time that the commands of one message may take of one turn of the event loop."""

log = structlog.get_logger()


class ExchangeStream:
    """Runs one stream: a task that reads, a task that writes, and the generations between them."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        recorder: Recorder,
        context: Any,
        move_after_s: float | None = None,
    ) -> None:
        """Takes a call's context; `run` does the rest.

        `move_after_s` is the age at which the caller is asked to open another stream.
        """
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._context = context
        self._outbox = Outbox(context.write, self._messages, self._is_over)
        self._keys: dict[int, int] = {}
        """Dispatcher's number of each live handle."""
        self._tries: dict[int, Submission] = {}
        """Guided generations, by handle, whose form the engine is trying."""
        self._scope = Scope("exchange")
        self._half_closed = False
        self._move_after_s = move_after_s

    async def run(self) -> None:
        """Serves the stream until the caller has closed it and everything has ended.

        When the call is cancelled or the peer vanishes, everything that it carried is cancelled.

        Raises:
            ServiceError: the caller does not read, or has sent too many commands in one message.
        """
        try:
            async with self._scope as scope:
                scope.start(self._read(), on_fault=self._outbox.end_with)
                scope.start(self._wait_for_the_end(), on_fault=self._outbox.end_with)
                if self._move_after_s is not None:
                    scope.start(self._ask_to_move(self._move_after_s))
                await self._outbox.run(scope)
        finally:
            for key in list(self._keys.values()):
                self._dispatcher.abandon(key)

    async def _wait_for_the_end(self) -> None:
        """Tells those that wait for the engine's word on a guide that nothing more will come."""
        await self._dispatcher.over.wait()
        for submission in list(self._tries.values()):
            self._drop_try(submission.handle)
            self._refuse(submission, self._dispatcher.closing_error())
        self._outbox.news.set()

    async def _ask_to_move(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self._outbox.add_apart(pb.ExchangeResponse(move=True))

    def _is_over(self) -> bool:
        left = self._keys or self._tries
        return not left and (self._half_closed or self._dispatcher.over.is_set())

    # --- commands --------------------------------------------------------------------------------

    async def _read(self) -> None:
        while (message := await self._context.read()) is not grpc.aio.EOF:
            if refusal := _beyond_count(message):
                self._outbox.end_with(refusal)
                return
            turn_over_s = time.monotonic() + TURN_S
            for command in _commands(message):
                if isinstance(command, pb.Submit):
                    await self._on_submit(Submission(command))
                else:
                    self._on_cancel(command.handle, from_proto.cancelled_sequences(command))
                await self._outbox.room()
                if time.monotonic() >= turn_over_s:
                    await asyncio.sleep(0)
                    turn_over_s = time.monotonic() + TURN_S
        self._half_closed = True
        self._outbox.news.set()

    async def _on_submit(self, submission: Submission) -> None:
        if self._is_live(submission.handle):
            self._on_duplicate(submission.handle)
            return
        try:
            await submission.read(self._dispatcher)
            if submission.generation.guide is None:
                self._submit(submission)
            else:
                self._tries[submission.handle] = submission
                submission.trial = self._scope.start(
                    self._try(submission), on_fault=lambda error: self._give_up(submission, error)
                )
        except Exception as error:  # noqa: BLE001 - it is this one generation's
            self._refuse(submission, error)

    def _submit(self, submission: Submission, *, cancelled: bool = False) -> None:
        handle = submission.handle
        # The events of `submit` itself come before its return, so the handle may be free by then.
        self._keys[handle] = _UNKNOWN
        key = submission.submit(self._dispatcher, self, cancelled=cancelled)
        if handle in self._keys:
            self._keys[handle] = key
            if submission.cancelled:
                self._dispatcher.cancel(key, submission.cancelled)

    async def _try(self, submission: Submission) -> None:
        try:
            await submission.try_guide(self._dispatcher)
            del self._tries[submission.handle]
            self._submit(submission)
        except Exception as error:  # noqa: BLE001 - it is this one generation's
            self._give_up(submission, error)

    def _give_up(self, submission: Submission, error: Exception) -> None:
        self._tries.pop(submission.handle, None)
        self._refuse(submission, error)

    def _drop_try(self, handle: int) -> None:
        submission = self._tries.pop(handle)
        if submission.trial is not None:
            submission.trial.cancel()

    def _refuse(self, submission: Submission, error: Exception) -> None:
        self.failed(submission.handle, submission.refuse(self._recorder, error))

    def _on_cancel(self, handle: int, sequences: Collection[int]) -> None:
        submission = self._tries.get(handle)
        if submission is None:
            self._dispatcher.cancel(self._keys.get(handle, _UNKNOWN), sequences)
        elif submission.cancel(sequences):
            # Nobody waits for the engine's word any more.
            self._drop_try(handle)
            try:
                self._submit(submission, cancelled=True)
            except Exception as error:  # noqa: BLE001 - it is this one generation's
                self._refuse(submission, error)

    def _is_live(self, handle: int) -> bool:
        # One that has ended is live until the caller is being told.
        return handle in self._keys or handle in self._tries or handle in self._outbox.frame.ended

    def _on_duplicate(self, handle: int) -> None:
        if handle in self._tries:
            self._drop_try(handle)
        if handle in self._keys:
            self._dispatcher.abandon(self._keys[handle])
        self.failed(handle, errors.duplicate_handle(handle))

    # --- events of the generations ---------------------------------------------------------------

    def accepted(self, handle: int, _request_id: str) -> None:
        """Takes an acceptance into the next frame."""
        self._outbox.add_accepted(handle)

    def prompt_logprobs(self, handle: int, logprobs: PromptLogprobs) -> None:
        """Takes log probabilities of a prompt into the next frame."""
        self._outbox.add_prompt_logprobs(handle, logprobs)

    def columns(
        self, handles: list[int], sequences: list[int], counts: list[int], token_ids: list[int]
    ) -> None:
        """Takes tokens of many into the next frame."""
        self._outbox.frame.add_columns(handles, sequences, counts, token_ids)
        self._outbox.news.set()

    def tokens(
        self, handle: int, sequence: int, token_ids: list[int], logprobs: list[TokenLogprob] | None
    ) -> None:
        """Takes tokens into the next frame."""
        self._outbox.frame.add_tokens(handle, sequence, token_ids, logprobs)
        self._outbox.news.set()

    def ended(self, handle: int, sequence: int, ending: Ending) -> None:
        """Takes the end of a sequence into the next frame."""
        self._outbox.frame.add_ending(handle, sequence, ending)
        self._outbox.news.set()

    def completed(self, handle: int, completion: Completion) -> None:
        """Takes the end of a generation into the next frame."""
        self._keys.pop(handle, None)
        self._outbox.frame.add_completion(handle, completion)
        self._outbox.news.set()

    def failed(self, handle: int, error: ServiceError) -> None:
        """Takes a refusal or failure into the next frame."""
        self._keys.pop(handle, None)
        self._outbox.frame.add_failure(handle, error)
        self._outbox.news.set()

    # --- responses -------------------------------------------------------------------------------

    def _messages(self, part: Frame) -> Iterator[pb.ExchangeResponse]:
        """Yields the message of a part; where the engine brought what none can hold, without that.

        A generation with such output fails; the others of the part go on.
        """
        try:
            yield to_proto.exchange_response(part)
        except Exception:  # noqa: BLE001 - an engine may bring anything
            for handle, own in part.of_each_handle():
                try:
                    yield to_proto.exchange_response(own)
                except Exception as error:  # noqa: BLE001 - likewise
                    self._fail_unsendable(handle, error)

    def _fail_unsendable(self, handle: int, error: Exception) -> None:
        key = self._keys.get(handle)
        if key is not None:
            self._dispatcher.fault(key, error)
        else:  # it has ended already, but its caller was never told
            trace_id = tracing.current_trace_id()
            log.error("generation_fault", handle=handle, trace_id=trace_id, exc_info=error)
            self.failed(handle, errors.internal_fault(error, trace_id))


_UNKNOWN = -1
"""Stands for a number that is not known yet; the dispatcher passes it over."""


def _beyond_count(message: pb.ExchangeRequest) -> ServiceError | None:
    """Returns the refusal of a message that has more commands than one may."""
    for name in ("submits", "cancels"):
        given = len(getattr(message, name))
        if given > MESSAGE_COMMANDS:
            return invalid(name, f"has {given}; at most {MESSAGE_COMMANDS} in one message")
    return None


def _commands(message: pb.ExchangeRequest) -> Iterator[pb.Submit | pb.Cancel]:
    """Yields the commands of a message in the contract's order."""
    single = message.WhichOneof("command")
    if single is not None:
        yield getattr(message, single)
    elif not message.submits and not message.cancels:
        # There is no handle to answer to; a later contract may have commands that this worker does
        # not know.
        log.info("unknown_command")
    yield from message.submits
    yield from message.cancels
