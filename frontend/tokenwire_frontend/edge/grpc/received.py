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
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.grpc import from_proto, keeping
from tokenwire_frontend.generation.incoming import Incoming, Terms
from tokenwire_frontend.generation.reader import Reader

ID_BYTES = 4
"""Of a token id in memory. To measure them in a message takes a millisecond for 100,000."""


def received(
    message: generation_pb2.Generation,
    reader: Reader,
    *,
    lane: str,
    within: str = "",
    stream: options_pb2.StreamOptions | None = None,
    deadline_s: float | None = None,
    context: Context | None = None,
    links: Sequence[SpanContext] = (),
    answer_bytes_limit: int | None = None,
    may_move: bool = True,
) -> Incoming:
    """Returns the generation of a message, to be read once there is a place for it.

    Args:
        message: the generation.
        reader: who takes it; its delivery is set when the generation is read.
        lane: the connection that it came by.
        within: path of the message that holds `generation` and `stream`, with a dot, or empty.
        stream: how deltas are put into messages, where there are any.
        deadline_s: see Incoming, as for all that follows.
        context: as above.
        links: as above.
        answer_bytes_limit: as above.
        may_move: as above.
    """
    path = f"{within}generation"

    def deliver() -> None:
        if stream is not None:
            reader.delivery = from_proto.delivery(stream, f"{within}stream")
            if reader.delivery.content is Content.IDS and message.output.echo:
                raise invalid(
                    f"{path}.output.echo", f"does not go with `{within}stream.content` IDS"
                )

    def read() -> GenerationRequest:
        deliver()
        try:
            return from_proto.generation_request(message)
        except InvalidRequestError as error:
            raise errors.prefixed(error, path) from error

    def keep() -> Terms:
        deliver()  # the generation may be there, and is not read then
        return keeping.terms(message, path, unary=stream is None)

    return Incoming(
        reads=read,
        path=path,
        caller=callers.current(),
        lane=lane,
        model=message.model,
        priority=message.priority,
        size_bytes=_size_bytes(message),
        continues=bool(message.output_so_far),
        request_id=message.request_id,
        is_chat=message.prompt.WhichOneof("content") == "chat",
        deadline_s=deadline_s,
        context=context,
        links=links,
        answer_bytes_limit=answer_bytes_limit,
        keeps=keep if keeping.is_kept(message) else None,
        may_move=may_move,
    )


def _size_bytes(message: generation_pb2.Generation) -> int:
    """Returns about what a generation takes in memory; token ids, which may be many, by count."""
    ids = len(message.prompt.token_ids.ids)
    ids += sum(len(each.token_ids) for each in message.output_so_far)
    if not ids:
        return message.ByteSize()
    texts = 0 if message.prompt.HasField("token_ids") else message.prompt.ByteSize()
    return texts + ID_BYTES * ids


def begin_at(reader: Reader, message: generation_pb2.AttachRequest, within: str = "") -> None:
    """Has a reader of a generation that exists begin where its client wants.

    Args:
        reader: the reader.
        message: from where on, and how deltas are put into messages.
        within: path of the message, with a dot, or empty.

    Raises:
        InvalidRequestError: a field is at fault; names it.
    """
    reader.delivery = from_proto.delivery(message.stream, f"{within}stream")
    reader.offsets = message.token_offsets
