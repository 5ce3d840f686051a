"""What each token id adds to a text, found once for a tokenizer and shared by all its sequences.

Most ids add the same text wherever they stand, so a table answers for them, and only the rest asks
the tokenizer's decode with the ids around. Which ids those are depends on the decoder that
tokenizer.json describes:

* `ByteLevel` joins bytes: an id's text is fixed unless it is a part of a character.
* Decoders of the SentencePiece and WordPiece kinds treat the beginning of the text apart, such as
  by dropping a space there; after that an id's text is fixed, but for byte fallback.
* Of others nothing is known, and every id is decoded with those before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from itertools import islice
from typing import Any

REPLACEMENT = "\ufffd"

ANCHOR_SEARCH_IDS = 4096
"""Ids that are searched for a visible one; special and byte tokens, which come first in many
vocabularies, are some hundreds."""

Decode = Callable[[Sequence[int]], str]

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

_PIECE_DECODERS = frozenset({"Replace", "Metaspace", "WordPiece", "ByteFallback", "Strip"})
"""Those that change each piece by itself, but for the first one and for runs of bytes."""


class Context(Enum):
    """On what the text of an id depends, besides parts of characters."""

    NOTHING = auto()
    START = auto()
    """Whether any text stands before it."""
    UNKNOWN = auto()


class TokenTexts(dict[int, "str | None"]):
    """By id: the text that it adds after any visible text; None where that depends on more.

    Args:
        decode: the tokenizer's decode of a list of ids.
        piece: returns an id's entry in the vocabulary, or None where it has none.
        skipped: entries that `decode` leaves out, as special tokens.
        decoder: the decoder as tokenizer.json describes it.
    """

    def __init__(
        self,
        decode: Decode,
        piece: Callable[[int], str | None],
        *,
        skipped: frozenset[str] = frozenset(),
        decoder: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.raw: list[bytes | None] = [None]
        """The same in UTF-8, by id, of ids that `encoded` was asked for; None for others."""
        self.decode = decode
        self.byte_values: dict[int, int] = {}
        """Bytes that ids of a byte-fallback vocabulary stand for, of those that were looked up."""
        self.anchor: list[int] = []
        """Ids whose text may stand before any other's where a visible text is required."""
        self._piece = piece
        self._skipped = skipped
        self._byte_fallback = any(each.get("type") == "ByteFallback" for each in _parts(decoder))
        self.context = _context(decoder)
        if self.context is Context.START:
            self.anchor = [*islice(filter(self._visible, range(ANCHOR_SEARCH_IDS)), 1)]
            if not self.anchor:
                self.context = Context.UNKNOWN
        self.joins_bytes = self.context is not Context.START and not self._byte_fallback
        """Whether a U+FFFD at a text's end may become a character with the next ids."""
        self.anchor_text = decode(self.anchor) if self.anchor else ""

    def __missing__(self, token_id: int) -> str | None:
        piece = self._piece(token_id)
        if piece is None:  # not kept: there are more such ids than could be held
            return ""
        self[token_id] = text = self._text(token_id, piece)
        return text

    def encoded(self, token_id: int) -> bytes | None:
        """Returns the same in UTF-8."""
        raw = self.raw
        if token_id < len(raw) and (known := raw[token_id]) is not None:
            return known
        text = self[token_id]
        if text is None:
            return None
        if token_id in self:  # what is not in the vocabulary is not kept
            raw.extend([None] * (token_id + 1 - len(raw)))
            raw[token_id] = text.encode()
        return text.encode()

    def left_out(self, token_id: int) -> bool:
        """Returns whether the decoder never sees the id."""
        piece = self._piece(token_id)
        return piece is None or piece in self._skipped

    def _text(self, token_id: int, piece: str) -> str | None:
        if piece in self._skipped:
            return ""
        if self._byte_fallback and (byte := _BYTE_PIECE.fullmatch(piece)):
            self.byte_values[token_id] = int(byte[1], 16)
            return None
        if self.context is Context.UNKNOWN:
            return None
        text = self.decode([*self.anchor, token_id])
        if self.context is Context.NOTHING and REPLACEMENT in text:
            return None
        return text.removeprefix(self.anchor_text)

    def _visible(self, token_id: int) -> bool:
        if self.left_out(token_id) or _BYTE_PIECE.fullmatch(self._piece(token_id) or ""):
            return False
        text = self.decode([token_id])
        return text.strip() != "" and REPLACEMENT not in text


def _parts(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Returns the steps of a decoder, those of sequences within it too."""
    if decoder is None:
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    return [part for each in decoder.get("decoders", ()) for part in _parts(each)]


def _context(decoder: Mapping[str, Any] | None) -> Context:
    parts = _parts(decoder)
    kinds = [each.get("type") for each in parts]
    if kinds == ["ByteLevel"]:
        return Context.NOTHING
    if not kinds:  # pieces joined by spaces
        return Context.START
    fuse = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    # What comes after Fuse sees the whole text, of which no end may change later.
    whole = all(
        kind == "Fuse" or (kind == "Strip" and part.get("stop") == 0)
        for kind, part in zip(kinds[fuse:], parts[fuse:], strict=True)
    )
    return Context.START if whole and _PIECE_DECODERS.issuperset(kinds[:fuse]) else Context.UNKNOWN
