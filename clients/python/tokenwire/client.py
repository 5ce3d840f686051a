"""The client for ordinary code: every call blocks until its answer, or its next piece, is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

import grpc

from tokenwire import _requests, _responses
from tokenwire._api_key import ApiKey, as_api_key
from tokenwire._channel import ChannelArgument, Tls
from tokenwire._chat import Chat
from tokenwire._course import Course
from tokenwire._frontends import Frontend, Frontends, each_of, wait
from tokenwire._generation import Progress
from tokenwire._requests import Prompt
from tokenwire._retry import Attempts, RetryPolicy
from tokenwire._trace import Trace
from tokenwire.activity import ActivityStream, WatchCall
from tokenwire.channel_arguments import REQUEST_BYTES
from tokenwire.errors import from_rpc_error
from tokenwire.frontend.v1 import activity_pb2, generation_pb2, model_pb2
from tokenwire.options import ChatOptions, GenerationOptions
from tokenwire.streams import WHOLE_ANSWER_DELAY_S, GenerationStream
from tokenwire.types import Answer, ModelInfo, Record, RenderedChat, Tokens, WorkerInfo

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """Connections to Tokenwire frontends; any number of threads may share them.

        with Client("127.0.0.1:50051") as client:
            print(client.generate("The capital of France is", max_tokens=8).text)

    | argument            | meaning                                                              |
    |---------------------|----------------------------------------------------------------------|
    | `target`            | HOST:PORT, or any gRPC name such as `dns:///host:port`; several as a |
    |                     | list, or with commas between: one gets all calls until it fails      |
    | `tls`               | TLS with these files; None: plain text                               |
    | `api_key`           | API key or JWT of the calls, or a function that returns it; without  |
    |                     | TLS only to this host, unless an ApiKey says otherwise               |
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
        target: str | Sequence[str],
        *,
        tls: Tls | None = None,
        api_key: str | Callable[[], str] | ApiKey | None = None,
        timeout: float | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is frozen
        max_request_bytes: int = REQUEST_BYTES,
        channel_arguments: Sequence[ChannelArgument] = (),
        tracing: bool | TracerProvider = False,
    ) -> None:
        self._frontends = Frontends(
            each_of(Frontend, target, tls, channel_arguments, tracing, as_api_key(api_key))
        )
        self._timeout = timeout
        self._retry = retry
        self._request_bytes = max_request_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; calls that still run are cancelled."""
        for each in self._frontends:
            each.close()

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
        It is streamed in large parts, so that it is continued where its frontend is lost.
        """
        with self.stream(
            prompt,
            chat=chat,
            max_delay=WHOLE_ANSWER_DELAY_S,
            timeout=timeout,
            traceparent=traceparent,
            **options,
        ) as stream:
            for _ in stream:
                pass
            return stream.result

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        chat: Chat | None = None,
        max_delay: float | None = None,
        max_delta_tokens: int | None = None,
        content: str | None = None,
        timeout: float | None = None,
        traceparent: str | None = None,
        **options: Unpack[GenerationOptions],
    ) -> GenerationStream:
        """Returns the answer as it comes: an iterator of deltas.

        `max_delay` is how long a delta may be held to send more tokens at once: seconds, up to 10.
        `max_delta_tokens` is the most tokens of one delta, and `content` what deltas have:
        `text_and_ids` (the default), `text` or `ids`. The options are those of GenerationOptions.

        Where the stream breaks after it had begun, it is continued at another frontend, or the same
        one, as often as `RetryPolicy.continuations` says; not with `content="text"`, which leaves
        the client without the token ids that this takes.
        """
        generation = _requests.generation(prompt, chat, options, self._request_bytes)
        how = _requests.stream(max_delay, max_delta_tokens, content)
        trace = Trace(traceparent)
        progress = Progress(trace, generation, how)
        course = Course(generation, how, progress, self._attempts(timeout), self._request_bytes)
        return GenerationStream(course, self._frontends, trace)

    def attach(
        self,
        resume_token: str,
        *,
        token_offsets: Sequence[int] = (),
        max_delay: float | None = None,
        max_delta_tokens: int | None = None,
        content: str | None = None,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> GenerationStream:
        """Returns what follows of a generation that was begun with `on_disconnect="detach"`.

        `resume_token` is that of `accepted`, and `token_offsets` how many ids of each sequence the
        caller has; the rest is as for `stream`. What the caller has is not in `result`. Ending the
        stream leaves the generation alone.
        """
        how = _requests.stream(max_delay, max_delta_tokens, content)
        request = _requests.attach(resume_token, token_offsets, how)
        trace = Trace(traceparent)
        progress = Progress(trace, None, how, token_offsets)
        course = Course(request, how, progress, self._attempts(timeout), self._request_bytes)
        return GenerationStream(course, self._frontends, trace)

    def cancel_generation(
        self, resume_token: str, *, timeout: float | None = None, traceparent: str | None = None
    ) -> None:
        """Ends a generation that was begun with `on_disconnect="detach"`.

        One that has ended already stays as it is.
        """
        request = generation_pb2.CancelGenerationRequest(resume_token=resume_token)
        self._call(lambda each: each.generation.CancelGeneration, request, timeout, traceparent)

    def cancel_request(
        self, request_id: str, *, timeout: float | None = None, traceparent: str | None = None
    ) -> int:
        """Ends every generation of this request id at the frontend and its peers; says how many.

        They are those of the credential's tenant, or with the role `admin` those of all tenants.
        """
        request = generation_pb2.CancelGenerationRequest(request_id=request_id)
        return self._call(
            lambda each: each.generation.CancelGeneration, request, timeout, traceparent
        ).cancelled

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
        response = self._call(
            lambda each: each.tokenization.Tokenize, request, timeout, traceparent
        )
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
        return self._call(
            lambda each: each.tokenization.Detokenize, request, timeout, traceparent
        ).text

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
            self._call(lambda each: each.tokenization.RenderChat, request, timeout, traceparent)
        )

    def models(
        self, *, timeout: float | None = None, traceparent: str | None = None
    ) -> list[ModelInfo]:
        """Returns the models that are served, by name."""
        request = model_pb2.ListModelsRequest()
        response = self._call(lambda each: each.model.ListModels, request, timeout, traceparent)
        return [_responses.model(each) for each in response.models]

    def model(
        self, name: str = "", *, timeout: float | None = None, traceparent: str | None = None
    ) -> ModelInfo:
        """Returns one model; without a name, the only one that is served."""
        request = model_pb2.GetModelRequest(name=name)
        return _responses.model(
            self._call(lambda each: each.model.GetModel, request, timeout, traceparent).model
        )

    def workers(
        self, *, timeout: float | None = None, traceparent: str | None = None
    ) -> list[WorkerInfo]:
        """Returns the workers that the frontend knows, with their state and load, by address."""
        request = model_pb2.ListWorkersRequest()
        response = self._call(lambda each: each.model.ListWorkers, request, timeout, traceparent)
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

        def start(frontend: Frontend, timeout_s: float | None) -> WatchCall:
            return trace.start(frontend.activity.WatchActivity, request, timeout_s)

        return ActivityStream(start, self._frontends, self._attempts(timeout), trace)

    def record(
        self, request_id: str, *, timeout: float | None = None, traceparent: str | None = None
    ) -> Record:
        """Returns what the frontend remembers of a generation that has ended.

        NotFoundError: it does not remember it, or not any more. Of several with this id it is the
        last.
        """
        request = activity_pb2.GetRecordRequest(request_id=request_id)
        response = self._call(lambda each: each.activity.GetRecord, request, timeout, traceparent)
        return _responses.record(response.record)

    def _attempts(self, timeout: float | None) -> Attempts:
        return Attempts(self._retry, self._timeout if timeout is None else timeout)

    def _call(
        self,
        method: Callable[[Frontend], grpc.UnaryUnaryMultiCallable[_Request, _Response]],
        request: _Request,
        timeout: float | None,
        traceparent: str | None,
    ) -> _Response:
        attempts, trace = self._attempts(timeout), Trace(traceparent)
        while True:
            frontend = self._frontends.pick()
            try:
                response = trace.start(method(frontend), request, attempts.remaining_s())
            except grpc.RpcError as failure:
                error = from_rpc_error(failure, trace.trace_id)
                elsewhere = self._frontends.leave(frontend, error)
                delay_s = attempts.delay_s(error, elsewhere=elsewhere)
                if delay_s is None:
                    raise error from failure
            else:
                self._frontends.keep(frontend)
                return response
            wait(self._frontends, error, delay_s)
