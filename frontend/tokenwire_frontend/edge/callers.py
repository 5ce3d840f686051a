"""Who a call is from, and whether it is let in."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from tokenwire_service.client_names import Certified, ClientNames, names_of
from tokenwire_service.errors import invalid
from tokenwire_service.watching import Watched

from tokenwire_frontend.core.caller import ANYONE, TENANT_RULE, Caller, Role, is_tenant
from tokenwire_frontend.core.voucher import Vouchers
from tokenwire_frontend.identity import refusals
from tokenwire_frontend.identity.api_keys import PREFIX, ApiKeys

if TYPE_CHECKING:
    from tokenwire_frontend.identity.jwts import Jwts

CREDENTIAL_KEY = "authorization"
"""Metadata with an API key or a JWT: `Bearer ...`."""

TENANT_KEY = "x-tokenwire-tenant"
"""Metadata with the caller's tenant: who it is, where callers are not authenticated."""

VOUCHER_KEY = "tokenwire-caller"
"""Metadata of a call that another frontend, or another process of this one, sends on."""

AGAIN_S = 1.0
"""After which a stream's credential is checked again when it starts something: soon after a key is
withdrawn or has expired, and not for each of a thousand generations."""

SERVICE = "tokenwire.frontend.v1."
INFERENCE = "inference.GRPCInferenceService"

_REQUIRED: dict[str, Collection[Role]] = {
    f"{SERVICE}GenerationService/CancelGeneration": (Role.CALL, Role.ADMIN),
    f"{SERVICE}GenerationService": (Role.CALL,),
    f"{SERVICE}TokenizationService": (Role.CALL,),
    f"{SERVICE}ModelService": tuple(Role),
    f"{SERVICE}ActivityService": (Role.LOOK, Role.ADMIN),
    "openai": (Role.CALL,),
    "openai/v1/models": tuple(Role),
    "openai/v1/models/{model}": tuple(Role),
    "openai/requests/{request_id}": tuple(Role),
    f"{INFERENCE}/ModelInfer": (Role.CALL,),
    f"{INFERENCE}/ModelStreamInfer": (Role.CALL,),
    INFERENCE: tuple(Role),
    "grpc.reflection.v1.ServerReflection": tuple(Role),
    "grpc.reflection.v1alpha.ServerReflection": tuple(Role),
}
"""Roles of which a method's caller must have one, by method or service; of others, ADMIN."""


class Call(Certified, Protocol):
    """A call that says who makes it, such as gRPC's context."""

    def invocation_metadata(self) -> Any:
        """Returns pairs of key and value, or None."""


Proof = Callable[[], Caller]
"""Returns the caller whose credential it has checked just now; raises ServiceError."""


class _Admitted:
    """The caller of one call."""

    def __init__(self, proof: Proof, caller: Caller) -> None:
        self._proof = proof
        self._caller = caller
        self._checked_s = time.monotonic()

    def caller(self) -> Caller:
        now_s = time.monotonic()
        if now_s - self._checked_s >= AGAIN_S:
            self._caller = self._proof()
            self._checked_s = now_s
        return self._caller


_ADMITTED: ContextVar[_Admitted | None] = ContextVar("admitted", default=None)


def current() -> Caller:
    """Returns the caller of the call that this task serves.

    Raises:
        ServiceError: its credential is not good any more.
    """
    admitted = _ADMITTED.get()
    return ANYONE if admitted is None else admitted.caller()


class Callers:
    """Lets calls in.

    Args:
        vouchers: of calls that are sent on.
        keys: API keys that are accepted; None: none.
        jwts: likewise.
        certificates: the port asks for a certificate, which is a credential too.
        names: of which a certificate must have one; empty: any does.
    """

    def __init__(
        self,
        vouchers: Vouchers,
        *,
        keys: Watched[ApiKeys] | None = None,
        jwts: Jwts | None = None,
        certificates: bool = False,
        names: Collection[str] = (),
    ) -> None:
        self._vouchers = vouchers
        self._keys = keys
        self._jwts = jwts
        self._certificates = certificates
        self._names = ClientNames("--tls.client-names", names) if names else None
        self._asks = bool(keys or jwts or certificates)

    def admit(self, method: str, context: Call) -> None:
        """Lets a call in; its handler learns from `current` who the caller is.

        Raises:
            ServiceError: UNAUTHENTICATED or PERMISSION_DENIED.
            InvalidRequestError: the tenant's name is not one.
        """
        if self._names is not None:
            self._names.admit(method, context)
        told = {
            key: str(value)
            for key, value in context.invocation_metadata() or ()
            if key in (CREDENTIAL_KEY, TENANT_KEY, VOUCHER_KEY)
        }
        proof = partial(_permitted, self._proof(told, context), method)
        caller = proof()
        if VOUCHER_KEY not in told and told.get(TENANT_KEY, caller.tenant) != caller.tenant:
            raise refusals.other_tenant(told[TENANT_KEY])
        _ADMITTED.set(_Admitted(proof, caller))

    def _proof(self, told: dict[str, str], context: Call) -> Proof:
        """Returns what checks the call's credential; raises as `admit`."""
        if VOUCHER_KEY in told:
            vouched = self._vouchers.read(told[VOUCHER_KEY])
            if vouched is None:
                raise refusals.invalid("it was not vouched for by a frontend of this fleet")
            return lambda: vouched
        if not self._asks:
            named = Caller(_tenant(told[TENANT_KEY])) if TENANT_KEY in told else ANYONE
            return lambda: named
        if CREDENTIAL_KEY in told:
            return self._bearer(told[CREDENTIAL_KEY])
        if self._certificates:
            certified = _certified(context)
            return lambda: certified
        raise refusals.missing(self._accepted())

    def _bearer(self, credential: str) -> Proof:
        scheme, _, secret = credential.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise refusals.invalid(f"`{CREDENTIAL_KEY}` is not `Bearer` and a key or token")
        if self._keys is not None and (self._jwts is None or secret.startswith(PREFIX)):
            keys = self._keys
            return lambda: keys.value.caller(secret)
        if self._jwts is not None:
            return partial(self._jwts.caller, secret)
        raise refusals.invalid("API keys and JWTs are not supported here")

    def _accepted(self) -> str:
        kinds = {"an API key": self._keys, "a JWT": self._jwts}
        found = " or ".join(kind for kind, known in kinds.items() if known is not None)
        return f"{found}, as `{CREDENTIAL_KEY}: Bearer ...`"


def _permitted(proof: Proof, method: str) -> Caller:
    """Returns the caller, who may call the method."""
    caller = proof()
    required = _REQUIRED.get(method) or _REQUIRED.get(method.partition("/")[0], (Role.ADMIN,))
    if not caller.has(*required):
        raise refusals.role_missing(required)
    return caller


def _certified(context: Call) -> Caller:
    """Returns whom the caller's certificate names: by its first URI, else DNS name, else CN."""
    common = context.auth_context().get("x509_common_name", ())
    names = [*names_of(context), *(name.decode(errors="replace") for name in common)]
    if not names or not is_tenant(names[0]):
        raise refusals.invalid("the client's certificate has no name that a tenant can have")
    return Caller(names[0], frozenset({Role.CALL}))


def _tenant(name: str) -> str:
    if not is_tenant(name):
        raise invalid(TENANT_KEY, f"must have {TENANT_RULE}")
    return name
