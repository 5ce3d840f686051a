"""What the frontend itself holds of a model's tokenizer: enough to turn ids into text.

Text becomes ids in the processes of TokenizerPool. Ids become text here, a few at each step, as
`tokenizers` itself does it: the ids' tokens go through the model's own decoder.
"""

from __future__ import annotations

import asyncio
import json
import marshal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import tokenizers

from tokenwire_frontend.core.detokenizer import Detokenizer
from tokenwire_frontend.core.stop_matcher import SpecialTokens
from tokenwire_frontend.core.token_bytes import TokenBytes
from tokenwire_frontend.core.token_texts import TokenTexts


class Tokenizer:
    """One model's ids and their texts. `read_tokenizer` makes one of what `Encoder.describe` says.

    Args:
        tokens: each id's entry in the vocabulary; None where it has a gap.
        special_tokens: texts of the special tokens, by id.
        decoder: the decoder of tokenizer.json, or None.
        vocabulary_size: ids that the tokenizer knows, added tokens included.
        bytes_per_token: most bytes of a text's UTF-8 that one token stands for; None: no bound.
    """

    def __init__(
        self,
        tokens: list[str | None],
        *,
        special_tokens: Mapping[int, str],
        decoder: Mapping[str, Any] | None,
        vocabulary_size: int,
        bytes_per_token: int | None,
    ) -> None:
        self.special_tokens = SpecialTokens(special_tokens)
        self.vocabulary_size = vocabulary_size
        self._bytes_per_token = bytes_per_token
        self._tokens = tokens
        self._join = _join(decoder)
        self._texts = {
            skip: TokenTexts(
                partial(self.decode, skip_special_tokens=skip),
                self._token,
                skipped=frozenset(special_tokens.values() if skip else ()),
                decoder=decoder,
            )
            for skip in (False, True)
        }
        self.token_bytes = TokenBytes(self._texts[False], self._token)
        """The bytes of each id."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Returns the text of the ids; those that the vocabulary lacks have none."""
        hidden = self.special_tokens if skip_special_tokens else ()
        tokens = [self._token(token_id) for token_id in token_ids if token_id not in hidden]
        return self._join([token for token in tokens if token is not None])

    def detokenizer(
        self, *, skip_special_tokens: bool = True, seed: Sequence[int] = ()
    ) -> Detokenizer:
        """Returns a fresh incremental detokeniser, with the ids before it for context."""
        return Detokenizer(self._texts[skip_special_tokens], seed=seed)

    def fewest_tokens(self, text: str) -> int:
        """Returns a count of tokens that the text has at least, without tokenising it."""
        return fewest_tokens(text, self._bytes_per_token)

    def _token(self, token_id: int) -> str | None:
        return self._tokens[token_id] if token_id < len(self._tokens) else None


async def read_tokenizer(description: Mapping[str, Any]) -> Tokenizer:
    """Makes a tokenizer of what `Encoder.describe` returned, in slices that let others run."""
    tokens: list[str | None] = []
    for part in description["tokens"]:
        tokens.extend(marshal.loads(part))  # noqa: S302 - written by this frontend's own process
        await asyncio.sleep(0)
    return Tokenizer(**{**description, "tokens": tokens})


def fewest_tokens(text: str, bytes_per_token: int | None) -> int:
    """Returns a count of tokens that the text has at least; 0 without a bound."""
    if bytes_per_token is None:
        return 0
    size = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return -(-size // bytes_per_token)


def _join(decoder: Mapping[str, Any] | None) -> Callable[[list[str]], str]:
    """Returns what joins tokens into text, as `tokenizers.Tokenizer.decode` does."""
    if decoder is None:
        return " ".join
    empty = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    whole = {"version": "1.0", "added_tokens": [], "model": empty, "decoder": decoder}
    join: Callable[[list[str]], str] = tokenizers.Tokenizer.from_str(
        json.dumps(whole)
    ).decoder.decode
    return join
