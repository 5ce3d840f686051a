"""Text to ids where control tokens' text that a caller wrote is ordinary text."""

from __future__ import annotations

import re
from array import array
from contextlib import suppress
from dataclasses import dataclass

import tokenizers
from tokenizers import AddedToken, normalizers

from tokenwire_frontend.models.fast_encoder import Encode
from tokenwire_frontend.models.marked_text import Marks, planes

_UNKNOWN = "\U0010fffd"
"""A character that no vocabulary has."""


class LiteralEncoder:
    """Encodes marked text: of what the caller wrote, nothing becomes a control token.

    A control token is an added token that is special, or is not white space. The tokenizer finds
    them before it normalises a text; so where it finds one in what the caller wrote, a character of
    it is hidden by its mark until then.

    Args:
        tokenizer: the model's own.
        encode: what turns its texts into ids, without offsets.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, encode: Encode) -> None:
        self._tokenizer = tokenizer
        self._encode = encode
        added = tokenizer.get_added_tokens_decoder()
        self._control = {
            token_id
            for token_id, token in added.items()
            if token.special or token.content.strip(" \t\r\n\u2581")
        }
        self._pattern = _pattern([added[token_id] for token_id in self._control])
        self._added_controls = {
            special: self._count_controls(encode("", special)) for special in (False, True)
        }
        self._alphabet = frozenset("".join(added[token_id].content for token_id in self._control))
        self._unknown: set[int] = set()
        with suppress(Exception):  # a model that has no unknown token
            self._unknown = {each.id for each in tokenizer.model.tokenize(_UNKNOWN)}
        # With the same model, and finds control tokens before it normalises.
        self._hiding = tokenizers.Tokenizer(tokenizer.model)
        for part in ("pre_tokenizer", "post_processor"):
            if (own := getattr(tokenizer, part)) is not None:
                setattr(self._hiding, part, own)
        self._hiding.add_tokens(
            [self._early(token_id, token) for token_id, token in sorted(added.items())]
        )

    def encode(self, marked: str, marks: Marks, *, add_special_tokens: bool) -> array[int]:
        """Returns the ids of a text whose marks tell what the caller wrote."""
        written = marks.unmarked(marked)
        caller = _Caller(planes(marked), marks.plane)
        whole = self._as_it_is(written, caller, add_special_tokens)
        if whole is not None:
            return whole
        shown, tokenizer = written, self._tokenizer
        for every in (False, True):
            encoding = self._encoded(tokenizer, shown, add_special_tokens)
            found = self._found(encoding, written, caller)
            shown_planes = planes(shown)
            places = [
                caller.first(start, end)
                for _, start, end in found
                if marks.plane not in shown_planes[start:end]
            ]
            if not places:
                break
            if every:  # what is hidden has uncovered others, such as "<s>" in "<<s>>"
                alphabet = self._alphabet
                places = [at for at, each in enumerate(written) if each in alphabet]
            shown = _with(written, marked, places)
            tokenizer = self._showing({marked[at]: written[at] for at in places})
        else:
            encoding = self._encoded(tokenizer, shown, add_special_tokens)
            found = self._found(encoding, written, caller)
        return self._in_pieces(encoding, {index for index, _, _ in found})

    def _as_it_is(
        self, written: str, caller: _Caller, add_special_tokens: bool
    ) -> array[int] | None:
        """Returns the ids where the caller wrote no control token, as far as that is soon told."""
        if self._pattern is None:
            return None
        controls = self._added_controls[add_special_tokens]
        for found in self._pattern.finditer(written):
            if caller.first(*found.span()) >= 0:
                return None
            controls += 1
        ids = self._encode(written, add_special_tokens)
        # More: the model made one of ordinary text, or of what it does not know.
        return ids if self._count_controls(ids) == controls else None

    def _count_controls(self, ids: array[int]) -> int:
        return sum(map(self._control.__contains__, ids))

    def _early(self, token_id: int, token: AddedToken) -> AddedToken:
        return AddedToken(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized and token_id not in self._control,
            special=token.special,
        )

    def _encoded(
        self, tokenizer: tokenizers.Tokenizer, text: str, add_special_tokens: bool
    ) -> tokenizers.Encoding:
        [encoding] = tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        return encoding

    def _found(
        self, encoding: tokenizers.Encoding, written: str, caller: _Caller
    ) -> list[tuple[int, int, int]]:
        """Returns the index of each control token that the caller wrote, and where it stands."""
        found = []
        offsets = encoding.offsets
        for index, token_id in enumerate(encoding.ids):
            if token_id in self._control:
                start, end = offsets[index]
                # The unknown token stands for other text than its own too.
                own = token_id not in self._unknown or self._text_of(token_id) in written[start:end]
                if own and caller.first(start, end) >= 0:
                    found.append((index, start, end))
        return found

    def _in_pieces(self, encoding: tokenizers.Encoding, found: set[int]) -> array[int]:
        """Returns the ids; a control token that the model itself found becomes its characters."""
        ids = array("I", encoding.ids)
        if not found:
            return ids
        whole = array("I")
        for index, token_id in enumerate(ids):
            whole.extend(self._characters(token_id) if index in found else (token_id,))
        return whole

    def _characters(self, token_id: int) -> list[int]:
        """Returns the ids of a token's characters."""
        model = self._tokenizer.model
        pieces = [each.id for part in self._text_of(token_id) for each in model.tokenize(part)]
        return [each for each in pieces if each in self._unknown or each not in self._control]

    def _text_of(self, token_id: int) -> str:
        return self._tokenizer.id_to_token(token_id) or ""

    def _showing(self, hidden: dict[str, str]) -> tokenizers.Tokenizer:
        """Returns the tokenizer that shows hidden characters once control tokens are found."""
        shows = [normalizers.Replace(each, hidden[each]) for each in hidden if each != hidden[each]]
        own = self._tokenizer.normalizer
        self._hiding.normalizer = normalizers.Sequence([*shows, *([] if own is None else [own])])
        return self._hiding


def _pattern(controls: list[AddedToken]) -> re.Pattern[str] | None:
    """Returns what finds control tokens where the tokenizer does: the longest at each place.

    None where they are found in other text than is written, or where there is none.
    """
    flags = ("normalized", "single_word", "lstrip", "rstrip")
    if not controls or any(getattr(each, flag) for each in controls for flag in flags):
        return None
    longest_first = sorted((each.content for each in controls), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


@dataclass(frozen=True, slots=True)
class _Caller:
    """What of a text the caller wrote."""

    planes: bytes
    plane: int

    def first(self, start: int, end: int) -> int:
        """Returns the place of its first character in a stretch, or -1."""
        return self.planes.find(self.plane, start, end)


def _with(text: str, other: str, places: list[int]) -> str:
    """Returns a text with the characters of another one at some places."""
    characters = list(text)
    for place in places:
        characters[place] = other[place]
    return "".join(characters)
