"""Messages of a session: what a command says, and what an event is made of."""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry.context import Context
from tokenwire.frontend.v1 import generation_pb2, options_pb2
from tokenwire_service.errors import ServiceError, invalid
from tokenwire_service.telemetry import tracing

from tokenwire_frontend.core.events import News
from tokenwire_frontend.edge.grpc import to_proto
from tokenwire_frontend.generation.credit import Credit

Event = generation_pb2.SessionEvent


def as_message(event: Event) -> bytes:
    """Returns a SessionResponse of one event."""
    return generation_pb2.SessionResponse(events=(event,)).SerializeToString()


def news_events(number: int, news: News) -> Iterator[Event]:
    """Yields events of a prompt's log probabilities, and of deltas that are not plain."""
    if news.prompt is not None:
        yield Event(id=number, prompt_logprobs=to_proto.prompt_logprobs(news.prompt))
    for delta in news.deltas:
        event = Event(id=number)
        to_proto.put_delta(delta, event.delta)
        yield event


def trace_context(message: generation_pb2.Open) -> Context | None:
    """Returns the trace context that a generation brings; None: it brings none."""
    carrier = {
        tracing.TRACEPARENT: message.trace_context.traceparent,
        tracing.TRACESTATE: message.trace_context.tracestate,
    }
    return tracing.extract(carrier) if carrier[tracing.TRACEPARENT] else None


def first_credit(message: generation_pb2.Open | generation_pb2.Attach) -> Credit | None:
    """Returns the credit that a generation begins with; None: it needs none."""
    kind = message.WhichOneof("credit")
    if kind is None:
        return None
    return Credit(getattr(message, kind), counts_tokens=kind == "credit_tokens")


def uncountable(message: generation_pb2.Open | generation_pb2.Attach) -> ServiceError | None:
    """Returns a refusal where credit is of tokens, and deltas do not tell how many were used."""
    if isinstance(message, generation_pb2.Open):
        stream, field, content = message.stream, "open", "open.stream.content"
    else:
        stream, field = message.generation.stream, "attach"
        content = "attach.generation.stream.content"
    if not message.HasField("credit_tokens") or stream.content != options_pb2.STREAM_CONTENT_TEXT:
        return None
    return invalid(
        f"{field}.credit_tokens",
        f"does not go with `{content}` TEXT, which has no token ids to count",
    )
