"""The client for ordinary code: every call blocks until its answer, or its next piece, is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from time import sleep
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, Unpack

import grpc

from tokenwire import _requests, _responses
from tokenwire._channel import ChannelArgument, Tls, checked_target, open_channel, tracing_to
from tokenwire._chat import Chat
from tokenwire._generation import Progress, StreamedGeneration
from tokenwire._requests import Prompt
from tokenwire._retry import Attempts, RetryPolicy
from tokenwire._trace import Trace
from tokenwire.activity import ActivityStream, WatchCall
from tokenwire.channel_arguments import REQUEST_BYTES
from tokenwire.errors import TokenwireError, UnreachableError, from_rpc_error
from tokenwire.frontend.v1 import activity_pb2, generation_pb2, model_pb2
from tokenwire.frontend.v1.activity_pb2_grpc import ActivityServiceStub
from tokenwire.frontend.v1.generation_pb2_grpc import GenerationServiceStub
from tokenwire.frontend.v1.model_pb2_grpc import ModelServiceStub
from tokenwire.frontend.v1.tokenization_pb2_grpc import TokenizationServiceStub
from tokenwire.options import ChatOptions, GenerationOptions
from tokenwire.types import Answer, Delta, ModelInfo, Record, RenderedChat, Tokens, WorkerInfo

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A connection to a Tokenwire frontend; any number of threads may share it.

        with Client("127.0.0.1:50051") as client:
            print(client.generate("The capital of France is", max_tokens=8).text)

    | argument            | meaning                                                              |
    |---------------------|----------------------------------------------------------------------|
    | `target`            | HOST:PORT, or any gRPC name such as `dns:///host:port`               |
    | `tls`               | TLS with these files; None: plain text                               |
    | `timeout`           | seconds that a call may take where it names no `timeout` of its own  |
    | `retry`             | what is tried again, and how often; see RetryPolicy                  |
    | `max_request_bytes` | largest request to send: the frontend's `--max-request-bytes`        |
    | `channel_arguments` | further gRPC channel arguments                                       |
    | `tracing`           | True: an OpenTelemetry span for each call (see tokenwire.telemetry), |
    |                     | from the global tracer provider, or from the one that is given       |

    Every call takes `timeout`, in seconds for all attempts together (math.inf: none), and
    `traceparent`, the W3C trace context that it belongs to; without one it is that of the current
    OpenTelemetry span, or new. Every call raises TokenwireError (see tokenwire.errors), and
    TypeError or ValueError for arguments that no request can carry.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | None = None,
        timeout: float | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
        max_request_bytes: int = REQUEST_BYTES,
        channel_arguments: Sequence[ChannelArgument] = (),
        tracing: bool | TracerProvider = False,
    ) -> None:
        checked_target(target)
        self._timeout = timeout
        self._retry = retry
        self._request_bytes = max_request_bytes
        self._channel = open_channel(target, tls, channel_arguments, tracing_to(target, tracing))
        self._activity = ActivityServiceStub(self._channel)
        self._generation = GenerationServiceStub(self._channel)
        self._tokenization = TokenizationServiceStub(self._channel)
        self._model = ModelServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        self._channel.close()

    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        chat: Chat | None = None,
        timeout: float | None = None,
        traceparent: str | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Answer:
        """Returns the whole answer to a prompt (a text or token ids) or a chat.

        The options are those of GenerationOptions, such as `max_tokens`, `temperature` and `stop`.
        """
        request = generation_pb2.GenerateRequest(
            generation=_requests.generation(prompt, chat, options, self._request_bytes)
        )
        return _responses.answer(
            self._call(self._generation.Generate, request, timeout, traceparent)
        )

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        chat: Chat | None = None,
        max_delay: float | None = None,
        timeout: float | None = None,
        traceparent: str | None = None,
        **options: Unpack[GenerationOptions],
    ) -> GenerationStream:
        """Returns the answer as it comes: an iterator of deltas.

        `max_delay` is how long a delta may be held to send more tokens at once: seconds, up to 10.
        The options are those of GenerationOptions.
        """
        request = generation_pb2.StreamGenerateRequest(
            generation=_requests.generation(prompt, chat, options, self._request_bytes),
            stream=_requests.stream(max_delay),
        )
        trace = Trace(traceparent)

        def start(timeout_s: float | None) -> StreamCall:
            return trace.start(self._generation.StreamGenerate, request, timeout_s)

        progress = Progress(request.generation, trace)
        return GenerationStream(start, self._wait, self._attempts(timeout), progress)

    def tokenize(
        self,
        text: str,
        *,
        model: str = "",
        add_special_tokens: bool | None = None,
        with_offsets: bool = False,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> Tokens:
        """Returns a text's token ids, and with `with_offsets` each token's place in the text."""
        request = _requests.tokenize(
            text, model, add_special_tokens, with_offsets, self._request_bytes
        )
        response = self._call(self._tokenization.Tokenize, request, timeout, traceparent)
        return _responses.tokens(response, with_offsets=with_offsets)

    def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool | None = None,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> str:
        """Returns the text of token ids; bytes that are no UTF-8 read as U+FFFD."""
        request = _requests.detokenize(token_ids, model, skip_special_tokens, self._request_bytes)
        return self._call(self._tokenization.Detokenize, request, timeout, traceparent).text

    def render_chat(
        self,
        messages: Chat,
        *,
        model: str = "",
        timeout: float | None = None,
        traceparent: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> RenderedChat:
        """Returns a chat as the model would see it, as text and as token ids."""
        request = _requests.render_chat(messages, model, options, self._request_bytes)
        return _responses.rendered_chat(
            self._call(self._tokenization.RenderChat, request, timeout, traceparent)
        )

    def models(
        self, *, timeout: float | None = None, traceparent: str | None = None
    ) -> list[ModelInfo]:
        """Returns the models that are served, by name."""
        request = model_pb2.ListModelsRequest()
        response = self._call(self._model.ListModels, request, timeout, traceparent)
        return [_responses.model(each) for each in response.models]

    def model(
        self, name: str = "", *, timeout: float | None = None, traceparent: str | None = None
    ) -> ModelInfo:
        """Returns one model; without a name, the only one that is served."""
        request = model_pb2.GetModelRequest(name=name)
        return _responses.model(
            self._call(self._model.GetModel, request, timeout, traceparent).model
        )

    def workers(
        self, *, timeout: float | None = None, traceparent: str | None = None
    ) -> list[WorkerInfo]:
        """Returns the workers that the frontend knows, with their state and load, by address."""
        request = model_pb2.ListWorkersRequest()
        response = self._call(self._model.ListWorkers, request, timeout, traceparent)
        return [_responses.worker(each) for each in response.workers]

    def activity(
        self,
        *,
        interval_s: float = 1.0,
        records: int = 10,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> ActivityStream:
        """Returns the frontend's activity: a snapshot at once, then one each interval.

        `interval_s` is 0.1 to 60 seconds; each snapshot has at most `records` generations that
        ended last, at most 100. Until the first snapshot the call is retried as others are.
        """
        request = _requests.activity(interval_s, records)
        trace = Trace(traceparent)

        def start(timeout_s: float | None) -> WatchCall:
            return trace.start(self._activity.WatchActivity, request, timeout_s)

        return ActivityStream(start, self._wait, self._attempts(timeout), trace)

    def record(
        self, request_id: str, *, timeout: float | None = None, traceparent: str | None = None
    ) -> Record:
        """Returns what the frontend remembers of a generation that has ended.

        NotFoundError: it does not remember it, or not any more. Of several with this id it is the
        last.
        """
        request = activity_pb2.GetRecordRequest(request_id=request_id)
        response = self._call(self._activity.GetRecord, request, timeout, traceparent)
        return _responses.record(response.record)

    def _attempts(self, timeout: float | None) -> Attempts:
        return Attempts(self._retry, self._timeout if timeout is None else timeout)

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
        traceparent: str | None,
    ) -> _Response:
        attempts, trace = self._attempts(timeout), Trace(traceparent)
        while True:
            try:
                return trace.start(method, request, attempts.remaining_s())
            except grpc.RpcError as failure:
                error = from_rpc_error(failure, trace.trace_id)
                delay_s = attempts.delay_s(error)
                if delay_s is None:
                    raise error from failure
            self._wait(error, delay_s)

    def _wait(self, error: TokenwireError, delay_s: float) -> None:
        if not isinstance(error, UnreachableError):
            sleep(delay_s)
            return
        # A blocking channel gets on with connecting only while somebody watches it. After a mere
        # sleep the next attempt would find it no further than before.
        connected = grpc.channel_ready_future(self._channel)
        with suppress(grpc.FutureTimeoutError):
            connected.result(delay_s)
        connected.cancel()


class StreamCall(Protocol):
    """What a running StreamGenerate call can do; gRPC's own class has no public name."""

    def __next__(self) -> generation_pb2.StreamGenerateResponse: ...

    def cancel(self) -> bool:
        """Cancels the call."""
        ...


