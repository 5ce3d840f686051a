"""Refusals for want of room, each RESOURCE_EXHAUSTED with RetryInfo and QuotaFailure.

queue_full          QUEUE_FULL
shed                QUEUE_FULL
queue_timeout       QUEUE_TIMEOUT
budget_too_short    BUDGET_TOO_SHORT
deadline_too_short  BUDGET_TOO_SHORT
too_many            TOO_MANY_GENERATIONS
tenant_busy         TENANT_BUSY
tenant_rate         TENANT_REQUESTS, TENANT_TOKENS
"""

from __future__ import annotations

from tokenwire_service.errors import Code, Quota, ServiceError
from tokenwire_service.wording import counted

from tokenwire_frontend.errors import RETRY_SOON_S

LEAST_RETRY_S = 0.1
MOST_RETRY_S = 60.0
"""Bounds of the time suggested: workers tell of their load about so often as the first says, and
what is measured says little of what is beyond the second."""

QUEUE_FULL = "QUEUE_FULL"


def _refusal(
    reason: str, message: str, subject: str, bound: str, retry_s: float | None, **told: str
) -> ServiceError:
    retry_s = RETRY_SOON_S if retry_s is None else min(max(retry_s, LEAST_RETRY_S), MOST_RETRY_S)
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        reason,
        message,
        # Rounded, since in an overload thousands are told the same, which is made ready once.
        retry_after_s=round(retry_s, 1),
        quota=Quota(subject, bound),
        metadata=told,
    )


def queue_full(model: str, bound: str, retry_s: float | None = None) -> ServiceError:
    """No worker of the model has room, and no more requests may wait.

    Args:
        model: its name.
        bound: which bound was met, with its number.
        retry_s: time until those that wait now have gone to workers; None: not known.
    """
    message = f"every worker of model {model!r} is busy and the queue is full: {bound}"
    return _refusal(QUEUE_FULL, message, f"model:{model}/waiting_requests", bound, retry_s)


def shed(model: str, bound: str, retry_s: float | None = None) -> ServiceError:
    """The request waited, and its place was given to one that goes before it."""
    message = (
        f"every worker of model {model!r} is busy, and this request's place in the queue was "
        f"given to one of higher priority, or of a caller of whom fewer wait: {bound}"
    )
    return _refusal(QUEUE_FULL, message, f"model:{model}/waiting_requests", bound, retry_s)


def queue_timeout(model: str, limit_s: float, retry_s: float | None) -> ServiceError:
    """The request has waited for as long as one may."""
    bound = f"a request waits for at most {limit_s:g} s"
    message = f"no worker of model {model!r} had room in time: {bound}"
    return _refusal("QUEUE_TIMEOUT", message, f"model:{model}/wait", bound, retry_s)


def budget_too_short(model: str, budget_s: float, wait_s: float) -> ServiceError:
    """The request would wait for an engine for longer than its time budget lasts.

    Args:
        model: its model.
        budget_s: what is left of its budget, in seconds.
        wait_s: how long it would wait until an engine begins it.
    """
    return _too_late(model, "generation.time_budget", "begins", budget_s, wait_s)


def deadline_too_short(model: str, left_s: float, takes_s: float) -> ServiceError:
    """The call's deadline would most likely pass before the generation had ended."""
    return _too_late(model, "the call's deadline", "has ended", left_s, takes_s)


def _too_late(model: str, what: str, does: str, left_s: float, takes_s: float) -> ServiceError:
    told = f"about {takes_s:.3g} s until a worker of model {model!r} {does} one more request"
    return ServiceError(
        Code.RESOURCE_EXHAUSTED,
        "BUDGET_TOO_SHORT",
        f"{what} has {left_s:.3g} s left, and it takes {told}",
        # By then it fits, if nothing else comes.
        retry_after_s=max(takes_s - left_s, LEAST_RETRY_S),
        quota=Quota(f"model:{model}/wait", told),
        metadata={"time_budget_s": f"{left_s:.3f}", "wait_s": f"{takes_s:.3f}"},
    )


def too_many(limit: int, holder: str = "frontend") -> ServiceError:
    """This frontend, or the session, holds as many generations as it may."""
    bound = f"at most {limit} at once"
    message = f"this {holder} holds {counted(limit, 'generation')} already"
    return _refusal("TOO_MANY_GENERATIONS", message, f"{holder}/generations", bound, None)


def tenant_busy(tenant: str, limit: int) -> ServiceError:
    """The tenant has as many generations here as it may."""
    bound = f"at most {limit} at once"
    message = f"tenant {tenant!r} has {counted(limit, 'generation')} here already"
    subject = f"tenant:{tenant}/concurrent_generations"
    return _refusal("TENANT_BUSY", message, subject, bound, None, tenant=tenant)


def tenant_rate(tenant: str, what: str, limit: int, wait_s: float) -> ServiceError:
    """The tenant has had its requests or tokens of this minute.

    Args:
        tenant: its name.
        what: `requests` or `tokens`.
        limit: how many a minute.
        wait_s: time until it may come again with this request.
    """
    bound = f"at most {counted(limit, what.removesuffix('s'))} a minute"
    message = f"tenant {tenant!r} has used up what it may have: {bound}"
    subject = f"tenant:{tenant}/{what}_per_minute"
    return _refusal(f"TENANT_{what.upper()}", message, subject, bound, wait_s, tenant=tenant)


def prompt_quota(tenant: str, limit: int) -> Quota:
    """The bound of a tenant's prompts, which one that is longer is refused with by its field."""
    bound = f"prompts of tenant {tenant!r} have at most {counted(limit, 'token')}"
    return Quota(f"tenant:{tenant}/prompt_tokens", bound)
