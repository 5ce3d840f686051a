"""What a client of either service does, on raw stubs, and what must hold of every answer.

Every stream that is read here is checked against the contract's order: Accepted first and once,
token offsets without a gap, nothing of a sequence after its end, Completed last and once.
"""

from __future__ import annotations

import queue
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from tokenwire.channel_arguments import client, merged
from tokenwire.frontend.v1 import (
    activity_pb2_grpc,
    generation_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    tokenization_pb2,
    tokenization_pb2_grpc,
)
from tokenwire.frontend.v1 import (
    generation_pb2 as fg,
)
from tokenwire.worker.v1 import execution_pb2_grpc, worker_pb2, worker_pb2_grpc

from tests.services.processes import WAIT_S

LONG = 3900
"""Tokens of a generation that would run for many seconds: the model's context less a prompt."""

MS = 1_000_000


def duration(seconds: float) -> duration_pb2.Duration:
    value = duration_pb2.Duration()
    value.FromNanoseconds(round(seconds * 1e9))
    return value


def generation(prompt: Any = "Hello", max_tokens: int | None = 16, **fields: Any) -> fg.Generation:
    """Returns a greedy generation that runs to `max_tokens`; `fields` are the contract's own.

    A prompt is a text, a list of ids, or keyword arguments of Prompt.
    """
    if isinstance(prompt, str):
        prompt = {"text": prompt}
    elif not isinstance(prompt, dict):
        prompt = {"token_ids": {"ids": prompt}}
    stop = {"ignore_eos": True, **fields.pop("stop", {})}
    if max_tokens is not None:
        stop["max_tokens"] = max_tokens
    sampling = fields.pop("sampling", {"temperature": 0.0})
    return fg.Generation(prompt=prompt, stop=stop, sampling=sampling, **fields)


def endless(prompt: Any = "Hello", **fields: Any) -> fg.Generation:
    """Returns a generation that would run for many seconds."""
    return generation(prompt, LONG, **fields)


@dataclass
class Streamed:
    """The events of one streamed generation, checked as they come."""

    accepted: fg.Accepted | None = None
    prompt_logprobs: list[fg.TokenLogprob] = field(default_factory=list)
    deltas: list[fg.Delta] = field(default_factory=list)
    completed: fg.Completed | None = None
    error: status_pb2.Status | None = None
    _counts: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _ended: set[int] = field(default_factory=set)

    def take(self, event: fg.StreamGenerateResponse | fg.SessionEvent) -> None:
        """Takes the next event, and fails where the contract does not allow it here."""
        kind = event.WhichOneof("event")
        assert not self.over, f"{kind} after the end"
        if kind == "accepted":
            assert self.accepted is None, "accepted twice"
            self.accepted = event.accepted
        elif kind == "prompt_logprobs":
            assert not self.deltas, "log probabilities of the prompt after a delta"
            assert event.prompt_logprobs.token_offset == len(self.prompt_logprobs), "a gap"
            self.prompt_logprobs += event.prompt_logprobs.tokens
        elif kind == "delta":
            self._take_delta(event.delta)
        elif kind == "completed":
            assert self.accepted is not None, "completed before it was accepted"
            assert set(self._counts) == self._ended, "completed before each sequence had ended"
            self.completed = event.completed
        else:
            assert kind == "error", f"an event without content: {event}"
            self.error = event.error

    def _take_delta(self, delta: fg.Delta) -> None:
        assert self.accepted is not None, "a delta before it was accepted"
        assert delta.sequence not in self._ended, "a delta after its sequence's end"
        assert delta.token_offset == self._counts[delta.sequence], "a gap or a repeat"
        assert delta.token_ids or delta.text or delta.HasField("end"), "an empty delta"
        self._counts[delta.sequence] += len(delta.token_ids)
        if delta.HasField("end"):
            self._ended.add(delta.sequence)
        self.deltas.append(delta)

    @property
    def over(self) -> bool:
        return self.completed is not None or self.error is not None

    def of(self, sequence: int) -> list[fg.Delta]:
        return [delta for delta in self.deltas if delta.sequence == sequence]

    def text(self, sequence: int = 0) -> str:
        return "".join(delta.text for delta in self.of(sequence))

    def reasoning(self, sequence: int = 0) -> str:
        return "".join(delta.reasoning for delta in self.of(sequence))

    def calls(self, sequence: int = 0) -> list[tuple[str, str, str]]:
        """Returns the calls' ids, names and arguments, checking each fragment's place."""
        ids, names, arguments = {}, {}, {}
        for delta in self.of(sequence):
            for part in delta.tool_calls:
                index = part.index
                if part.name:
                    assert index not in names
                    ids[index], names[index], arguments[index] = part.id, part.name, ""
                assert part.arguments_offset == len(arguments[index].encode())
                arguments[index] += part.arguments
        return [(ids[index], names[index], arguments[index]) for index in sorted(names)]

    def ids(self, sequence: int = 0) -> list[int]:
        return [token for delta in self.of(sequence) for token in delta.token_ids]

    def logprobs(self, sequence: int = 0) -> list[fg.TokenLogprob]:
        return [each for delta in self.of(sequence) for each in delta.logprobs]

    def end(self, sequence: int = 0) -> fg.SequenceEnd:
        return self.of(sequence)[-1].end

    @property
    def reason(self) -> int:
        return self.end().reason


