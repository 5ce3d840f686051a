"""A model's tokenizer and chat template.

`encode` of Hugging Face tokenizers holds the GIL and would stop the event loop for as long as a
long text takes; `encode_batch_fast` releases it. So encoding runs in a TokenizerPool, and decoding,
which takes about a microsecond a step, runs in place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

import tokenizers

from tokenwire_frontend.core.detokenizer import Detokenizer
from tokenwire_frontend.core.stop_matcher import SpecialTokens
from tokenwire_frontend.core.token_texts import TokenTexts
from tokenwire_frontend.models.chat_template import ChatTemplate

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"


class Tokenizer:
    """One model's text side. Build it off the event loop: reading a large vocabulary takes seconds.

    Args:
        files: contents by name; tokenizer.json is needed, tokenizer_config.json and
            chat_template.jinja are used where they are given.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        source = files[TOKENIZER_FILE]
        self.fingerprint = sha256(source).hexdigest()
        """SHA-256 of tokenizer.json, 64 lower-case hex digits."""
        self._tokenizer = tokenizers.Tokenizer.from_buffer(source)
        # A tokenizer.json may carry its training's truncation and padding; serving wants neither.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        description = json.loads(source)
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_tokens = SpecialTokens(
            {token_id: token.content for token_id, token in added.items() if token.special}
        )
        """Texts of the special tokens, by id."""
        self._texts = {
            skip: TokenTexts(
                partial(self._tokenizer.decode, skip_special_tokens=skip),
                self._tokenizer.id_to_token,
                skipped=frozenset(self.special_tokens.values() if skip else ()),
                decoder=description.get("decoder"),
            )
            for skip in (False, True)
        }
        config = json.loads(files.get(TOKENIZER_CONFIG_FILE, b"{}"))
        self.chat_template = _chat_template(files, config)

    @property
    def vocabulary_size(self) -> int:
        """Ids that the tokenizer knows, added tokens included."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    def encode(self, text: str, *, add_special_tokens: bool) -> tokenizers.Encoding:
        """Returns the encoding: `ids`, and `offsets` in code points. Releases the GIL."""
        return self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)[0]

    def encode_ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Returns the ids alone, without the cost of offsets. Releases the GIL."""
        [encoding] = self._tokenizer.encode_batch_fast(
            [text], add_special_tokens=add_special_tokens
        )
        ids: list[int] = encoding.ids
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Returns the text of the ids."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def detokenizer(
        self, *, skip_special_tokens: bool = True, seed: Sequence[int] = ()
    ) -> Detokenizer:
        """Returns a fresh incremental detokeniser, with the ids before it for context."""
        return Detokenizer(self._texts[skip_special_tokens], seed=seed)


def _chat_template(files: Mapping[str, bytes], config: dict[str, Any]) -> ChatTemplate | None:
    """Returns chat_template.jinja's template, else tokenizer_config.json's, else None."""
    if CHAT_TEMPLATE_FILE in files:
        source: Any = files[CHAT_TEMPLATE_FILE].decode()
    else:
        source = config.get("chat_template")
    if isinstance(source, list):  # several named templates; `default` is the plain one
        source = next((each["template"] for each in source if each["name"] == "default"), None)
    if not source:
        return None
    return ChatTemplate(source, _special_tokens(config))


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Returns the config's `*_token` entries as text."""
    tokens = {}
    for name, value in config.items():
        if name.endswith("_token"):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                tokens[name] = text
    return tokens
