"""What the worker refuses or fails with, by code and reason.

    INVALID_ARGUMENT     INVALID_FIELD     fields at fault, each named
                         DUPLICATE_HANDLE  two live generations of one stream under one handle
    FAILED_PRECONDITION  OUTPUT_NOT_CARRIED  fields with which the engine can't go on exactly
                         PROMPT_NOT_HANDED_OVER  fields with which no other worker goes on exactly
                         LORA_NOT_SET_UP   the worker is not set up to load LoRA adapters
                         LORA_CHANGING     the adapter is being loaded or unloaded
    NOT_FOUND            LORA_NOT_FOUND    no LoRA adapter of that name, or at that path
    ALREADY_EXISTS       LORA_EXISTS       there is a LoRA adapter of that name
    RESOURCE_EXHAUSTED   QUEUE_FULL        as many requests wait as may; RetryInfo and QuotaFailure
                         GUIDE_QUEUE_FULL  as many new forms wait to be tried as may; RetryInfo
                         GUIDE_MEMORY      the engine holds as many forms as may be; RetryInfo
                         LORA_LIMIT        the worker has as many LoRA adapters as it may
    UNAVAILABLE          GUIDE_UNTRIED     the form of a guide could not be tried; RetryInfo
                         DRAINING          the worker is being stopped; RetryInfo
                         ENGINE_DIED       the engine is gone and the worker with it; RetryInfo
                         ENGINE_STALLED    the engine hangs and is ended with the worker; RetryInfo
    INTERNAL             ENGINE_FAILED     the engine failed this one generation
                         INTERNAL_FAULT    a fault of the worker's met this one generation
    RESOURCE_EXHAUSTED   NOT_READING       a caller leaves too much unread, or for too long
    UNIMPLEMENTED        NO_KV_EVENTS      the engine has no KV cache events
                         LORA_FIXED        the engine can't change its LoRA adapters while it runs
    OUT_OF_RANGE         KV_EVENTS_GONE    a number that is not kept any more, or never was

`ServiceError` and its mapping to gRPC are tokenwire_service's.
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
from tokenwire_service.wording import counted

from tokenwire_worker.core.kv_events import NumberGoneError
from tokenwire_worker.engines.port import Busy, Refused, Untried

QUEUE_RETRY_S = 1.0
"""After which an overloaded worker may be asked again: generations last seconds, so places free up
within about one."""

AWAY_RETRY_S = 2.0
"""After which another worker, or this one restarted, may answer."""


def invalid_fields(violations: Sequence[FieldViolation]) -> InvalidRequestError:
    """Returns the refusal of a request with fields at fault."""
    return InvalidRequestError(violations)


def refused_by_engine(refusal: Refused) -> InvalidRequestError:
    """Returns the refusal of a request that the engine cannot run."""
    return invalid(f"request.{refusal.field}", refusal.description)


def output_not_carried(engine: str, found: Sequence[tuple[str, str]]) -> ServiceError:
    """Returns the refusal of output so far after which the engine would not go on exactly."""
    task = "go on after output_so_far exactly as without the break"
    return _inexact("OUTPUT_NOT_CARRIED", engine, task, found)


def prompt_not_handed_over(engine: str, found: Sequence[tuple[str, str]]) -> ServiceError:
    """Returns the refusal of a prompt alone, after which no other engine would go on exactly."""
    task = "compute the prompt for another worker to go on exactly"
    return _inexact("PROMPT_NOT_HANDED_OVER", engine, task, found)


def _inexact(reason: str, engine: str, task: str, found: Sequence[tuple[str, str]]) -> ServiceError:
    """Returns the refusal of what the engine can do, but not exactly.

    Args:
        reason: the refusal's.
        engine: its name.
        task: what it can't do.
        found: of each field at fault its path within the request, and why.
    """
    fields = ", ".join(field for field, _ in found)
    message = f"engine {engine} can't {task}: {fields}"
    error = ServiceError(Code.FAILED_PRECONDITION, reason, message)
    error.violations = [FieldViolation(f"request.{field}", why) for field, why in found]
    return error


def duplicate_handle(handle: int) -> InvalidRequestError:
    """Returns the failure of a handle that was submitted while it was live."""
    return invalid(
        "submit.handle",
        f"{handle} was submitted while a generation of this stream had it; both end here",
        reason="DUPLICATE_HANDLE",
    )


def queue_full(worker: str, limit: int) -> ServiceError:
    """Returns the refusal of a request that finds no room to wait."""
    description = f"its queue is full; at most {counted(limit, 'request')} may wait"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        f"worker {worker} is overloaded: {description}",
        retry_after_s=QUEUE_RETRY_S,
        quota=Quota(f"worker:{worker}/waiting_requests", description),
    )


def engine_busy(worker: str, busy: Busy) -> ServiceError:
    """Returns the refusal of a request that the engine has no room for."""
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        busy.reason,
        f"worker {worker} is overloaded: {busy.description}",
        retry_after_s=busy.retry_after_s,
        quota=Quota(f"worker:{worker}/guides", busy.description),
    )


def guide_untried(worker: str, untried: Untried) -> ServiceError:
    """Returns the refusal of a guide that could not be tried now."""
    return ServiceError(
        Code.UNAVAILABLE,
        "GUIDE_UNTRIED",
        f"worker {worker} could not try the form of the guide: {untried.description}",
        retry_after_s=untried.retry_after_s,
    )


def draining(worker: str) -> ServiceError:
    """Returns the refusal or failure of a request that meets a worker being stopped."""
    return _away("DRAINING", f"worker {worker} is being stopped and takes no new work")


def grace_over(worker: str) -> ServiceError:
    """Returns the failure of a generation that did not finish within the drain's grace."""
    return _away("DRAINING", f"worker {worker} was stopped before this generation finished")


