"""How few tokens a text of some length can have, where the tokenizer lets that be known.

A prompt that cannot fit is refused by its length, before it is tokenised. So the bound must hold
for every text: where any part of a tokenizer may drop text, or put any length of it into one token,
there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from tokenizers import pre_tokenizers

_KEEPING_PRE_TOKENIZERS = frozenset({"ByteLevel", "Metaspace", "Digits"})
"""Split a text, or make it longer."""

_COMPOSING = frozenset({"NFC", "NFD"})
"""Unicode normalisations to equivalent characters."""

COMPOSING_FACTOR = 4
"""How many times shorter they make a text's UTF-8: 3.5 at most, over all of Unicode 14."""

LONGEST_LIMIT_BYTES = 4096
"""A longer token makes the bound useless."""


def bytes_per_token(description: dict[str, Any], tokens: Iterable[str | None]) -> int | None:
    """Returns the most bytes of UTF-8 of a text that one token can stand for, or None.

    Args:
        description: tokenizer.json.
        tokens: all tokens of the vocabulary, added ones included.
    """
    model = description.get("model") or {}
    names = set(tokens)
    if not knows_every_byte(description, names):
        return None
    added = description.get("added_tokens") or ()
    # Such a token takes any length of white space with it.
    if any(each.get("lstrip") or each.get("rstrip") for each in added):
        return None
    factor = _normalizer_factor(description.get("normalizer"))
    if factor is None or not _keeps(description.get("pre_tokenizer")):
        return None
    byte_level = not model.get("byte_fallback")
    # A byte-level vocabulary writes each byte as one character; others write the text's own,
    # or a longer one in the place of a space.
    sizes = [len(name) if byte_level else len(name.encode()) for name in names if name is not None]
    longest = max(*sizes, *(len(each["content"].encode()) for each in added))
    return longest * factor if longest <= LONGEST_LIMIT_BYTES else None


def knows_every_byte(description: dict[str, Any], names: AbstractSet[str | None]) -> bool:
    """Tells whether no text is unknown: what is unknown is dropped, or many become one token.

    Args:
        description: tokenizer.json.
        names: the tokens of its vocabulary.
    """
    model = description.get("model") or {}
    if model.get("type", "BPE") != "BPE":
        return False
    if model.get("byte_fallback"):
        return all(f"<0x{byte:02X}>" in names for byte in range(256))
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    return alphabet <= names and any(
        part.get("type") == "ByteLevel" for part in _parts(description, "pre_tokenizer")
    )


def normalizes(description: dict[str, Any]) -> bool:
    """Tells whether a tokenizer may change a text before it splits it.

    Args:
        description: tokenizer.json.
    """
    return bool(_parts(description, "normalizer"))


def _parts(description: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Returns the steps of a normalizer or pre-tokenizer."""
    whole = description.get(name)
    if whole is None:
        return []
    if whole.get("type") != "Sequence":
        return [whole]
    return whole.get("pretokenizers") or whole.get("normalizers") or []


def _normalizer_factor(normalizer: dict[str, Any] | None) -> int | None:
    """Returns how many times shorter a text's UTF-8 may become, or None for without bound."""
    factor = 1
    for part in _parts({"normalizer": normalizer}, "normalizer"):
        kind = part.get("type")
        if kind in _COMPOSING:
            factor *= COMPOSING_FACTOR
        elif kind == "Replace":
            pattern = part.get("pattern") or {}
            old, new = pattern.get("String"), part.get("content", "")
            if old is None or len(new.encode()) < len(old.encode()):
                return None
        elif kind not in ("Prepend", "ByteLevel"):
            return None
    return factor


def _keeps(pre_tokenizer: dict[str, Any] | None) -> bool:
    for part in _parts({"pre_tokenizer": pre_tokenizer}, "pre_tokenizer"):
        kind = part.get("type")
        if kind in ("Split", "Punctuation"):
            if part.get("behavior") == "Removed":
                return False
        elif kind not in _KEEPING_PRE_TOKENIZERS:
            return False
    return True
