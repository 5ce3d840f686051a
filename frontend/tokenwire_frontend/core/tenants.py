"""What each tenant may have, and what it has had of late."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MINUTE_S = 60.0

STRANGERS = 1024
"""Tenants without limits of their own of which it is remembered what they had, about 500 bytes
each; beyond it the one is forgotten that came longest ago and has nothing here."""

OTHER = "other"
"""Stands for all of these in metrics, whose attributes must be few."""


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may have at one frontend process; None: as much as there is."""

    weight: float = 1.0
    """Its share where requests wait, beside others of weight 1."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and outputs; the most that a request may generate counts until it has ended."""
    concurrent_generations: int | None = None
    prompt_tokens: int | None = None
    """Of one prompt."""
    highest_priority: int = 100
    """Priorities above it count as this one."""


@dataclass(frozen=True, slots=True)
class TenantTable:
    """The limits of all tenants."""

    default: TenantLimits = TenantLimits()
    """Of a tenant that is not named."""
    named: Mapping[str, TenantLimits] = field(default_factory=dict)


NO_LIMITS = TenantTable()


class Allowance:
    """An amount a minute: what is not used is saved up, but for no more than a minute.

    Args:
        per_minute: the amount.
        now_s: the clock.
    """

    __slots__ = ("_left", "_seen_s", "per_minute")

    def __init__(self, per_minute: float, now_s: float) -> None:
        self.per_minute = per_minute
        self._left = per_minute
        self._seen_s = now_s

    def wait_s(self, amount: float, now_s: float) -> float:
        """Returns how long it takes until so much may be taken; 0: it may be now.

        What is more than a minute's amount may be taken once all of that is there.
        """
        rate = self.per_minute / MINUTE_S
        self._left = min(self._left + (now_s - self._seen_s) * rate, self.per_minute)
        self._seen_s = now_s
        return max(min(amount, self.per_minute) - self._left, 0.0) / rate

    def becomes(self, per_minute: float) -> None:
        """Takes another amount a minute, of which as large a share is left as of the one before.

        So a change gives nobody a minute's amount anew, nor a debt of hours.
        """
        self._left *= per_minute / self.per_minute
        self.per_minute = per_minute

    def take(self, amount: float) -> None:
        """Takes an amount, or gives some back where it is negative."""
        self._left = min(self._left - amount, self.per_minute)


class Tenant:
    """One tenant.

    Args:
        name: its name.
        label: what it is called in metrics.
        limits: what it may have.
    """

    def __init__(self, name: str, label: str, limits: TenantLimits) -> None:
        self.name = name
        self.label = label
        self.limits = limits
        self.generations = 0
        """Its generations at this frontend process now."""
        self._requests: Allowance | None = None
        self._tokens: Allowance | None = None

    def limit(self, label: str, limits: TenantLimits) -> None:
        """Takes other limits; what it has had of a minute's amount counts on."""
        self.label, self.limits = label, limits

    def request_wait_s(self, now_s: float) -> float:
        """Returns how long it takes until one more request may come; 0: one may come now."""
        self._requests = _allowance(self._requests, self.limits.requests_per_minute, now_s)
        return 0.0 if self._requests is None else self._requests.wait_s(1, now_s)

    def token_wait_s(self, tokens: float, now_s: float) -> float:
        """Returns how long it takes until a request of so many tokens may come."""
        self._tokens = _allowance(self._tokens, self.limits.tokens_per_minute, now_s)
        return 0.0 if self._tokens is None else self._tokens.wait_s(tokens, now_s)

    def take_request(self) -> None:
        """Counts a request."""
        if self._requests is not None:
            self._requests.take(1)

    def take_tokens(self, tokens: float) -> None:
        """Counts tokens, or gives some back where they are negative."""
        if self._tokens is not None:
            self._tokens.take(tokens)


def _allowance(held: Allowance | None, per_minute: int | None, now_s: float) -> Allowance | None:
    if per_minute is None:
        return None
    if held is None:
        return Allowance(per_minute, now_s)
    if held.per_minute != per_minute:
        held.becomes(per_minute)
    return held


class Tenants:
    """All tenants of this frontend process.

    Args:
        table: returns their limits, another object once they have changed.
    """

    def __init__(self, table: Callable[[], TenantTable] = lambda: NO_LIMITS) -> None:
        self._read = table
        self._table = table()
        self._tenants: dict[str, Tenant] = {}
        """In the order in which they came last."""

    def named(self, name: str) -> Tenant:
        """Returns a tenant."""
        if self._read() is not self._table:
            self._reload()
        tenant = self._tenants.pop(name, None)
        if tenant is None:
            self._forget_one()
            tenant = Tenant(name, *self._limits(name))
        self._tenants[name] = tenant
        return tenant

    def _limits(self, name: str) -> tuple[str, TenantLimits]:
        limits = self._table.named.get(name)
        return (OTHER, self._table.default) if limits is None else (name, limits)

    def _reload(self) -> None:
        self._table = self._read()
        for name, tenant in self._tenants.items():
            tenant.limit(*self._limits(name))

    def _forget_one(self) -> None:
        if len(self._tenants) < STRANGERS + len(self._table.named):
            return
        for name, tenant in self._tenants.items():
            if not tenant.generations and name not in self._table.named:
                del self._tenants[name]
                return