def read(call: Iterable[fg.StreamGenerateResponse]) -> Streamed:
    """Reads a StreamGenerate call to its end."""
    streamed = Streamed()
    for event in call:
        streamed.take(event)
    assert streamed.completed is not None, "the stream ended before Completed"
    return streamed


def read_to_first_token(call: Iterator[fg.StreamGenerateResponse]) -> Streamed:
    """Reads a StreamGenerate call up to its first delta; the rest may be read later."""
    streamed = Streamed()
    while not streamed.deltas:
        streamed.take(next(call))
    return streamed


class SessionEvents:
    """What comes over a Session call, by the number of its generation."""

    def __init__(self) -> None:
        self.messages = 0
        self._streams: dict[int, Streamed] = {}
        self.unowned: list[status_pb2.Status] = []
        """Errors that belong to no generation."""
        self.draining: list[fg.Draining] = []

    def expect(self, number: int) -> None:
        """What comes under the number from now on is another generation's."""
        self._streams[number] = Streamed()

    def __getitem__(self, number: int) -> Streamed:
        return self._streams[number]

    def take(self, response: fg.SessionResponse) -> None:
        assert response.events, "a message without events"
        self.messages += 1
        for event in response.events:
            if event.HasField("draining"):
                assert event.id == 0
                self.draining.append(event.draining)
            elif event.id == 0:
                assert event.WhichOneof("event") == "error"
                self.unowned.append(event.error)
            else:
                self._streams[event.id].take(event)


