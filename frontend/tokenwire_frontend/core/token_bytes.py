"""The bytes that each token id stands for.

The bytes of a sequence's tokens, one after the other, are its text in UTF-8 with special tokens in
it. Of one token alone they need not be UTF-8: many vocabularies have parts of characters as tokens.
Only a space that a decoder drops at the beginning of a text is a token's own all the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from tokenwire_frontend.core.token_texts import REPLACEMENT, TokenTexts

TOKEN_BYTES_LIMIT = 16 * 1024
"""Most bytes of one token: with 20 alternatives as long it still fits into a message of 1 MiB."""

NO_BYTES: Mapping[int, bytes] = defaultdict(bytes)
"""Of a vocabulary of which nothing is known."""


def _alphabet() -> dict[str, int]:
    """Returns the byte of each character of a byte-level vocabulary.

    Bytes that are printable in Latin-1 stand for themselves; the others, in order, for the
    characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


_BYTE_OF = _alphabet()


class TokenBytes(dict[int, bytes]):
    """By id: its bytes, found when they are first asked for.

    Args:
        texts: what each id adds to a text, with special tokens shown.
        piece: returns an id's entry in the vocabulary, or None where it has none.
    """

    def __init__(self, texts: TokenTexts, piece: Callable[[int], str | None]) -> None:
        super().__init__()
        self._texts = texts
        self._piece = piece

    def __missing__(self, token_id: int) -> bytes:
        piece = self._piece(token_id)
        if piece is None:  # not kept: there are more such ids than could be held
            return b""
        self[token_id] = raw = self._bytes(token_id, piece)
        return raw

    def _bytes(self, token_id: int, piece: str) -> bytes:
        text = self._texts[token_id]
        if text is not None:
            return text.encode()
        byte = self._texts.byte_values.get(token_id)
        if byte is not None:
            return bytes((byte,))
        # Of a decoder of which nothing is known, this is what it makes of the token alone.
        text = self._texts.decode((token_id,))
        if REPLACEMENT in text and _BYTE_OF.keys() >= set(piece):
            return bytes(map(_BYTE_OF.__getitem__, piece))
        return text.encode()
