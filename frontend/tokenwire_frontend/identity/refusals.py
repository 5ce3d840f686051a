"""What callers are refused with: no credential, one that is not good here, or not enough of one."""

from __future__ import annotations

from collections.abc import Collection

from tokenwire_service.errors import Code, ServiceError

from tokenwire_frontend.core.caller import Role

INVALID = "CREDENTIAL_INVALID"


def missing(accepted: str) -> ServiceError:
    """The call has no credential.

    Args:
        accepted: what would be one.
    """
    return ServiceError(
        Code.UNAUTHENTICATED,
        "CREDENTIAL_MISSING",
        f"this frontend requires a credential: {accepted}",
    )


def invalid(why: str) -> ServiceError:
    """The credential is not one of this frontend."""
    return ServiceError(Code.UNAUTHENTICATED, INVALID, f"the credential is not accepted: {why}")


def expired(kind: str) -> ServiceError:
    """The credential was good once."""
    return ServiceError(
        Code.UNAUTHENTICATED, "CREDENTIAL_EXPIRED", f"the {kind} has expired; use a new one"
    )


def role_missing(required: Collection[Role]) -> ServiceError:
    """The caller may not do this."""
    names = " or ".join(sorted(required))
    return ServiceError(
        Code.PERMISSION_DENIED,
        "ROLE_MISSING",
        f"this call requires the role {names}, which the credential does not have",
        metadata={"role": names},
    )


def other_tenant(named: str) -> ServiceError:
    """The call names a tenant that is not the credential's."""
    return ServiceError(
        Code.PERMISSION_DENIED,
        "OTHER_TENANT",
        f"the credential is not one of tenant {named!r}",
    )