class SessionCall(SessionEvents):
    """A Session call: commands go out at once; events are read by the caller's own thread."""

    def __init__(self, stub: Any, metadata: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__()
        self._commands: queue.SimpleQueue[fg.SessionRequest | None] = queue.SimpleQueue()
        self.call = stub.Session(iter(self._commands.get, None), timeout=WAIT_S, metadata=metadata)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_sending()
        self.call.cancel()

    def send(self, request: fg.SessionRequest) -> None:
        self._commands.put(request)

    def open(self, number: int, what: fg.Generation, **fields: Any) -> None:
        """Opens a generation; its events gather under its number."""
        self.expect(number)
        self.send(fg.SessionRequest(open=fg.Open(id=number, generation=what, **fields)))

    def cancel(self, number: int) -> None:
        self.send(fg.SessionRequest(cancel=fg.Cancel(id=number)))

    def close_sending(self) -> None:
        self._commands.put(None)

    def read_until(self, done: Callable[[], bool]) -> None:
        """Reads until the condition holds."""
        while not done():
            response = next(self.call, None)
            assert response is not None, "the session ended too early"
            self.take(response)

    def read_to_end(self) -> None:
        """Reads until the server ends the call."""
        for response in self.call:
            self.take(response)

    def finish(self, *numbers: int) -> list[Streamed]:
        """Reads until these generations have ended, and returns them."""
        self.read_until(lambda: all(self[number].over for number in numbers))
        return [self[number] for number in numbers]


@dataclass
class Refusal:
    """A refusal's google.rpc details."""

    code: grpc.StatusCode
    message: str
    info: error_details_pb2.ErrorInfo
    fields: list[str]
    descriptions: list[str]
    retry_after_s: float | None
    quotas: list[str]

    @property
    def reason(self) -> str:
        return self.info.reason


def refusal_of_status(status: status_pb2.Status) -> Refusal:
    """Reads a Status that one of the services made; each kind of detail at most once."""
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, quota = error_details_pb2.RetryInfo(), error_details_pb2.QuotaFailure()
    kinds = [detail.TypeName() for detail in status.details]
    assert len(kinds) == len(set(kinds)), kinds
    for detail in status.details:
        assert any(detail.Unpack(each) for each in (info, bad, retry, quota)), kinds
    codes = {code.value[0]: code for code in grpc.StatusCode}
    return Refusal(
        code=codes[status.code],
        message=status.message,
        info=info,
        fields=[each.field for each in bad.field_violations],
        descriptions=[each.description for each in bad.field_violations],
        retry_after_s=(
            retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
        ),
        quotas=[each.subject for each in quota.violations],
    )


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Reads the Status that came with a failed call; a call that failed without one is a fault."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            assert status.code == error.code().value[0]
            assert status.message == error.details()
            return refusal_of_status(status)
    raise AssertionError(f"no google.rpc details: {error.code()}: {error.details()}")


def refused(make: Callable[[], Any]) -> Refusal:
    """Returns how a call is refused; it is read to its end."""
    try:
        answer = make()
        if isinstance(answer, Iterator):
            list(answer)
    except grpc.RpcError as error:
        return refusal_of(error)
    raise AssertionError(f"was not refused: {answer}")


def status_of_empty(
    channel: grpc.Channel, path: str, metadata: Sequence[tuple[str, str]] = ()
) -> tuple[grpc.StatusCode, str]:
    """Returns how a method of any kind ends that is sent an empty request, and the reason.

    The code is OK where it answers. Blocking, since a grpc.aio call whose request can't be sent any
    more, for it is refused already, ends as INTERNAL by itself.
    """
    call = channel.stream_stream(path)(iter([b""]), metadata=metadata, timeout=WAIT_S)
    try:
        next(call, None)
    except grpc.RpcError as error:
        details = dict(error.trailing_metadata() or ())
        known = "grpc-status-details-bin" in details
        return error.code(), refusal_of(error).reason if known else ""
    finally:
        call.cancel()
    return grpc.StatusCode.OK, ""


def check_draining(refusal: Refusal) -> None:
    """Checks that a service which stops has refused it."""
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "DRAINING"
    assert refusal.info.domain == "tokenwire"
    assert refusal.retry_after_s is not None


SMALL_WINDOW = (("grpc.http2.lookahead_bytes", 4096), ("grpc.http2.bdp_probe", 0))
"""Of a client that takes little on credit: what it does not read stays with the server."""


class Channel:
    """A channel to a service with every stub of it."""

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None = None,
        arguments: Sequence[tuple[str, int | str]] = (),
    ) -> None:
        self.address = address
        # A pool of its own: a test that breaks its connection breaks no other's.
        options = merged(client(address), ("grpc.use_local_subchannel_pool", 1), *arguments)
        self.raw = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()


