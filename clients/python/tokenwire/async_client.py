"""The client for asyncio: the twin of `tokenwire.client`, and sessions."""

from __future__ import annotations

import asyncio
from asyncio import sleep
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import grpc

from tokenwire import _requests, _responses
from tokenwire._channel import ChannelArgument, Tls, checked_target, open_async_channel, tracing_to
from tokenwire._chat import Chat
from tokenwire._generation import Progress, StreamedGeneration
from tokenwire._requests import Prompt
from tokenwire._retry import Attempts, RetryPolicy
from tokenwire._trace import Trace
from tokenwire.activity import AsyncActivityStream, AsyncWatchCall
from tokenwire.channel_arguments import REQUEST_BYTES
from tokenwire.errors import TokenwireError, from_rpc_error
from tokenwire.frontend.v1 import activity_pb2, generation_pb2, model_pb2
from tokenwire.frontend.v1.activity_pb2_grpc import ActivityServiceStub
from tokenwire.frontend.v1.generation_pb2_grpc import GenerationServiceStub
from tokenwire.frontend.v1.model_pb2_grpc import ModelServiceStub
from tokenwire.frontend.v1.tokenization_pb2_grpc import TokenizationServiceStub
from tokenwire.options import ChatOptions, GenerationOptions
from tokenwire.session import Session
from tokenwire.types import Answer, Delta, ModelInfo, Record, RenderedChat, Tokens, WorkerInfo

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from tokenwire.frontend.v1.activity_pb2_grpc import ActivityServiceAsyncStub
    from tokenwire.frontend.v1.generation_pb2_grpc import GenerationServiceAsyncStub
    from tokenwire.frontend.v1.model_pb2_grpc import ModelServiceAsyncStub
    from tokenwire.frontend.v1.tokenization_pb2_grpc import TokenizationServiceAsyncStub

    StreamCall = grpc.aio.UnaryStreamCall[
        generation_pb2.StreamGenerateRequest, generation_pb2.StreamGenerateResponse
    ]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncClient:
    """A connection to a Tokenwire frontend, for one event loop.

        async with AsyncClient("127.0.0.1:50051") as client:
            answer = await client.generate("The capital of France is", max_tokens=8)

    Arguments and methods are those of `tokenwire.Client`; `session` comes on top.
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
        self._target = checked_target(target)
        self._tls = tls
        self._timeout = timeout
        self._retry = retry
        self._request_bytes = max_request_bytes
        self._channel_arguments = channel_arguments
        self._tracing = tracing_to(target, tracing)

    # A channel belongs to the loop that runs when it is made, so it is made by the first call.
    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        return open_async_channel(self._target, self._tls, self._channel_arguments, self._tracing)

    @cached_property
    def _activity(self) -> ActivityServiceAsyncStub:
        return ActivityServiceStub(self._channel)

    @cached_property
    def _generation(self) -> GenerationServiceAsyncStub:
        return GenerationServiceStub(self._channel)

    @cached_property
    def _tokenization(self) -> TokenizationServiceAsyncStub:
        return TokenizationServiceStub(self._channel)

    @cached_property
    def _model(self) -> ModelServiceAsyncStub:
        return ModelServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        if "_channel" in self.__dict__:
            await self._channel.close()

    async def generate(
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
            await self._call(self._generation.Generate, request, timeout, traceparent)
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
    ) -> AsyncGenerationStream:
        """Returns the answer as it comes: an asynchronous iterator of deltas.

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
        return AsyncGenerationStream(start, self._attempts(timeout), progress)

    def session(self, *, traceparent: str | None = None) -> Session:
        """Returns a session: many generations on one stream, to be entered with `async with`."""
        return Session(
            self._generation, Trace(traceparent), self._retry, self._request_bytes, self._tracing
        )

    async def tokenize(
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
        response = await self._call(self._tokenization.Tokenize, request, timeout, traceparent)
        return _responses.tokens(response, with_offsets=with_offsets)

    async def detokenize(
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
        response = await self._call(self._tokenization.Detokenize, request, timeout, traceparent)
        return response.text

    async def render_chat(
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
            await self._call(self._tokenization.RenderChat, request, timeout, traceparent)
        )

    async def models(
        self, *, timeout: float | None = None, traceparent: str | None = None
    ) -> list[ModelInfo]:
        """Returns the models that are served, by name."""
        request = model_pb2.ListModelsRequest()
        response = await self._call(self._model.ListModels, request, timeout, traceparent)
        return [_responses.model(each) for each in response.models]

    async def model(
        self, name: str = "", *, timeout: float | None = None, traceparent: str | None = None
    ) -> ModelInfo:
        """Returns one model; without a name, the only one that is served."""
        request = model_pb2.GetModelRequest(name=name)
        response = await self._call(self._model.GetModel, request, timeout, traceparent)
        return _responses.model(response.model)

    async def workers(
        self, *, timeout: float | None = None, traceparent: str | None = None
    ) -> list[WorkerInfo]:
        """Returns the workers that the frontend knows, with their state and load, by address."""
        request = model_pb2.ListWorkersRequest()
        response = await self._call(self._model.ListWorkers, request, timeout, traceparent)
        return [_responses.worker(each) for each in response.workers]

    def activity(
        self,
        *,
        interval_s: float = 1.0,
        records: int = 10,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> AsyncActivityStream:
        """Returns the frontend's activity: a snapshot at once, then one each interval.

        `interval_s` is 0.1 to 60 seconds; each snapshot has at most `records` generations that
        ended last, at most 100. Until the first snapshot the call is retried as others are.
        """
        request = _requests.activity(interval_s, records)
        trace = Trace(traceparent)

        def start(timeout_s: float | None) -> AsyncWatchCall:
            return trace.start(self._activity.WatchActivity, request, timeout_s)

        return AsyncActivityStream(start, self._attempts(timeout), trace)

    async def record(
        self, request_id: str, *, timeout: float | None = None, traceparent: str | None = None
    ) -> Record:
        """Returns what the frontend remembers of a generation that has ended.

        NotFoundError: it does not remember it, or not any more. Of several with this id it is the
        last.
        """
        request = activity_pb2.GetRecordRequest(request_id=request_id)
        response = await self._call(self._activity.GetRecord, request, timeout, traceparent)
        return _responses.record(response.record)

    def _attempts(self, timeout: float | None) -> Attempts:
        return Attempts(self._retry, self._timeout if timeout is None else timeout)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
        traceparent: str | None,
    ) -> _Response:
        attempts, trace = self._attempts(timeout), Trace(traceparent)
        while True:
            try:
                return await trace.start(method, request, attempts.remaining_s())
            except grpc.RpcError as failure:
                error = from_rpc_error(failure, trace.trace_id)
                delay_s = attempts.delay_s(error)
                if delay_s is None:
                    raise error from failure
            await sleep(delay_s)


class AsyncGenerationStream(StreamedGeneration):
    """The deltas of one generation, in order.

    Leaving its `async with` block, or `cancel`, stops the engine.
    """

    def __init__(
        self,
        start: Callable[[float | None], StreamCall],
        attempts: Attempts,
        progress: Progress,
    ) -> None:
        super().__init__(progress)
        self._start = start
        self._attempts = attempts
        self._call = start(attempts.remaining_s())
        self._messages = self._call.__aiter__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while not self._progress.ended:
            delta = await self._read()
            if delta is not None:
                return delta
        raise StopAsyncIteration

    async def _read(self) -> Delta | None:
        """Takes what the stream brings next, and returns it if it is a delta."""
        try:
            return self._progress.take(await self._messages.__anext__())
        except StopAsyncIteration:
            self._progress.end()
        except grpc.RpcError as failure:
            await self._recover(failure)
        except asyncio.CancelledError:
            # gRPC raises it for `cancel` too, in the task that reads.
            if not self._progress.cancelled:
                raise
        except TokenwireError:
            self._call.cancel()
            raise
        return None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.cancel()

    async def cancel(self) -> None:
        """Stops the generation. Nothing happens where it has ended."""
        if not self._progress.ended:
            self._progress.cancelled = self._progress.ended = True
            self._call.cancel()

    async def _recover(self, failure: grpc.RpcError) -> None:
        """Starts over where that may help and nothing has come yet; raises otherwise."""
        progress = self._progress
        error = from_rpc_error(failure, progress.trace_id)
        delay_s = None if progress.accepted else self._attempts.delay_s(error)
        if delay_s is None:
            raise progress.fail(error) from failure
        await sleep(delay_s)
        if not progress.cancelled:
            self._call = self._start(self._attempts.remaining_s())
            self._messages = self._call.__aiter__()
