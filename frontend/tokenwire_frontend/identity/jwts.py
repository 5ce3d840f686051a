"""JWTs: signed by an issuer whose public keys are in a local file, a JWKS."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jwt
from tokenwire_service.watching import Watched

from tokenwire_frontend.core.caller import Caller, Role, is_tenant
from tokenwire_frontend.identity import refusals
from tokenwire_frontend.settings import JwtSettings

_OF_TYPE: Mapping[str, Sequence[str]] = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
}
"""Algorithms by the type of the key. All are asymmetric: who can check a token can't make one."""

LEEWAY_S = 30.0
"""By which the clocks of issuer and frontend may differ."""

REMEMBERED = 4096
"""Tokens whose signature is known to be good: about 300 bytes each, and checking one anew takes
about 0.5 ms."""

FILE_BYTES = 2**20
"""Of a JWKS: 100 keys have about 50 KB."""


Keys = Mapping[str, jwt.PyJWK]
"""By key id; empty: the key has none."""


def read_keys(path: Path) -> Keys:
    """Reads a JWKS.

    Raises:
        ValueError: it can't be read, or a key of it is not a public one; names the file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if len(content) > FILE_BYTES:
        raise ValueError(f"{path}: has more than {FILE_BYTES} bytes")
    try:
        told = json.loads(content)["keys"]
        found = {str(each.get("kid", "")): _key(each) for each in told}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: is not a JWKS: {error}") from error
    except jwt.PyJWTError as error:
        raise ValueError(f"{path}: a key can't be used: {error}") from error
    if not found:
        raise ValueError(f"{path}: has no key")
    if len(found) != len(told):
        raise ValueError(f"{path}: two keys have the same `kid`, or none")
    return found


def _key(told: dict[str, Any]) -> jwt.PyJWK:
    if told.get("kty") not in _OF_TYPE or "d" in told:
        raise ValueError("only public keys of type RSA, EC and OKP are supported")
    return jwt.PyJWK(told)


class Jwts:
    """Checks tokens.

    Args:
        chosen: what a token must say.
        keys: of the issuer.
    """

    def __init__(self, chosen: JwtSettings, keys: Watched[Keys]) -> None:
        self._chosen = chosen
        self._keys = keys
        self._checked_with = keys.value
        self._good: OrderedDict[bytes, tuple[Caller, int]] = OrderedDict()
        """Caller and `exp` of each good token, by its hash; the one used last is last."""

    def caller(self, token: str) -> Caller:
        """Returns whom the token names.

        Raises:
            ServiceError: UNAUTHENTICATED; it is not good here, or has expired.
        """
        keys = self._keys.value
        if keys is not self._checked_with:
            self._checked_with = keys
            self._good.clear()
        digest = hashlib.sha256(token.encode()).digest()
        good = self._good.get(digest)
        if good is None:
            good = self._good[digest] = self._checked(token, keys)
            if len(self._good) > REMEMBERED:
                self._good.popitem(last=False)
        else:
            self._good.move_to_end(digest)
        caller, expires_s = good
        if time.time() - LEEWAY_S >= expires_s:
            del self._good[digest]
            raise refusals.expired("token")
        return caller

    def _checked(self, token: str, keys: Keys) -> tuple[Caller, int]:
        try:
            key = _signer(token, keys)
            claims = jwt.decode(
                token,
                key.key,
                algorithms=_algorithms(key),
                issuer=self._chosen.issuer,
                audience=self._chosen.audience,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise refusals.expired("token") from error
        except jwt.PyJWTError as error:
            raise refusals.invalid(str(error)) from error
        return self._named(claims), int(claims["exp"])

    def _named(self, claims: Mapping[str, Any]) -> Caller:
        tenant = claims.get(self._chosen.tenant_claim)
        if not isinstance(tenant, str) or not is_tenant(tenant):
            raise refusals.invalid(f"its claim {self._chosen.tenant_claim!r} names no tenant")
        told = claims.get(self._chosen.roles_claim, ())
        names = told.split() if isinstance(told, str) else told
        known = names if isinstance(names, list) else ()
        return Caller(tenant, frozenset(role for role in Role if role.value in known))


def _signer(token: str, keys: Keys) -> jwt.PyJWK:
    """Returns the key that the token says it is signed with; the only one may go unsaid."""
    named = jwt.get_unverified_header(token).get("kid")
    if named is None and len(keys) == 1:
        return next(iter(keys.values()))
    found = keys.get(str(named))
    if found is None:
        raise refusals.invalid("it is signed with a key that is unknown here")
    return found


def _algorithms(key: jwt.PyJWK) -> Sequence[str]:
    told = key._jwk_data  # noqa: SLF001 - PyJWK tells a default where the JWKS does not say
    return [told["alg"]] if "alg" in told else _OF_TYPE[told["kty"]]
