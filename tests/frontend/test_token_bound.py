"""A text has never fewer tokens than its length says; where nothing is known, nothing is said."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from tests.frontend.tokenizer_kinds import WholeTokenizer, byte_fallback, byte_level, kinds

EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True)

PIECE = st.one_of(
    st.characters(codec="utf-8"),
    st.sampled_from("\u212a\u1fef\u0390\u1fd3 \t\n\u1161\u11a8\ufb01\uff21\U0001d400"),
    st.sampled_from(["the ", "  ", "<|end|>", "Hello", "\u03b9\u0308\u0301", "<mark>"]),
)
TEXT = st.lists(PIECE, max_size=60).map("".join)


def made(change, base=byte_level) -> WholeTokenizer:
    tokenizer = base()
    change(tokenizer)
    return WholeTokenizer(tokenizer.to_str())


def normalizing(normalizer, base=byte_level) -> WholeTokenizer:
    return made(lambda tokenizer: setattr(tokenizer, "normalizer", normalizer), base)


def splitting(pre_tokenizer) -> WholeTokenizer:
    whole = pre_tokenizers.Sequence([pre_tokenizer, pre_tokenizers.ByteLevel(use_regex=False)])
    return made(lambda tokenizer: setattr(tokenizer, "pre_tokenizer", whole))


def adding(token: AddedToken) -> WholeTokenizer:
    return made(lambda tokenizer: tokenizer.add_tokens([token]))


def without_a_byte() -> WholeTokenizer:
    description = json.loads(byte_level().to_str())
    vocabulary = description["model"]["vocab"]
    lacking = {name: index for name, index in vocabulary.items() if "Z" not in name}
    description["model"]["vocab"] = lacking
    return WholeTokenizer(json.dumps(description))


BOUNDED = {
    "byte level": made(lambda _: None),
    "byte fallback": made(lambda _: None, byte_fallback),
    "composed": normalizing(normalizers.NFC()),
    "decomposed": normalizing(normalizers.NFD()),
    "composed, then decomposed": normalizing(
        normalizers.Sequence([normalizers.NFC(), normalizers.NFD()])
    ),
    "longer by its normalizer": normalizing(normalizers.Replace("a", "aa")),
    "with a prefix": normalizing(normalizers.Prepend("x")),
    "split at digits": splitting(pre_tokenizers.Digits(individual_digits=True)),
    "split at spaces": splitting(pre_tokenizers.Split(" ", "isolated")),
    "with long added tokens": adding(AddedToken("the world and the other world é")),
}

UNBOUNDED = {
    "compatible characters": normalizing(normalizers.NFKC()),
    "stripped": normalizing(normalizers.Strip()),
    "lower case": normalizing(normalizers.Lowercase()),
    "shorter by its normalizer": normalizing(normalizers.Replace("aaaa", "a")),
    "spaces removed": splitting(pre_tokenizers.Split(" ", "removed")),
    "white space removed": splitting(pre_tokenizers.WhitespaceSplit()),
    "a token with white space": adding(AddedToken("<mark>", lstrip=True)),
    "a byte is unknown": without_a_byte(),
}


@pytest.mark.parametrize("name", BOUNDED)
@EXAMPLES
@given(text=TEXT)
@example(text="\u212a" * 40)
@example(text="\u03b9\u0308\u0301" * 40)
@example(text="\u1100\u1161\u11a8" * 40)
@example(text=" " * 200)
@example(text="the world and the other world é" * 9)
def test_no_text_has_fewer_tokens_than_it_is_said_to_have(name, text):
    tokenizer = BOUNDED[name]
    tokens = len(tokenizer.encode_ids(text, add_special_tokens=False))
    assert tokenizer.fewest_tokens(text) <= tokens
    assert tokenizer.fewest_tokens("x" * 100_000) > 100


@pytest.mark.parametrize("name", sorted(kinds()))
@EXAMPLES
@given(text=TEXT)
def test_nor_has_any_text_of_other_kinds(name, text):
    tokenizer = kinds()[name]
    ids = tokenizer.encode_ids(text, add_special_tokens=False)
    assert tokenizer.fewest_tokens(text) <= len(ids)


@pytest.mark.parametrize("name", UNBOUNDED)
def test_where_text_may_be_dropped_or_shortened_nothing_is_said(name):
    assert UNBOUNDED[name].fewest_tokens("x" * 100_000) == 0


def test_a_vocabulary_of_words_says_nothing():
    tokenizer = made(lambda tokenizer: setattr(tokenizer, "model", models.WordLevel({"a": 0})))
    assert tokenizer.fewest_tokens("x" * 100_000) == 0
