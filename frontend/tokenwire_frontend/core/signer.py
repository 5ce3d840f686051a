"""Short texts that are signed, so that a frontend believes them when they come back."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

KEY_BYTES = 32
"""Of a key that is made here: as many as the signature has."""

_MAC_BYTES = hashlib.sha256().digest_size


class Signer:
    """Signs and reads lists of texts, none of which has a line break.

    Args:
        key: secret of those who sign and read.
        purpose: signed with each, so that what is signed for something else never passes.
        characters_limit: most of a text that is read.
    """

    def __init__(self, key: bytes, purpose: str, characters_limit: int) -> None:
        self._key = key
        self._purpose = purpose.encode() + b"\n"
        self._characters_limit = characters_limit

    def write(self, parts: Sequence[str]) -> str:
        """Returns them as one text: letters, digits, `-` and `_`, and never a `-` first.

        A command line would take that for an option. UTF-8 begins with no byte that becomes a `-`;
        a signature may.
        """
        body = "\n".join(parts).encode()
        return base64.urlsafe_b64encode(body + self._sign(body)).decode().rstrip("=")

    def read(self, text: str) -> list[str] | None:
        """Returns what was written; None where nothing was, or with another key."""
        if not 0 < len(text) <= self._characters_limit:
            return None
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        body, signature = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if not hmac.compare_digest(signature, self._sign(body)):
            return None
        return body.decode().split("\n")

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, self._purpose + body, "sha256")
