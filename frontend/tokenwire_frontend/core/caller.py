"""Who calls: for which tenant, and what it may do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

TENANT_CHARACTERS = 128
"""Most of a tenant's name: it is part of log lines and of keys in memory."""

TENANT_RULE = f"1 to {TENANT_CHARACTERS} printable ASCII characters without spaces"
"""What a tenant's name is, in words."""

_TENANT = re.compile(f"[!-~]{{1,{TENANT_CHARACTERS}}}")


class Role(StrEnum):
    """What a caller may do; none includes another."""

    CALL = "call"
    """Generate, tokenise, and ask for models."""
    LOOK = "look"
    """See the activity of its own tenant."""
    ADMIN = "admin"
    """See the activity of all tenants, cancel what anybody has, and change what is served."""


ALL_ROLES = frozenset(Role)


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller, as its credential says; without authentication, as it says itself."""

    tenant: str = ""
    """Empty: the caller belongs to no tenant."""
    roles: frozenset[Role] = ALL_ROLES

    def has(self, *roles: Role) -> bool:
        """Returns whether it has one of these roles."""
        return not self.roles.isdisjoint(roles)

    @property
    def seen_tenant(self) -> str | None:
        """The tenant whose generations it may see and end; None: those of all."""
        return None if Role.ADMIN in self.roles else self.tenant

    def sees(self, tenant: str) -> bool:
        """Returns whether it may see and end what belongs to this tenant."""
        return self.seen_tenant in (None, tenant)


ANYONE = Caller()
"""Who calls where nobody is asked."""


def is_tenant(name: str) -> bool:
    """Returns whether the text is a tenant's name; see TENANT_RULE."""
    return _TENANT.fullmatch(name) is not None


def roles_of(names: Iterable[str]) -> frozenset[Role]:
    """Returns the roles of these names.

    Raises:
        ValueError: a name is not one of a role.
    """
    return frozenset(map(Role, names))


def scoped(tenant: str, name: str) -> str:
    """Returns a name that a tenant has given, as no other tenant can give it."""
    return f"{tenant} {name}"  # a tenant's name has no space
