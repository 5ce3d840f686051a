"""What a client holds of a generation that outlives its call: who has it, signed.

A frontend dials no address that a caller made up, so a token says who issued it, and every frontend
that is to read it has the key of the one that signed it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import astuple, dataclass

KEY_BYTES = 32
"""Of a key that is made here: as many as the signature has."""

TOKEN_CHARACTERS = 1024
"""Most of a token that is read: an address has at most 259, and the rest fewer."""

_PURPOSE = b"tokenwire resume token 1\n"
"""Signed with each token, so that what is signed for something else never passes for one."""

_MAC_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """Names one generation of one process of one frontend."""

    owner: str
    """HOST:PORT at which other frontends reach the owner; empty: they don't."""
    frontend: str
    """Name of the owner that no frontend had before, nor this one before its last start."""
    process: str
    """Which of its processes, and which run of it."""
    generation: str
    """Name of the generation there."""


class TokenSigner:
    """Writes and reads tokens.

    Args:
        key: secret that the fleet shares.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def write(self, token: ResumeToken) -> str:
        """Returns the token as text: letters, digits, `-` and `_`."""
        body = "\n".join(astuple(token)).encode()
        return base64.urlsafe_b64encode(self._sign(body) + body).decode().rstrip("=")

    def read(self, text: str) -> ResumeToken | None:
        """Returns the token; None where it is none, or was signed with another key."""
        if not 0 < len(text) <= TOKEN_CHARACTERS:
            return None
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        signature, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(signature, self._sign(body)):
            return None
        return ResumeToken(*body.decode().split("\n"))

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, _PURPOSE + body, "sha256")
