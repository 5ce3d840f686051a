"""What both kinds of stream and the unary call make of a generation that they received."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext
from tokenwire.frontend.v1 import generation_pb2, options_pb2
from tokenwire_service.errors import InvalidRequestError, invalid

from tokenwire_frontend import errors
from tokenwire_frontend.core.events import Content
from tokenwire_frontend.core.request import GenerationRequest
from tokenwire_frontend.edge import from_proto
from tokenwire_frontend.generation.incoming import Incoming
from tokenwire_frontend.generation.reader import Reader


def received(
    message: generation_pb2.Generation,
    reader: Reader,
    *,
    within: str = "",
    stream: options_pb2.StreamOptions | None = None,
    deadline_s: float | None = None,
    context: Context | None = None,
    links: Sequence[SpanContext] = (),
    answer_bytes_limit: int | None = None,
) -> Incoming:
    """Returns the generation of a message, to be read once there is a place for it.

    Args:
        message: the generation.
        reader: who takes it; its delivery is set when the generation is read.
        within: path of the message that holds `generation` and `stream`, with a dot, or empty.
        stream: how deltas are put into messages, where there are any.
        deadline_s: see Incoming, as for all that follows.
        context: as above.
        links: as above.
        answer_bytes_limit: as above.
    """
    path = f"{within}generation"

    def read() -> GenerationRequest:
        if stream is not None:
            reader.delivery = from_proto.delivery(stream, f"{within}stream")
            if reader.delivery.content is Content.IDS and message.output.echo:
                raise invalid(
                    f"{path}.output.echo", f"does not go with `{within}stream.content` IDS"
                )
        try:
            return from_proto.generation_request(message)
        except InvalidRequestError as error:
            raise errors.prefixed(error, path) from error

    return Incoming(
        reads=read,
        path=path,
        model=message.model,
        request_id=message.request_id,
        is_chat=message.prompt.WhichOneof("content") == "chat",
        deadline_s=deadline_s,
        context=context,
        links=links,
        answer_bytes_limit=answer_bytes_limit,
    )
