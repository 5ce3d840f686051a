"""API keys, tokens, and the files that make them good."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from tokenwire_frontend.core.caller import Role
from tokenwire_frontend.identity import api_keys

ISSUER, AUDIENCE = "https://issuer.test", "tokenwire"


class KeyFile:
    """A file of API keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, str] = {}
        self._write()

    def add(self, tenant: str, *roles: Role, expired: bool = False) -> str:
        """Returns a new key of the file."""
        expires = datetime.now(UTC) - timedelta(seconds=5) if expired else None
        key, entry = api_keys.new(tenant, list(roles), expires)
        self._entries[key] = entry
        self._write()
        return key

    def remove(self, key: str) -> None:
        del self._entries[key]
        self._write()

    def _write(self) -> None:
        self.path.write_text("\n".join(["keys:", *self._entries.values(), ""]))


@cache
def signing_key(name: str = "issuer") -> ec.EllipticCurvePrivateKey:
    """Returns the private key of this name."""
    return ec.generate_private_key(ec.SECP256R1())


def public_jwk(name: str = "issuer", **fields: Any) -> dict[str, Any]:
    """Returns a key of a JWKS."""
    told = jwt.algorithms.ECAlgorithm.to_jwk(signing_key(name).public_key(), as_dict=True)
    return {**told, "kid": name, **fields}


def write_jwks(path: Path, *names: str) -> Path:
    """Writes a JWKS of these keys."""
    path.write_text(json.dumps({"keys": [public_jwk(name) for name in names or ("issuer",)]}))
    return path


def token(name: str = "issuer", *, lives_s: float = 600, **claims: Any) -> str:
    """Returns a token that is good but for what is said otherwise; None leaves a claim out."""
    told = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": time.time() + lives_s,
        "tenant": "acme",
        "roles": ["call"],
        **claims,
    }
    known = {key: value for key, value in told.items() if value is not None}
    return jwt.encode(known, signing_key(name), "ES256", {"kid": name})
