"""The generations on one Exchange stream: commands go out, and frames become calls of receivers.

A frame can harm no more than the generations that it names. What a worker must not send of a
generation ends that generation as WORKER_PROTOCOL, and an exception of a receiver ends that
receiver's as INTERNAL_FAULT. What belongs to no generation is one line of the log.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial

import structlog
from tokenwire.worker.v1 import execution_pb2
from tokenwire_service.errors import Code, ServiceError
from tokenwire_service.status import UNKNOWN

from tokenwire_frontend import errors
from tokenwire_frontend.core.call_order import CallOrder, Handles
from tokenwire_frontend.core.fast_path import Inlet, take_tokens
from tokenwire_frontend.core.link_state import AwakeClock
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.core.logprobs import TokenLogprob
from tokenwire_frontend.workers import messages
from tokenwire_frontend.workers.columns import PIECE, Columns, pieces
from tokenwire_frontend.workers.complaints import Complaints
from tokenwire_frontend.workers.messages import WorkerInfo
from tokenwire_frontend.workers.outgoing import Outgoing
from tokenwire_frontend.workers.receiver import Receiver

NO_LIMIT = 2**32
"""Tokens where none are asked for: what is left of the context, which is always less."""

log = structlog.get_logger()


class _Call:
    """One generation at the worker, from its submission until the worker says that it is over."""

    __slots__ = ("cancelled", "handle", "order", "receiver", "trace_id")

    def __init__(self, handle: int, receiver: Receiver, order: CallOrder, trace_id: str) -> None:
        self.handle = handle
        self.receiver: Receiver | None = receiver
        """None once nobody is to hear of it any more: the worker still holds the handle."""
        self.order = order
        self.trace_id = trace_id
        self.cancelled: set[int | None] = set()
        """Sequences that the worker was told to cancel; None among them: all."""


class Exchange:
    """One stream's generations.

    Args:
        worker: address of the worker, for errors and the log.
        info: what the worker says of itself.
        outgoing: takes the commands.
        handles: gives the numbers; the link's own, so that none is taken up again after a
            reconnect.
        clock: what waits are counted on.
    """

    def __init__(
        self,
        worker: str,
        info: WorkerInfo,
        outgoing: Outgoing,
        handles: Handles,
        clock: AwakeClock,
    ) -> None:
        self.unreported = 0
        """Requests submitted, less those ended, since the last load report."""
        self.moves = False
        """The worker has asked for another connection."""
        self._worker = worker
        self._vocabulary_size = info.limits.vocabulary_size
        self._handles = handles
        self._clock = clock
        self._outgoing = outgoing
        self._complain = Complaints(worker)
        self._calls: dict[int, _Call] = {}
        # Where tokens go of which only a few things have to be looked at: of accepted generations
        # with a receiver and without log probabilities, those that have one sequence, open, and
        # all.
        self._inlets: dict[int, Inlet] = {}
        self._heard: dict[int, tuple[Receiver, CallOrder]] = {}
        self._owed: dict[int, float] = {}
        """Generations that the worker owes a word of, and the clock since when, oldest first: a new
        one whether it is accepted, one that has ended or was cancelled that it is complete."""

    def __len__(self) -> int:
        """Generations that the worker holds."""
        return len(self._calls)

    def submit(self, request: execution_pb2.Request, receiver: Receiver) -> int:
        """Sends a generation; the receiver hears of it from now on. Returns its handle.

        Raises:
            ServiceError: it is too large, or the worker does not read.
        """
        handle = self._handles.take(self._calls)
        self._outgoing.submit(handle, request)
        sequences = max(request.sequence_count, 1)
        most_tokens = sequences * (request.stopping.max_tokens or NO_LIMIT)
        if request.prefill_only:
            most_tokens = 0
        order = CallOrder(
            sequences,
            self._vocabulary_size,
            logprobs=request.logprobs,
            most_tokens=most_tokens - len(request.output_so_far),
            top_logprobs=request.top_logprobs,
            prompt_tokens=(
                len(request.prompt_token_ids) if request.HasField("prompt_logprobs") else 0
            ),
            prompt_logprobs=request.prompt_logprobs,
        )
        trace_id = messages.trace_id(request)
        self._calls[handle] = _Call(handle, receiver, order, trace_id)
        self._owe(handle)
        self.unreported += 1
        return handle

    def cancel(self, handle: int, sequence: int | None = None) -> None:
        """Cancels a generation or one of its sequences; on_ending and on_completed still come."""
        call = self._calls.get(handle)
        if call is None or not call.cancelled.isdisjoint((None, sequence)):
            return
        call.cancelled.add(sequence)
        if sequence is None:
            self._owe(handle)
        self._outgoing.cancel(handle, sequence)

    def detach(self, handle: int) -> None:
        """Cancels a generation whose receiver is to hear nothing more."""
        self.cancel(handle)
        if call := self._calls.get(handle):
            self._release(call)

    def commands(self) -> AsyncIterator[bytes]:
        """Yields the messages to send."""
        return self._outgoing.messages()

    def expire(self, limit_s: float) -> None:
        """Gives up what the worker has owed a word of for so long."""
        while self._owed:
            handle, since_s = next(iter(self._owed.items()))
            if self._clock.now_s - since_s < limit_s:
                return
            del self._owed[handle]
            call = self._calls[handle]
            was_cancelled = None in call.cancelled
            self._fail(call, errors.worker_silent(self._worker, limit_s))  # and cancel it
            if was_cancelled:
                self._complain("no end of a generation", handle=handle, trace_id=call.trace_id)
                del self._calls[handle]

    def fail_unaccepted(self, error: Callable[[], ServiceError]) -> None:
        """Fails what the worker has neither accepted nor refused yet."""
        for call in [self._calls[handle] for handle in self._owed]:
            if not call.order.accepted:
                self._fail(call, error())

    def fail_all(self, error: Callable[[], ServiceError]) -> None:
        """Fails everything: the stream is over."""
        calls, self._calls = self._calls, {}
        self._owed.clear()
        for call in calls.values():
            self._fail(call, error())

    def deliver(self, frame: execution_pb2.ExchangeResponse) -> Iterator[None]:
        """Hands one frame to the receivers. The per-token path of the whole frontend.

        Yields wherever others may run: they find each generation as the part of the frame so far
        has left it.
        """
        came_s = time.monotonic()
        # A frame has few of its fields, and each look at one costs as much as a token.
        fields = {field.name: value for field, value in frame.ListFields()}
        if "accepted" in fields:
            yield from pieces(fields["accepted"], self._take_acceptance)
        for message in fields.get("prompt_logprobs", ()):
            yield from self._take_prompt_logprobs(message)
            yield
        if "counts" in fields or "sequences" in fields or "logprobs" in fields:
            yield from self._take_columns(frame, came_s)
        elif "handles" in fields or "token_ids" in fields:
            yield from self._take_tokens(frame.handles, frame.token_ids, came_s)
        if "endings" in fields:
            yield from pieces(fields["endings"], self._take_ending)
        if "completions" in fields:
            yield from pieces(fields["completions"], self._take_completion)
        if "failures" in fields:
            yield from pieces(fields["failures"], self._take_failure)
        if "move" in fields:
            self.moves = True

    def _take_acceptance(self, handle: int) -> None:
        call = self._named(handle, "an acceptance")
        if call is None or call.receiver is None:
            return
        if fault := call.order.accept():
            self._refute(call, fault)
            return
        if None not in call.cancelled:
            self._owed.pop(handle, None)
        if not call.order.prompt_left:
            self._tell(call, partial(self._hear, call, call.receiver))
        if call.receiver is not None:
            self._tell(call, call.receiver.on_accepted)

    def _hear(self, call: _Call, receiver: Receiver) -> None:
        """Lets tokens go the short way."""
        if not call.order.logprobs:
            self._heard[call.handle] = receiver, call.order
            inlet = receiver.inlet(call.order.quota) if len(call.order.open) == 1 else None
            if inlet is not None:
                self._inlets[call.handle] = inlet

    def _take_prompt_logprobs(self, message: execution_pb2.PromptLogprobs) -> Iterator[None]:
        for start in range(0, len(message.tokens) or 1, PIECE):
            call = self._named(message.handle, "log probabilities of a prompt")
            if call is None or call.receiver is None:
                return
            logprobs = messages.token_logprobs(message.tokens[start : start + PIECE])
            if fault := call.order.prompt(message.token_offset + start, logprobs):
                self._refute(call, fault)
                return
            tell = call.receiver.on_prompt_logprobs
            self._tell(call, partial(tell, logprobs))
            if not call.order.prompt_left and call.receiver is not None:
                self._tell(call, partial(self._hear, call, call.receiver))
            yield

    def _take_tokens(
        self, handles: Sequence[int], token_ids: Sequence[int], came_s: float
    ) -> Iterator[None]:
        """One id of the first sequence for each entry: what most steps of an engine are."""
        if len(handles) != len(token_ids):
            yield from self._refute_columns(handles)
            return
        for start in range(0, len(handles), PIECE):
            if start:
                yield
            ids = list(token_ids[start : start + PIECE])
            part = list(handles[start : start + PIECE])
            inlets = self._inlets if max(ids) < self._vocabulary_size else {}
            for place in take_tokens(inlets, part, ids, came_s):
                self._take_entry(part[place], 0, (ids[place],), (), came_s)

    def _take_columns(self, frame: execution_pb2.ExchangeResponse, came_s: float) -> Iterator[None]:
        columns = Columns(frame)
        if not (yield from columns.check()):
            yield from self._refute_columns(frame.handles)
            return
        for window in columns.windows():
            self._take_window(*window, came_s)
            yield

    def _take_window(
        self,
        handles: Sequence[int],
        sequences: Sequence[int],
        counts: Sequence[int],
        token_ids: Sequence[int],
        logprobs: Iterable[Sequence[TokenLogprob]],
        came_s: float,
    ) -> None:
        """Entries of any form; see Columns."""
        sound = max(token_ids, default=0) < self._vocabulary_size and 0 not in counts
        heard = self._heard if sound else {}
        start = 0
        for handle, sequence, size, score in zip(handles, sequences, counts, logprobs):  # noqa: B905 - logprobs may have no end
            ids = token_ids[start : start + size]
            start += size
            try:
                receiver, order = heard[handle]
            except KeyError:
                self._take_entry(handle, sequence, ids, score, came_s)
                continue
            if score or sequence not in order.open or size > order.quota.left:
                self._take_entry(handle, sequence, ids, score, came_s)
                continue
            order.quota.left -= size
            try:
                receiver.on_tokens(sequence, ids, (), came_s)
            except Exception as error:  # noqa: BLE001 - ends this generation alone
                self._fault(self._calls[handle], error)

    def _refute_columns(self, handles: Sequence[int]) -> Iterator[None]:
        """Ends what a frame names whose columns differ in length: whose the ids are is unknown."""
        self._complain("columns of different lengths", entries=len(handles))

        def refute(handle: int) -> None:
            if call := self._named(handle, "tokens"):
                self._refute(call, "is in a frame whose columns have different lengths")

        yield from pieces(handles, refute)

    def _take_entry(
        self,
        handle: int,
        sequence: int,
        ids: Sequence[int],
        logprobs: Sequence[TokenLogprob],
        came_s: float,
    ) -> None:
        call = self._named(handle, "tokens")
        if call is None or call.receiver is None:
            return
        if fault := call.order.tokens(sequence, ids, logprobs):
            self._refute(call, fault)
            return
        try:
            told = logprobs if call.order.logprobs else ()
            call.receiver.on_tokens(sequence, ids, told, came_s)
        except Exception as error:  # noqa: BLE001 - ends this generation alone
            self._fault(call, error)

    def _take_ending(self, message: execution_pb2.SequenceEnding) -> None:
        call = self._named(message.handle, "the end of a sequence")
        if call is None or call.receiver is None:
            return
        ending = message.ending
        stop_token_id = ending.stop_token_id if ending.HasField("stop_token_id") else None
        if fault := call.order.end(message.sequence, stop_token_id):
            self._refute(call, fault)
            return
        finish = messages.FINISHES.get(ending.reason)
        if finish is None:
            self._complain("unknown finish reason", value=ending.reason, trace_id=call.trace_id)
            finish = Finish.UNSPECIFIED
        if not call.order.open:
            self._inlets.pop(message.handle, None)
            self._owe(message.handle)
        on_ending = call.receiver.on_ending
        self._tell(call, lambda: on_ending(message.sequence, finish, stop_token_id))

    def _take_completion(self, message: execution_pb2.GenerationEnd) -> None:
        call = self._ended(message.handle, "a completion")
        if call is None or call.receiver is None:
            return
        if fault := call.order.complete():
            self._refute(call, fault)
            return
        on_completed = call.receiver.on_completed
        self._tell(call, lambda: on_completed(messages.worker_report(message.completed)))
        self._release(call)

    def _take_failure(self, message: execution_pb2.Failure) -> None:
        call = self._ended(message.handle, "a failure")
        if call is None or call.receiver is None:
            return
        try:
            failure = messages.worker_failure(message.status)
        except ValueError as error:
            self._refute(call, f"failed with a status that can't be read ({error})")
            return
        if failure.reason == UNKNOWN:
            code = Code(message.status.code).name
            log.error(
                "worker_failed",
                address=self._worker,
                code=code,
                message=failure.message,
                handle=call.handle,
                trace_id=call.trace_id,
            )
            failure = errors.worker_failed(self._worker, failure, code, call.trace_id)
        self._fail(call, failure)

    def _named(self, handle: int, what: str) -> _Call | None:
        """Returns the generation that a frame names, if it is live."""
        call = self._calls.get(handle)
        if call is None:
            self._complain(f"{what} of no live generation", handle=handle)
        return call

    def _ended(self, handle: int, what: str) -> _Call | None:
        """Returns the generation whose end a frame brings; its handle is free."""
        call = self._named(handle, what)
        if call is not None:
            del self._calls[handle]
            self._owed.pop(handle, None)
            self._deafen(handle)
            self.unreported -= 1
        return call

    def _refute(self, call: _Call, fault: str) -> None:
        """Ends a generation of which the worker sent what it must not."""
        if call.receiver is None:
            return
        log.error(
            "worker_protocol",
            address=self._worker,
            fault=f"the generation {fault}",
            handle=call.handle,
            trace_id=call.trace_id,
        )
        self._fail(call, errors.worker_protocol(self._worker, fault, call.trace_id))

    def _fault(self, call: _Call, error: Exception) -> None:
        """Ends a generation whose receiver has raised."""
        log.error("generation_fault", address=self._worker, trace_id=call.trace_id, exc_info=error)
        self._fail(call, errors.internal_fault(error, call.trace_id))

    def _fail(self, call: _Call, error: ServiceError) -> None:
        """Tells the receiver that the generation has failed; the worker is to end what it has."""
        receiver = call.receiver
        if receiver is None:
            return
        self.detach(call.handle)
        self._release(call)
        try:
            receiver.on_failed(error)
        except Exception:
            log.exception("generation_fault", address=self._worker, trace_id=call.trace_id)

    def _tell(self, call: _Call, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - ends this generation alone
            self._fault(call, error)

    def _release(self, call: _Call) -> None:
        call.receiver = None
        self._deafen(call.handle)

    def _deafen(self, handle: int) -> None:
        """Leaves no way for tokens but that which looks at the generation."""
        self._inlets.pop(handle, None)
        self._heard.pop(handle, None)

    def _owe(self, handle: int) -> None:
        """Begins to wait for the worker's word, or begins anew."""
        self._owed.pop(handle, None)
        self._owed[handle] = self._clock.now_s
