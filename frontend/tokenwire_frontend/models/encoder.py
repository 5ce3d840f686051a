"""A model's tokenizer: text to ids, and what the frontend has to know of it.

Building one holds the GIL for as long as it takes, a third of a second for 128k ids, and so do most
of its calls. So it lives in the processes of TokenizerPool.
"""

from __future__ import annotations

import marshal
from array import array
from contextlib import suppress
from typing import Any

import tokenizers

from tokenwire_frontend.core.token_bytes import TOKEN_BYTES_LIMIT
from tokenwire_frontend.models.added_tokens import AddedTokens
from tokenwire_frontend.models.cache_counts import CacheCounts
from tokenwire_frontend.models.fast_encoder import FastEncoder, NotFastError, checked
from tokenwire_frontend.models.files import TOKENIZER_FILE, ModelFilesError
from tokenwire_frontend.models.literal_encoder import LiteralEncoder
from tokenwire_frontend.models.token_bound import bytes_per_token, normalizes

VOCABULARY_LIMIT = 2**22
"""Ids; the largest vocabularies in use have 262,144."""

SLICE_TOKENS = 8192
"""Tokens of one slice of the vocabulary, which the frontend reads in about 0.5 ms."""


class Encoder:
    """One tokenizer.

    Args:
        source: tokenizer.json.

    Raises:
        ModelFilesError: tokenizer.json can't be used.
    """

    def __init__(self, source: str) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(source)
        except Exception as error:  # what `tokenizers` raises has no type of its own
            raise ModelFilesError(f"{TOKENIZER_FILE} can't be used: {error}") from error
        # A tokenizer.json may carry its training's truncation and padding; serving wants neither.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.fast: FastEncoder | None = None
        """What encodes in its place, without offsets."""

    def quicken(self, source: str, whole: dict[str, Any]) -> FastEncoder:
        """Lets `fastokens` encode; returns what does.

        Args:
            source: tokenizer.json.
            whole: the same, parsed.

        Raises:
            NotFastError: it does not have the same ids for every text, as far as is known.
        """
        self.fast = checked(source, whole, self._encode)
        return self.fast

    def encode(
        self, text: str, *, add_special_tokens: bool, with_offsets: bool = False
    ) -> list[array[int]]:
        """Returns the ids and, where asked for, each token's first code point and its end."""
        if not with_offsets:
            if self.fast is not None:
                with suppress(NotFastError):
                    return [self.fast.encode(text, add_special_tokens)]
            return [self._encode(text, add_special_tokens)]
        [encoding] = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
        offsets = encoding.offsets
        return [
            array("I", encoding.ids),
            array("I", [start for start, _ in offsets]),
            array("I", [end for _, end in offsets]),
        ]

    def _encode(self, text: str, add_special_tokens: bool) -> array[int]:
        [encoding] = self._tokenizer.encode_batch_fast(
            [text], add_special_tokens=add_special_tokens
        )
        return array("I", encoding.ids)

    def cache_counts(self) -> CacheCounts:
        """Returns what of encoded texts is remembered, and how often that has served."""
        return CacheCounts() if self.fast is None else self.fast.cache_counts()

    def literal(self) -> LiteralEncoder:
        """Returns what encodes text that a caller wrote without control tokens."""

        def encode(text: str, add_special_tokens: bool) -> array[int]:
            return self.encode(text, add_special_tokens=add_special_tokens)[0]

        return LiteralEncoder(self._tokenizer, encode)

    def finder(self, whole: dict[str, Any]) -> AddedTokens:
        """Returns what finds added tokens in a text; `whole` is tokenizer.json, parsed."""
        return AddedTokens(self._tokenizer, normalizes=normalizes(whole))

    def decode(self, token_ids: array[int], *, skip_special_tokens: bool) -> str:
        """Returns the text of the ids."""
        return self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=skip_special_tokens)

    @property
    def added_tokens(self) -> list[str]:
        """Texts of the tokens that were added to the vocabulary, special ones and others."""
        return [each.content for each in self._tokenizer.get_added_tokens_decoder().values()]

    def describe(self, whole: dict[str, Any]) -> dict[str, Any]:
        """Returns what `Tokenizer` is made of; `whole` is tokenizer.json, parsed.

        Raises:
            ModelFilesError: an id is too high, or a token too long.
        """
        highest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if highest >= VOCABULARY_LIMIT:
            raise ModelFilesError(
                f"{TOKENIZER_FILE} has id {highest}; at most {VOCABULARY_LIMIT - 1}"
            )
        tokens = [self._tokenizer.id_to_token(index) for index in range(highest + 1)]
        longest = max((len(token.encode()) for token in tokens if token is not None), default=0)
        if longest > TOKEN_BYTES_LIMIT:
            raise ModelFilesError(
                f"{TOKENIZER_FILE} has a token of {longest} bytes; at most {TOKEN_BYTES_LIMIT}"
            )
        return {
            "tokens": [
                marshal.dumps(tokens[start : start + SLICE_TOKENS])
                for start in range(0, len(tokens), SLICE_TOKENS)
            ],
            "special_tokens": {
                token_id: token.content
                for token_id, token in self._tokenizer.get_added_tokens_decoder().items()
                if token.special
            },
            "decoder": whole.get("decoder"),
            "vocabulary_size": self._tokenizer.get_vocab_size(with_added_tokens=True),
            "bytes_per_token": bytes_per_token(whole, tokens),
        }
