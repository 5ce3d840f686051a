"""The bytes of a sequence's tokens, one after the other, are its text with special tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as HfTokenizer
from tokenwire_frontend.core.token_bytes import TOKEN_BYTES_LIMIT
from tokenwire_frontend.models.encoder import Encoder
from tokenwire_frontend.models.files import ModelFilesError

from tests.frontend.tokenizer_kinds import WholeTokenizer, byte_fallback, byte_level, kinds

KNOWN = [
    name
    for name in sorted(kinds())
    if name not in ("word_suffix", "connectionist", "word_level", "word_piece")
]
"""Those whose text is that of their tokens: byte-level, byte-fallback, and pieces."""


@pytest.mark.parametrize("name", KNOWN)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    text=st.text(
        st.one_of(st.characters(codec="utf-8"), st.sampled_from("😀👩\u200d🏳️é漢字 \n\ufffd▁")),
        max_size=40,
    )
)
def test_they_are_the_text_whatever_characters_the_tokens_split(name, text):
    tokenizer = kinds()[name]
    # What stands before, as a prompt does, keeps a decoder from dropping the first space.
    before = tokenizer.encode_ids("a", add_special_tokens=False)
    ids = tokenizer.encode_ids(text, add_special_tokens=False)
    raw = b"".join(tokenizer.token_bytes[token_id] for token_id in ids)
    shown = tokenizer.decode(before, skip_special_tokens=False)
    assert shown + raw.decode() == tokenizer.decode(before + ids, skip_special_tokens=False)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_a_character_split_into_tokens_has_a_byte_in_each(make):
    tokenizer = WholeTokenizer(make().to_str())
    [*ids] = tokenizer.encode_ids("x𝄞", add_special_tokens=False)
    assert [tokenizer.token_bytes[token_id] for token_id in ids[-4:]] == [
        b"\xf0", b"\x9d", b"\x84", b"\x9e"
    ]  # fmt: skip


def test_a_special_token_has_its_text_whatever_its_characters():
    tokenizer = byte_level()
    names = ["<\uff5cend▁of▁sentence\uff5c>", "<|x\ufffdy|>", "<|end|>"]
    tokenizer.add_special_tokens(names)
    whole = WholeTokenizer(tokenizer.to_str())
    for name in names:
        assert whole.token_bytes[tokenizer.token_to_id(name)] == name.encode()


def test_an_id_that_the_vocabulary_lacks_has_none_and_is_not_remembered():
    tokenizer = WholeTokenizer(byte_level().to_str())
    assert tokenizer.token_bytes[10**6] == b""
    assert 10**6 not in tokenizer.token_bytes


def _with_token(characters: int) -> str:
    tokenizer: HfTokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("x" * characters)])
    return tokenizer.to_str()


def test_a_token_that_no_message_would_hold_is_refused_with_its_model():
    Encoder(source := _with_token(TOKEN_BYTES_LIMIT)).describe(json.loads(source))
    too_long = _with_token(TOKEN_BYTES_LIMIT + 1)
    with pytest.raises(ModelFilesError, match="a token of 16385 bytes; at most 16384"):
        Encoder(too_long).describe(json.loads(too_long))