class Frontend(Channel):
    """A client of a frontend."""

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None = None,
        arguments: Sequence[tuple[str, int | str]] = (),
    ) -> None:
        super().__init__(address, credentials, arguments)
        self.generations = generation_pb2_grpc.GenerationServiceStub(self.raw)
        self.tokenization = tokenization_pb2_grpc.TokenizationServiceStub(self.raw)
        self.models = model_pb2_grpc.ModelServiceStub(self.raw)
        self.activity = activity_pb2_grpc.ActivityServiceStub(self.raw)

    def generate(self, what: fg.Generation, **options: Any) -> fg.GenerateResponse:
        request = fg.GenerateRequest(generation=what)
        return self.generations.Generate(request, timeout=WAIT_S, **options)

    def start(self, what: fg.Generation, timeout: float = WAIT_S, **options: Any) -> Any:
        """Starts a StreamGenerate call; `stream` goes into StreamOptions."""
        stream = options.pop("stream", None)
        request = fg.StreamGenerateRequest(generation=what, stream=stream)
        return self.generations.StreamGenerate(request, timeout=timeout, **options)

    def stream(self, what: fg.Generation, **options: Any) -> Streamed:
        return read(self.start(what, **options))

    def session(self, metadata: Sequence[tuple[str, str]] = ()) -> SessionCall:
        return SessionCall(self.generations, metadata)

    def tokenize(self, text: str, **fields: Any) -> list[int]:
        request = tokenization_pb2.TokenizeRequest(text=text, **fields)
        return list(self.tokenization.Tokenize(request, timeout=WAIT_S).token_ids)

    def detokenize(self, ids: Sequence[int], **fields: Any) -> str:
        request = tokenization_pb2.DetokenizeRequest(token_ids=ids, **fields)
        text: str = self.tokenization.Detokenize(request, timeout=WAIT_S).text
        return text

    def model(self) -> model_pb2.Model:
        return self.models.GetModel(model_pb2.GetModelRequest(), timeout=WAIT_S).model

    def workers(self) -> list[model_pb2.Worker]:
        request = model_pb2.ListWorkersRequest()
        return list(self.models.ListWorkers(request, timeout=WAIT_S).workers)

    def wait_for_no_work(self) -> None:
        """Waits until no worker holds a generation of this frontend.

        A worker's last words may still be on their way when it is idle.
        """
        until_s = time.monotonic() + WAIT_S
        while any(each.in_flight for each in self.workers()):
            assert time.monotonic() < until_s, self.workers()


class Worker(Channel):
    """A client of a worker."""

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None = None,
        arguments: Sequence[tuple[str, int | str]] = (),
    ) -> None:
        super().__init__(address, credentials, arguments)
        self.execution = execution_pb2_grpc.ExecutionServiceStub(self.raw)
        self.service = worker_pb2_grpc.WorkerServiceStub(self.raw)

    def watch(self) -> Any:
        """Watches the load as closely as the contract allows."""
        request = worker_pb2.WatchLoadRequest(min_interval=duration(0.01))
        return self.service.WatchLoad(request, timeout=WAIT_S)

    def load(self) -> worker_pb2.WatchLoadResponse:
        """Returns the load as it is now."""
        watch = self.watch()
        try:
            return next(watch)
        finally:
            watch.cancel()

    def wait_for_load(
        self, wanted: Callable[[worker_pb2.WatchLoadResponse], bool]
    ) -> worker_pb2.WatchLoadResponse:
        """Waits until the load is as wanted, and returns it."""
        watch = self.watch()
        try:
            for load in watch:
                if wanted(load):
                    return load
        finally:
            watch.cancel()
        raise AssertionError("the load never became what was waited for")

    def wait_until_idle(self) -> worker_pb2.WatchLoadResponse:
        """Waits until nothing runs or waits in the worker."""
        return self.wait_for_load(
            lambda load: load.running_sequences == 0 and load.waiting_requests == 0
        )
