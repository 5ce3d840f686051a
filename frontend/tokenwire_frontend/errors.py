"""The frontend's error vocabulary.

Each function makes one tokenwire_service.errors.ServiceError:

    unknown_model       NOT_FOUND           UNKNOWN_MODEL
    unknown_request     NOT_FOUND           UNKNOWN_REQUEST
    not_running         NOT_FOUND           UNKNOWN_REQUEST
    model_not_named     INVALID_ARGUMENT    MODEL_NOT_NAMED
    no_worker           UNAVAILABLE         NO_WORKER
    worker_lost         UNAVAILABLE         WORKER_LOST
    worker_silent       UNAVAILABLE         WORKER_SILENT
    worker_behind       RESOURCE_EXHAUSTED  WORKER_BEHIND
    worker_protocol     INTERNAL            WORKER_PROTOCOL
    worker_failed       (the worker's)      WORKER_FAILED
    output_not_carried  FAILED_PRECONDITION OUTPUT_NOT_CARRIED
    kills_engines       ABORTED             KILLS_ENGINES
    request_too_large   INVALID_ARGUMENT    REQUEST_TOO_LARGE
    draining            UNAVAILABLE         DRAINING
    grace_over          UNAVAILABLE         DRAINING
    deadline_exceeded   DEADLINE_EXCEEDED   DEADLINE_EXCEEDED
    tokenizer_busy      RESOURCE_EXHAUSTED  TOKENIZER_BUSY
    answer_too_large    RESOURCE_EXHAUSTED  ANSWER_TOO_LARGE
    not_reading         RESOURCE_EXHAUSTED  NOT_READING
    internal_fault      INTERNAL            INTERNAL_FAULT
    tokenizer_lost      UNAVAILABLE         TOKENIZER_LOST
    no_chat_template    FAILED_PRECONDITION NO_CHAT_TEMPLATE
    conversation_gone   FAILED_PRECONDITION CONVERSATION_GONE
    conversation_mismatch  FAILED_PRECONDITION CONVERSATION_MISMATCH
    conversation_busy   ABORTED             CONVERSATION_BUSY
    template_failed     INVALID_ARGUMENT    CHAT_TEMPLATE_FAILED
    (invalid fields)    INVALID_ARGUMENT    INVALID_FIELD

Callers who may not come in are refused by identity/refusals.py, and requests for want of room, or
beyond their tenant's limits, by no_room.py. What is wrong with a generation that outlives its call
is told by kept_errors.py.

What a worker refuses keeps the worker's own code, reason and details; its CANCELLED is UNAVAILABLE
to a caller, and its UNKNOWN is INTERNAL.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenwire_service.errors import (
    Code,
    FieldViolation,
    InvalidRequestError,
    Quota,
    ServiceError,
    invalid,
)
from tokenwire_service.wording import counted, cut

INTERNAL_FAULT = "INTERNAL_FAULT"
"""Reason of an error of this frontend's own."""

NO_WORKER = "NO_WORKER"
"""Reason where no worker is ready."""

NAME_BYTES = 256
"""Of a caller's name in a message."""

RETRY_SOON_S = 1.0
"""Suggested to callers where waiting a moment may help: about the time of a short generation."""

UNAVAILABLE_RETRY_S = 2.0
"""Suggested where a worker has to come back: about the time that a reconnect takes."""


def unknown_model(name: str, served: Sequence[str]) -> ServiceError:
    """No worker serves this model here, as far as the workers have described themselves."""
    known = ", ".join(served) or "none yet"
    return ServiceError(
        Code.NOT_FOUND,
        "UNKNOWN_MODEL",
        f"model {cut(name, NAME_BYTES)!r} is not served here; served: {known}",
        metadata={"model": cut(name, NAME_BYTES)},
    )


def unknown_request(request_id: str) -> ServiceError:
    """No generation of this id is remembered."""
    return ServiceError(
        Code.NOT_FOUND,
        "UNKNOWN_REQUEST",
        f"generation {cut(request_id, NAME_BYTES)!r} is not remembered here; the frontend keeps "
        "the last --records-limit generations that have ended",
        metadata={"request_id": cut(request_id, NAME_BYTES)},
    )


