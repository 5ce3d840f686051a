"""What a caller says of how its generation is kept, and what it is told."""

from __future__ import annotations

import hashlib
import re

from tokenwire.frontend.v1 import generation_pb2
from tokenwire_service.errors import invalid

from tokenwire_frontend.edge.grpc import from_proto
from tokenwire_frontend.generation.incoming import Terms

_KEY = re.compile(r"[A-Za-z0-9._:-]{1,128}")

NOT_OF_THE_BODY = (
    "request_id", "priority", "time_budget", "output_so_far", "on_disconnect", "detach_ttl",
    "idempotency_key",
)  # fmt: skip
"""Fields in which a repeated request may differ: none of them says what is to be generated."""

_DETACH = generation_pb2.ON_DISCONNECT_DETACH
_ENDS = (generation_pb2.ON_DISCONNECT_UNSPECIFIED, generation_pb2.ON_DISCONNECT_CANCEL)


def is_kept(message: generation_pb2.Generation) -> bool:
    """Returns whether the generation has terms, good or bad."""
    return bool(
        message.on_disconnect not in _ENDS
        or message.idempotency_key
        or message.HasField("detach_ttl")
    )


def terms(message: generation_pb2.Generation, path: str, *, unary: bool) -> Terms:
    """Reads how a generation is kept.

    Args:
        message: the generation.
        path: where it stands in the caller's message.
        unary: whether the caller gets no resume token.

    Raises:
        InvalidRequestError: a field is at fault; names it.
    """
    detaches, key = message.on_disconnect == _DETACH, message.idempotency_key
    if message.on_disconnect not in generation_pb2.OnDisconnect.values():
        raise invalid(f"{path}.on_disconnect", "is not a value of this contract")
    if key and not _KEY.fullmatch(key):
        raise invalid(f"{path}.idempotency_key", "is not up to 128 of A-Z a-z 0-9 . _ : -")
    if detaches and unary and not key:
        raise invalid(
            f"{path}.on_disconnect",
            "is DETACH, which in Generate requires an `idempotency_key`: its answer has no resume "
            "token",
        )
    if unary and message.output_so_far:
        # The generation may be there, and is not read then.
        raise invalid(f"{path}.output_so_far", "is not supported by Generate")
    ttl_s = None
    if message.HasField("detach_ttl"):
        field = f"{path}.detach_ttl"
        ttl_s = from_proto.seconds(message.detach_ttl, field)
        if ttl_s <= 0:
            raise invalid(field, f"is {ttl_s:g} s; more than 0 s is required")
        if not (detaches or key):
            raise invalid(field, "requires `on_disconnect` DETACH or an `idempotency_key`")
    return Terms(
        detaches,
        ttl_s,
        key,
        _digest(message) if key else b"",
        [(each.token_ids, each.ended) for each in message.output_so_far] if key else (),
    )


def _digest(message: generation_pb2.Generation) -> bytes:
    """Returns that of what has to be the same in a repeated request."""
    body = generation_pb2.Generation()
    body.CopyFrom(message)
    for name in NOT_OF_THE_BODY:
        body.ClearField(name)  # type: ignore[arg-type] # names of the message's own fields
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()
