"""Errors of generations that outlive their calls: what is kept of one, and where.

not_kept              NOT_FOUND           UNKNOWN_GENERATION, EXPIRED, EVICTED, OWNER_GONE
offset_beyond         OUT_OF_RANGE        OFFSET_BEYOND
retention_full        RESOURCE_EXHAUSTED  RETENTION_FULL
idempotency_conflict  ALREADY_EXISTS      IDEMPOTENCY_CONFLICT
other_ids             ALREADY_EXISTS      IDEMPOTENCY_CONFLICT
less_output           ALREADY_EXISTS      IDEMPOTENCY_CONFLICT
key_moved             UNAVAILABLE         KEY_MOVED
unknown_owner         FAILED_PRECONDITION UNKNOWN_OWNER
owner_unreachable     UNAVAILABLE         OWNER_UNREACHABLE
peers_unreachable     UNAVAILABLE         OWNER_UNREACHABLE
supervisor_silent     UNAVAILABLE         SUPERVISOR_SILENT
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire_service.errors import Code, FieldViolation, Quota, ServiceError
from tokenwire_service.wording import counted, cut

from tokenwire_frontend.errors import NAME_BYTES, RETRY_SOON_S

PEERS_SHOWN = 8
"""Most addresses in a message."""

_NOT_KEPT = {
    "UNKNOWN_GENERATION": "the frontend that issued this resume token does not have its generation",
    "EXPIRED": "the generation had no caller for its detach_ttl, and was dropped",
    "EVICTED": "the generation had ended, and was dropped to make room for others",
    "OWNER_GONE": "the frontend process that had the generation has ended",
}


def not_kept(reason: str) -> ServiceError:
    """The generation of a resume token is not kept, or no more; the reason is one of _NOT_KEPT."""
    return ServiceError(Code.NOT_FOUND, reason, _NOT_KEPT[reason])


def offset_beyond(field: str, offset: int, count: int) -> ServiceError:
    """A client wants to go on after more tokens than there are."""
    fault = f"is {offset}; the sequence has {counted(count, 'token')} so far"
    error = ServiceError(Code.OUT_OF_RANGE, "OFFSET_BEYOND", f"{field}: {fault}")
    error.violations = [FieldViolation(field, fault)]
    return error


def retention_full(limit_bytes: int) -> ServiceError:
    """All that may be kept of generations that outlive their calls belongs to running ones."""
    bound = f"at most {limit_bytes / 2**20:g} MiB are kept of generations that outlive their calls"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "RETENTION_FULL",
        f"this frontend keeps as much as it may: {bound}",
        retry_after_s=RETRY_SOON_S,
        quota=Quota("frontend/retained_bytes", bound),
    )


def idempotency_conflict(key: str) -> ServiceError:
    """The key is in use for another request."""
    return ServiceError(
        Code.ALREADY_EXISTS,
        "IDEMPOTENCY_CONFLICT",
        f"idempotency key {cut(key, NAME_BYTES)!r} is in use for another request",
        metadata={"idempotency_key": cut(key, NAME_BYTES)},
    )


def other_ids(field: str) -> ServiceError:
    """A repeated request has other output so far than the generation of its key."""
    fault = "are not the ids that the generation of this idempotency key begins with"
    error = ServiceError(Code.ALREADY_EXISTS, "IDEMPOTENCY_CONFLICT", f"{field} {fault}")
    error.violations = [FieldViolation(field, fault)]
    return error


def less_output(field: str, tokens: int) -> ServiceError:
    """A repeated request lacks output that the generation of its key began with."""
    fault = f"lacks output that the generation of this idempotency key began with: {tokens} tokens"
    error = ServiceError(Code.ALREADY_EXISTS, "IDEMPOTENCY_CONFLICT", f"{field} {fault}")
    error.violations = [FieldViolation(field, fault)]
    return error


def key_moved() -> ServiceError:
    """The generation of a key has just ended in one process and begun in another."""
    return ServiceError(
        Code.UNAVAILABLE,
        "KEY_MOVED",
        "the generation of this idempotency key has just moved to another process",
        retry_after_s=RETRY_SOON_S,
    )


def unknown_owner(owner: str) -> ServiceError:
    """The generation is at a frontend that this one does not forward to."""
    return ServiceError(
        Code.FAILED_PRECONDITION,
        "UNKNOWN_OWNER",
        f"the generation is at {cut(owner, NAME_BYTES) or 'a frontend without an address'}, "
        f"which is not a --peer of this frontend",
        metadata={"owner": cut(owner, NAME_BYTES)},
    )


def owner_unreachable(owner: str) -> ServiceError:
    """The frontend that has the generation does not answer."""
    return ServiceError(
        Code.UNAVAILABLE,
        "OWNER_UNREACHABLE",
        f"the frontend at {owner}, which has the generation, can't be reached",
        retry_after_s=RETRY_SOON_S,
        metadata={"owner": owner},
    )


def peers_unreachable(request_id: str, peers: Sequence[str]) -> ServiceError:
    """No generation of this id was found, and these frontends, which may have one, are silent."""
    shown = ", ".join(peers[:PEERS_SHOWN])
    return ServiceError(
        Code.UNAVAILABLE,
        "OWNER_UNREACHABLE",
        f"no generation {cut(request_id, NAME_BYTES)!r} was found, and "
        f"{counted(len(peers), 'frontend')} that may have one can't be reached: {shown}",
        retry_after_s=RETRY_SOON_S,
        metadata={"owner": shown},
    )


def supervisor_silent() -> ServiceError:
    """The supervising process does not say which process has a generation."""
    return ServiceError(
        Code.UNAVAILABLE,
        "SUPERVISOR_SILENT",
        "the supervising process does not answer, so that the generation can't be found",
        retry_after_s=RETRY_SOON_S,
    )