def not_running(request_id: str) -> ServiceError:
    """No generation of this id runs, of those that the caller may end."""
    return ServiceError(
        Code.NOT_FOUND,
        "UNKNOWN_REQUEST",
        f"no generation {cut(request_id, NAME_BYTES)!r} runs here",
        metadata={"request_id": cut(request_id, NAME_BYTES)},
    )


def model_not_named(served: Sequence[str], field: str) -> InvalidRequestError:
    """Several models are served, so the request has to name one."""
    return invalid(field, f"name one of: {', '.join(served)}", reason="MODEL_NOT_NAMED")


def no_worker(model: str) -> ServiceError:
    """The model is known, or may be, but no worker is ready for it now."""
    subject = f"model {model!r}" if model else "any model"
    return ServiceError(
        Code.UNAVAILABLE,
        NO_WORKER,
        f"no worker is ready for {subject}",
        retry_after_s=UNAVAILABLE_RETRY_S,
    )


def worker_lost(worker: str, why: str) -> ServiceError:
    """The worker that held the request is gone."""
    return ServiceError(
        Code.UNAVAILABLE,
        "WORKER_LOST",
        f"worker {worker} was lost: {why}",
        retry_after_s=RETRY_SOON_S,
        metadata={"worker": worker},
    )


def worker_silent(worker: str, waited_s: float) -> ServiceError:
    """The worker has neither taken nor refused the request, or does not complete it."""
    return ServiceError(
        Code.UNAVAILABLE,
        "WORKER_SILENT",
        f"worker {worker} has said nothing of the request for {waited_s:g} s",
        retry_after_s=RETRY_SOON_S,
        metadata={"worker": worker},
    )


def worker_behind(worker: str, limit_bytes: int) -> ServiceError:
    """The worker does not read what it is sent."""
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "WORKER_BEHIND",
        f"worker {worker} has yet to read {limit_bytes // 2**20} MiB of requests",
        retry_after_s=RETRY_SOON_S,
        quota=Quota(f"worker:{worker}/unread", f"at most {limit_bytes // 2**20} MiB"),
    )


def worker_protocol(worker: str, fault: str, trace_id: str) -> ServiceError:
    """What the worker sent of this generation can't be right."""
    return ServiceError(
        Code.INTERNAL,
        "WORKER_PROTOCOL",
        f"worker {worker} has broken the worker contract: the generation {fault}; "
        f"the frontend's log has it under trace id {trace_id}",
        metadata={"worker": worker},
    )


def worker_failed(worker: str, told: ServiceError, code: str, trace_id: str) -> ServiceError:
    """The worker failed at the request, or refused it, and gives no reason.

    Args:
        worker: its address.
        told: what it says.
        code: name of the status that it gave.
        trace_id: of the request.
    """
    retry_s = RETRY_SOON_S if told.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED) else None
    return ServiceError(
        told.code,
        "WORKER_FAILED",
        f"worker {worker} failed without a reason ({code}: {cut(told.message, NAME_BYTES)}); "
        f"the frontend's log has it under trace id {trace_id}",
        retry_after_s=retry_s if told.retry_after_s is None else told.retry_after_s,
        quota=told.quota,
        metadata={"worker": worker},
    )


def output_not_carried(worker: str) -> ServiceError:
    """The worker does not know how to go on after ids that exist; it can begin anew."""
    return ServiceError(
        Code.FAILED_PRECONDITION,
        "OUTPUT_NOT_CARRIED",
        f"worker {worker} does not support output_so_far",
        metadata={"worker": worker},
    )


def kills_engines(workers: int, last: ServiceError) -> ServiceError:
    """Workers have died soon after they were given this generation."""
    return ServiceError(
        Code.ABORTED,
        "KILLS_ENGINES",
        f"{counted(workers, 'worker')} died soon after this generation had come to them, so it is "
        f"not sent to another; the last error: {last.message}",
    )


def request_too_large(size_bytes: int, limit_bytes: int) -> InvalidRequestError:
    """The request, tokenised, is more than a worker reads."""
    return invalid(
        "prompt",
        f"the request has {size_bytes} bytes once it is tokenised; "
        f"a worker reads at most {limit_bytes}",
        reason="REQUEST_TOO_LARGE",
    )


def draining() -> ServiceError:
    """This frontend is about to stop."""
    return ServiceError(
        Code.UNAVAILABLE,
        "DRAINING",
        "this frontend is draining and accepts no new requests",
        retry_after_s=RETRY_SOON_S,
    )


