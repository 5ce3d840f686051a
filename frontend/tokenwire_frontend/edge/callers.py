"""Who a call is from."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import grpc
from tokenwire_service.errors import invalid

from tokenwire_frontend.core.caller import ANYONE, TENANT_RULE, Caller, is_tenant

TENANT_KEY = "x-tokenwire-tenant"
"""Metadata with the caller's tenant, where authentication is off."""

_CALLER: ContextVar[Caller] = ContextVar("caller", default=ANYONE)


def current() -> Caller:
    """Returns the caller of the call that this task serves."""
    return _CALLER.get()


def admit(_method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Notes who calls, for the handler of the call.

    Raises:
        InvalidRequestError: the tenant's name is not one.
    """
    for key, value in context.invocation_metadata() or ():
        if key == TENANT_KEY:
            if not is_tenant(str(value)):
                raise invalid(TENANT_KEY, f"must have {TENANT_RULE}")
            _CALLER.set(Caller(str(value)))
            return
