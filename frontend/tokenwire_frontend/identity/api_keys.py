"""API keys: a file holds their hashes, and whose they are."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)
from tokenwire_service import yaml_file
from tokenwire_service.settings import worded

from tokenwire_frontend.core.caller import TENANT_RULE, Caller, Role, is_tenant
from tokenwire_frontend.identity import refusals

PREFIX = "tw_"
"""What a key begins with: it tells one from a JWT, and finds one that was published by mistake."""

_RANDOM_BYTES = 32
_KEY = re.compile(PREFIX + "[A-Za-z0-9_-]{43}")
"""Only keys of this form are looked up. They have 256 random bits, so nobody finds one from its
SHA-256, and a hash that is slow to compute would protect nothing."""

KEYS_LIMIT = 10_000
"""Keys of a file: about 5 MB in memory, read in about 1.2 s of CPU time on a thread of its own."""

FILE_BYTES = 4 * 2**20
"""Of a file: 10,000 keys have about 2 MB."""

DAY_S = 86400


def _tenant(text: str) -> str:
    if not is_tenant(text):
        raise ValueError(f"must have {TENANT_RULE}")
    return text


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    tenant: Annotated[str, AfterValidator(_tenant)]
    roles: Annotated[list[Role], Field(min_length=1)]
    expires: AwareDatetime | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # None: `keys:` without an entry, which is what stays once the last one has been removed.
    keys: Annotated[list[_Entry], Field(max_length=KEYS_LIMIT)] | None


class ApiKeys:
    """The keys of one reading of the file.

    Args:
        entries: by the SHA-256 of the key.
    """

    def __init__(self, entries: dict[bytes, tuple[Caller, float | None]]) -> None:
        self._entries = entries

    def caller(self, key: str) -> Caller:
        """Returns whose key it is.

        Raises:
            ServiceError: UNAUTHENTICATED; it is unknown here, or has expired.
        """
        if not _KEY.fullmatch(key):
            raise refusals.invalid("it does not have the form of an API key")
        # How long the look-up takes may tell of the digest, and a digest tells nothing of its key.
        found = self._entries.get(hashlib.sha256(key.encode()).digest())
        if found is None:
            raise refusals.invalid("the API key is unknown here")
        caller, expires_s = found
        if expires_s is not None and time.time() >= expires_s:
            raise refusals.expired("API key")
        return caller


def read(path: Path) -> ApiKeys:
    """Reads a file of keys.

    Raises:
        ValueError: it can't be read; names the file and the place.
    """
    try:
        told = _File.model_validate(yaml_file.load(path, FILE_BYTES))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        raise ValueError(f"{path}: {place}: {worded(fault)}") from error
    entries: dict[bytes, tuple[Caller, float | None]] = {}
    for number, entry in enumerate(told.keys or []):
        digest = bytes.fromhex(entry.sha256)
        if digest in entries:
            raise ValueError(f"{path}: keys.{number}.sha256: stands there twice")
        expires_s = None if entry.expires is None else entry.expires.timestamp()
        entries[digest] = Caller(entry.tenant, frozenset(entry.roles)), expires_s
    return ApiKeys(entries)


def new(tenant: str, roles: list[Role], expires: datetime | None) -> tuple[str, str]:
    """Returns a new key, and its entry in the file."""
    key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    entry: dict[str, object] = {
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "tenant": tenant,
        "roles": [role.value for role in roles],
    }
    if expires is not None:
        entry["expires"] = expires
    line = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=1000)
    return key, f"- {line.strip()}"