def grace_over() -> ServiceError:
    """The generation did not finish within the drain's grace."""
    return ServiceError(
        Code.UNAVAILABLE,
        "DRAINING",
        "this frontend was stopped before this generation finished",
        retry_after_s=RETRY_SOON_S,
    )


def deadline_exceeded() -> ServiceError:
    """The call's deadline has passed."""
    return ServiceError(
        Code.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
        "the deadline passed before the generation had ended; a `time_budget` would have given "
        "a partial result",
    )


def tokenizer_busy(bound: str) -> ServiceError:
    """Too many texts, or too large ones, wait for the tokenizer."""
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "TOKENIZER_BUSY",
        f"the tokenizer has {bound} already",
        retry_after_s=RETRY_SOON_S,
        quota=Quota("frontend/tokenizer", f"at most {bound} at once"),
    )


def tokenizer_lost(why: str) -> ServiceError:
    """The process that had the text has ended; another takes its place."""
    return ServiceError(
        Code.UNAVAILABLE,
        "TOKENIZER_LOST",
        f"this text was not tokenised: {why}",
        retry_after_s=RETRY_SOON_S,
    )


def answer_too_large(limit_bytes: int) -> ServiceError:
    """The whole answer of a unary call does not fit into one message."""
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "ANSWER_TOO_LARGE",
        f"the answer has more than {limit_bytes:,} bytes, the most of a whole answer; a stream has "
        f"no such bound",
    )


def not_reading(limit_bytes: int) -> ServiceError:
    """The client leaves more of a generation unread, or without credit, than may wait."""
    bound = f"at most {limit_bytes // 2**20} MiB wait for a client to read them"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "NOT_READING",
        f"the client does not read this generation, or grants it no credit: {bound}",
        quota=Quota("generation/unread", bound),
    )


def internal_fault(error: Exception, trace_id: str) -> ServiceError:
    """Something that nobody foresaw; the log has the exception."""
    return ServiceError(
        Code.INTERNAL,
        INTERNAL_FAULT,
        f"internal fault ({type(error).__name__}); "
        f"the service's log has it under trace id {trace_id}",
    )


def prefixed(error: InvalidRequestError, prefix: str) -> InvalidRequestError:
    """Returns the error with its fields' paths starting at the request's root."""
    violations = [
        FieldViolation(f"{prefix}.{each.field}", each.description) for each in error.violations
    ]
    prefixed = InvalidRequestError(violations, reason=error.reason, metadata=error.metadata)
    prefixed.logged, prefixed.quota = error.logged, error.quota
    return prefixed


def no_chat_template(model: str) -> ServiceError:
    """The model has no chat template, so chats can't be rendered."""
    return ServiceError(
        Code.FAILED_PRECONDITION,
        "NO_CHAT_TEMPLATE",
        f"model {model!r} has no chat template; send `prompt.text` or `prompt.token_ids`",
        metadata={"model": model},
    )


def template_failed(field: str, message: str) -> InvalidRequestError:
    """The chat template refused the chat."""
    return invalid(
        field, f"the model's chat template refused it: {message}", reason="CHAT_TEMPLATE_FAILED"
    )


def conversation_gone(name: str) -> ServiceError:
    """The frontend does not hold this conversation, or holds it for another model."""
    return ServiceError(
        Code.FAILED_PRECONDITION,
        "CONVERSATION_GONE",
        f"conversation {name!r} is not held here for this model: it was never begun here, or was "
        f"dropped; send all messages with `conversation.messages` 0",
        metadata={"conversation": name},
    )


def conversation_mismatch(name: str, held: int, given: int) -> ServiceError:
    """The caller and the frontend count the conversation's messages differently."""
    return ServiceError(
        Code.FAILED_PRECONDITION,
        "CONVERSATION_MISMATCH",
        f"conversation {name!r} has {counted(held, 'message')} here; "
        f"`conversation.messages` is {given}",
        metadata={"conversation": name, "held": str(held), "given": str(given)},
    )


def conversation_busy(name: str) -> ServiceError:
    """The conversation's turn before has yet to end."""
    return ServiceError(
        Code.ABORTED,
        "CONVERSATION_BUSY",
        f"conversation {name!r} is in a turn already; send the next one when that has ended",
        retry_after_s=RETRY_SOON_S,
        metadata={"conversation": name},
    )