def engine_died(worker: str, reason: str) -> ServiceError:
    """Returns the failure of everything that a dead engine held."""
    return _away("ENGINE_DIED", f"the engine of worker {worker} died: {reason}")


def engine_stalled(worker: str, stall_s: float) -> ServiceError:
    """Returns the failure of everything that an engine held which made no progress."""
    message = f"the engine of worker {worker} had work and made no progress for {stall_s:g} s"
    return _away("ENGINE_STALLED", message)


def _away(reason: str, message: str) -> ServiceError:
    return ServiceError(Code.UNAVAILABLE, reason, message, retry_after_s=AWAY_RETRY_S)


def engine_failed(description: str) -> ServiceError:
    """Returns the failure of one generation in the engine."""
    return ServiceError(Code.INTERNAL, "ENGINE_FAILED", f"the engine failed it: {description}")


def internal_fault(error: Exception, trace_id: str) -> ServiceError:
    """Returns the failure of one generation that met an exception nobody has foreseen."""
    return ServiceError(
        Code.INTERNAL,
        "INTERNAL_FAULT",
        f"internal fault ({type(error).__name__}); "
        f"the worker's log has it under trace id {trace_id}",
        metadata={"trace_id": trace_id},
    )


def not_reading(what: str) -> ServiceError:
    """Returns the end of a stream whose caller does not read what it is sent."""
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "NOT_READING",
        f"the caller does not read this stream: {what}; what it asked for is cancelled",
        quota=Quota("stream/unread", what),
    )


def prompt_logprobs_unread(limit_bytes: int) -> ServiceError:
    """Returns the failure of a generation whose caller is behind with what came of others."""
    what = f"more than {limit_bytes} bytes of log probabilities of prompts wait to be read"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "NOT_READING",
        what,
        retry_after_s=QUEUE_RETRY_S,
        quota=Quota("stream/unread_prompt_logprobs", what),
    )


def no_kv_events(engine: str) -> ServiceError:
    """Returns the refusal of KV cache events where the engine has none."""
    return ServiceError(
        Code.UNIMPLEMENTED,
        "NO_KV_EVENTS",
        f"the engine of this worker, {engine}, publishes no KV cache events",
    )


def lora_fixed(engine: str) -> ServiceError:
    """Returns the refusal of a change of adapters that the engine can't make."""
    return ServiceError(
        Code.UNIMPLEMENTED,
        "LORA_FIXED",
        f"engine {engine} can't load or unload LoRA adapters while it runs",
    )


def lora_not_set_up(why: str) -> ServiceError:
    """Returns the refusal of a change of adapters that other settings would allow."""
    return ServiceError(
        Code.FAILED_PRECONDITION,
        "LORA_NOT_SET_UP",
        f"this worker can't load LoRA adapters: {why}",
    )


def lora_not_found(field: str, description: str) -> ServiceError:
    """Returns the refusal of a request for an adapter that is not there."""
    error = ServiceError(Code.NOT_FOUND, "LORA_NOT_FOUND", f"{field}: {description}")
    error.violations = [FieldViolation(field, description)]
    return error


def lora_exists(name: str, state: str) -> ServiceError:
    """Returns the refusal to load an adapter under a name that is taken."""
    return ServiceError(
        Code.ALREADY_EXISTS,
        "LORA_EXISTS",
        f"the worker has an adapter {name!r} already, which is {state}",
    )


def lora_changing(name: str, state: str) -> ServiceError:
    """Returns the refusal to unload an adapter that somebody else changes."""
    return ServiceError(
        Code.FAILED_PRECONDITION, "LORA_CHANGING", f"adapter {name!r} is {state} already"
    )


def lora_limit(limit: int) -> ServiceError:
    """Returns the refusal of one adapter more than a worker may have."""
    description = f"at most {counted(limit, 'LoRA adapter')}"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "LORA_LIMIT",
        f"the worker has {description}",
        quota=Quota("worker/lora_adapters", description),
    )


def kv_events_gone(gone: NumberGoneError) -> ServiceError:
    """Returns the end of a watch that asks for KV cache events that are not there."""
    return ServiceError(
        Code.OUT_OF_RANGE,
        "KV_EVENTS_GONE",
        f"KV cache event {gone.number} is not kept: events {gone.oldest} to "
        f"{gone.next_number - 1} are, and {gone.next_number} comes next; start over with an "
        f"empty view of the cache and first_number 0",
    )
