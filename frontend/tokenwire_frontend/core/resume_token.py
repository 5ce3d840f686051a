"""What a client holds of a generation that outlives its call: who has it, signed.

A frontend dials no address that a caller made up, so a token says who issued it, and every frontend
that is to read it has the key of the one that signed it.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from tokenwire_frontend.core.signer import Signer

TOKEN_CHARACTERS = 1024
"""Most of a token that is read: an address has at most 259, and the rest fewer."""


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
        self._signer = Signer(key, "tokenwire resume token 1", TOKEN_CHARACTERS)

    def write(self, token: ResumeToken) -> str:
        """Returns the token as text: letters, digits, `-` and `_`."""
        return self._signer.write(astuple(token))

    def read(self, text: str) -> ResumeToken | None:
        """Returns the token; None where it is none, or was signed with another key."""
        parts = self._signer.read(text)
        return None if parts is None else ResumeToken(*parts)