class GenerationStream(StreamedGeneration):
    """The deltas of one generation, in order.

    Leaving its `with` block, or `cancel`, stops the engine.
    """

    def __init__(
        self,
        start: Callable[[float | None], StreamCall],
        wait: Callable[[TokenwireError, float], None],
        attempts: Attempts,
        progress: Progress,
    ) -> None:
        super().__init__(progress)
        self._start = start
        self._wait = wait
        self._attempts = attempts
        self._call = start(attempts.remaining_s())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        while not self._progress.ended:
            delta = self._read()
            if delta is not None:
                return delta
        raise StopIteration

    def _read(self) -> Delta | None:
        """Takes what the stream brings next, and returns it if it is a delta."""
        try:
            return self._progress.take(next(self._call))
        except StopIteration:
            self._progress.end()
        except grpc.RpcError as failure:
            self._recover(failure)
        except TokenwireError:
            self._call.cancel()
            raise
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Stops the generation; any thread may do it. Nothing happens where it has ended."""
        if not self._progress.ended:
            self._progress.cancelled = self._progress.ended = True
            self._call.cancel()

    def _recover(self, failure: grpc.RpcError) -> None:
        """Starts over where that may help and nothing has come yet; raises otherwise."""
        progress = self._progress
        if progress.cancelled:
            return
        error = from_rpc_error(failure, progress.trace_id)
        delay_s = None if progress.accepted else self._attempts.delay_s(error)
        if delay_s is None:
            raise progress.fail(error) from failure
        self._wait(error, delay_s)
        if not progress.cancelled:
            self._call = self._start(self._attempts.remaining_s())
