"""Incremental text equals the text of all ids at once, however the ids are split."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire_frontend.models.tokenizer import Tokenizer

from tests.frontend.tokenizer_kinds import REAL, kinds

NAMES = sorted(kinds())
EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)

TEXT = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from("😀👩\u200d👧🏳️é漢字かな한글اللغة  \n\t\ufffd▁"),
    ),
    max_size=60,
)


def pieces(ids: list[int], cuts: list[int]) -> list[list[int]]:
    """Splits the ids into runs of the given sizes, repeating."""
    parts, start = [], 0
    while start < len(ids):
        size = cuts[len(parts) % len(cuts)]
        parts.append(ids[start : start + size])
        start += size
    return parts


def streamed(tokenizer: Tokenizer, ids: list[int], cuts: list[int], seed: list[int] = ()) -> str:
    detokenizer = tokenizer.detokenizer(seed=seed)
    text = "".join(detokenizer.push(part) for part in pieces(ids, cuts))
    return text + detokenizer.finish()


CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=5)


@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(text=TEXT, cuts=CUTS)
def test_joined_deltas_equal_the_full_decode(name, text, cuts):
    tokenizer = kinds()[name]
    ids = tokenizer.encode_ids(text, add_special_tokens=False)
    assert streamed(tokenizer, ids, cuts) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(data=st.data(), cuts=CUTS)
def test_any_ids_even_invalid_utf8_equal_the_full_decode(name, data, cuts):
    tokenizer = kinds()[name]
    size = tokenizer.vocabulary_size
    # Low ids are where byte tokens live, so half of the draws make broken characters.
    token = st.one_of(st.integers(0, size - 1), st.integers(0, min(size, 300) - 1))
    ids = data.draw(st.lists(token, max_size=60))
    assert streamed(tokenizer, ids, cuts) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(prompt=TEXT, text=TEXT, cuts=CUTS)
def test_a_seed_gives_context_and_is_never_given_out(name, prompt, text, cuts):
    tokenizer = kinds()[name]
    seed = tokenizer.encode_ids(prompt + "a", add_special_tokens=False)[-8:]
    ids = tokenizer.encode_ids(text, add_special_tokens=False)
    whole = tokenizer.decode(seed + ids, skip_special_tokens=True)
    before = tokenizer.decode(seed, skip_special_tokens=True)
    assert before + streamed(tokenizer, ids, cuts, seed) == whole


def test_a_character_is_held_back_until_it_is_whole():
    tokenizer = kinds()["byte_level"]
    ids = tokenizer.encode_ids("🜁x", add_special_tokens=False)
    assert len(ids) > 2, "the character must span several ids for this test to mean anything"
    detokenizer = tokenizer.detokenizer()
    texts = [detokenizer.push([token]) for token in ids]
    assert texts == [""] * (len(ids) - 2) + ["🜁", "x"]


def test_plain_words_are_never_held_back():
    for name in NAMES:
        tokenizer = kinds()[name]
        detokenizer = tokenizer.detokenizer()
        given_out = ""
        ids = tokenizer.encode_ids("the world and the other world", add_special_tokens=False)
        for place, token in enumerate(ids):
            given_out += detokenizer.push([token])
            assert given_out == tokenizer.decode(ids[: place + 1], skip_special_tokens=True), name


def test_a_character_that_the_prompt_began_is_completed():
    tokenizer = kinds()["byte_level"]
    ids = tokenizer.encode_ids("🜁", add_special_tokens=False)
    detokenizer = tokenizer.detokenizer(seed=ids[:-1])
    assert detokenizer.push(ids[-1:]) == "🜁"


def test_what_the_prompt_left_broken_is_not_the_answers():
    tokenizer = kinds()["byte_level"]
    broken = tokenizer.encode_ids("🜁", add_special_tokens=False)[:1]
    word = tokenizer.encode_ids("Hello", add_special_tokens=False)
    detokenizer = tokenizer.detokenizer(seed=broken)
    assert "".join(detokenizer.push([token]) for token in word) + detokenizer.finish() == "Hello"


def test_the_window_stays_short_while_nothing_becomes_certain():
    """A model that emits broken bytes for ever must not make each step dearer than the last."""
    tokenizer = kinds()["byte_level"]
    broken = tokenizer.encode_ids("🜁", add_special_tokens=False)[0]
    decoded: list[int] = []

    def counting(ids):
        decoded.append(len(ids))
        return tokenizer.decode(ids, skip_special_tokens=True)

    detokenizer = tokenizer.detokenizer()
    detokenizer._decode = counting
    text = "".join(detokenizer.push([broken]) for _ in range(2000)) + detokenizer.finish()
    assert text == tokenizer.decode([broken] * 2000, skip_special_tokens=True)
    assert max(decoded) <= 20


@pytest.mark.skipif(not REAL.exists(), reason="the folder of real tokenizers is not here")
@pytest.mark.parametrize("name", ["gpt2", "llama2"])
@pytest.mark.parametrize("text", ["small", "mixed", "utf8"])
def test_real_tokenizers_give_the_recorded_ids_and_stream_the_recorded_text(name, text):
    tokenizer = kinds()[name]
    source = (REAL / f"{text}_input.txt").read_text()
    expected = (REAL / f"{text}_tokens_{name}.txt").read_text().strip().split("\n")
    if text == "utf8":
        inputs = [source]
    else:
        inputs = [
            line.replace("\\n", "\n").replace("\\s", " ")
            for line in source.rstrip("\n").split("\n")
        ]
    for line, ids_text in zip(inputs, expected, strict=True):
        ids = [int(token) for token in ids_text.split(",") if token]
        assert tokenizer.encode_ids(line, add_special_tokens=False) == ids
        assert streamed(tokenizer, ids, [1]) == tokenizer.decode(ids, skip_special_tokens=True)
