"""Incremental text equals the text of all ids at once, however the ids are split."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenwire_frontend.core.detokenizer import HELD_BYTES_LIMIT

from tests.frontend.tokenizer_kinds import REAL, WholeTokenizer, kinds

NAMES = sorted(kinds())
LONG = ("byte_level", "byte_fallback")
"""Kinds that are tried with long runs; the others would only take longer to say the same."""
EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True)

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


def streamed(
    tokenizer: WholeTokenizer, ids: list[int], cuts: list[int], seed: list[int] = ()
) -> str:
    detokenizer = tokenizer.detokenizer(seed=seed)
    text = "".join(detokenizer.push(part) for part in pieces(ids, cuts))
    return text + detokenizer.held()


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
    assert "".join(detokenizer.push([token]) for token in word) + detokenizer.held() == "Hello"


def id_of(tokenizer: WholeTokenizer, piece: str) -> int:
    """The id of a vocabulary's entry; without one, of none at all."""
    tokens = tokenizer._tokens
    return tokens.index(piece) if piece in tokens else tokenizer.vocabulary_size + 7


def word_of(tokenizer: WholeTokenizer) -> list[int]:
    """Ids of a word, in a vocabulary that knows it."""
    ids = tokenizer.encode_ids("hello", add_special_tokens=False)
    return ids or [id_of(tokenizer, "hello</w>")]


def textless_runs(tokenizer: WholeTokenizer) -> dict[str, list[int]]:
    """Runs of ids of which each has no text, or none yet, whatever the vocabulary."""
    special = next(iter(tokenizer.special_tokens), tokenizer.vocabulary_size)
    unfinished = tokenizer.encode_ids("🜁", add_special_tokens=False)
    whole = tokenizer.encode_ids("漢", add_special_tokens=False)
    zero, broken = id_of(tokenizer, "<0x00>"), id_of(tokenizer, "<0xFF>")
    word = word_of(tokenizer)[-1]
    pad = id_of(tokenizer, "<pad>")
    runs = {
        "special": [special],
        "unknown": [tokenizer.vocabulary_size + 3],
        "space": [id_of(tokenizer, "▁")],
        "empty": [id_of(tokenizer, "")],
        "repeated": [word],
        "pad": [pad, pad, pad],
        "unfinished": unfinished[:1],
        "continuation": unfinished[-1:],
        "characters": whole,
        "ascii bytes": [zero],
        "broken bytes": [broken],
        "broken at last": [*whole * 30, broken],
        "mixed": [special, *unfinished[:-1], special, word, *whole, tokenizer.vocabulary_size + 3],
    }
    return {kind: run for kind, run in runs.items() if run}


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_an_id_costs_the_same_whatever_came_before(name, skip, monkeypatch):
    """Any number of ids without text costs a bounded number of decodes of a bounded number each."""
    tokenizer, count = kinds()[name], 10_000 if name in LONG else 1_000
    texts = tokenizer._texts[skip]
    decode, sizes = texts.decode, []

    def counting(ids):
        sizes.append(len(ids))
        return decode(ids)

    monkeypatch.setattr(texts, "decode", counting)
    for kind, run in textless_runs(tokenizer).items():
        detokenizer = tokenizer.detokenizer(skip_special_tokens=skip, seed=run)
        whole, calls = 0, 0
        for place in range(count):
            sizes.clear()
            detokenizer.push([run[place % len(run)]])
            whole += sum(sizes)
            calls += len(sizes)
            assert len(sizes) <= 6, (kind, place)
            assert max(sizes, default=0) <= HELD_BYTES_LIMIT + 16, (kind, place)
        assert calls <= 3 * count, kind
        assert whole <= 20 * count, kind


@pytest.mark.parametrize("name", NAMES)
def test_ids_at_once_cost_no_more_than_one_by_one(name, monkeypatch):
    tokenizer = kinds()[name]
    texts = tokenizer._texts[True]
    decode, sizes = texts.decode, []
    monkeypatch.setattr(texts, "decode", lambda ids: sizes.append(len(ids)) or decode(ids))
    for kind, run in textless_runs(tokenizer).items():
        sizes.clear()
        tokenizer.detokenizer().push((run * 1_000)[:1_000])
        assert len(sizes) <= 3_000, kind
        assert sum(sizes) <= 20_000, kind


@pytest.mark.parametrize("name", NAMES)
def test_runs_without_text_leave_no_trace(name):
    """Text before and after them is what the decode of all ids gives."""
    tokenizer = kinds()[name]
    word = word_of(tokenizer)
    for kind, run in textless_runs(tokenizer).items():
        for size in (1, 2, 5, 17, 60):
            ids = [*word, *(run * size)[:60], *word, *run[:1], *word]
            for before in (ids, ids[len(word) :]):
                expected = tokenizer.decode(before, skip_special_tokens=True)
                assert streamed(tokenizer, before, [1]) == expected, (kind, size)
                assert streamed(tokenizer, before, [3, 1, 7]) == expected, (kind, size)


def test_special_tokens_within_a_character_do_not_break_it():
    tokenizer = kinds()["byte_fallback"]
    ids = [id_of(tokenizer, piece) for piece in ("<0xE6>", "</s>", "<0xBC>", "<s>", "<0xA2>", "t")]
    assert streamed(tokenizer, ids, [1]) == "漢t"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "漢t"


def test_broken_byte_runs_are_given_out_as_soon_as_they_are_known_to_be_broken():
    tokenizer = kinds()["byte_fallback"]
    ids = [id_of(tokenizer, f"<0x{byte:02X}>") for byte in b"\xe6\xbc\xff\xe6\xbc\xa2"]
    detokenizer = tokenizer.detokenizer()
    given = [detokenizer.push([token_id]) for token_id in ids]
    assert given == ["", "", "\ufffd" * 3, "\ufffd", "\ufffd", "\ufffd"]
    assert "".join(given) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["byte_fallback", "without_strip"])
def test_a_long_run_of_bytes_gives_out_its_characters(name):
    """Held back without end it would be memory and silence; what was given out then stays."""
    tokenizer = kinds()[name]
    text = "漢字です" * 100
    ids = [id_of(tokenizer, f"<0x{byte:02X}>") for byte in text.encode()]
    detokenizer = tokenizer.detokenizer()
    given = ""
    for place, token_id in enumerate(ids):
        given += detokenizer.push([token_id])
        assert len(text[: place // 3]) - len(given) <= HELD_BYTES_LIMIT // 3 + 1
    assert given + detokenizer.held() == text == tokenizer.decode(ids, skip_special_tokens=True)
    broken = detokenizer.push([id_of(tokenizer, "<0xFF>")])
    assert set(broken) == {"\ufffd"}
    assert len(broken) <= HELD_BYTES_LIMIT


def test_a_run_of_bytes_that_the_prompt_began_is_completed():
    """However the prompt's last ids are cut from it."""
    tokenizer = kinds()["byte_fallback"]
    ids = [id_of(tokenizer, f"<0x{byte:02X}>") for byte in "漢字です".encode()]
    word = tokenizer.encode_ids("t", add_special_tokens=False)[-1:]
    for cut in range(1, len(ids)):
        detokenizer = tokenizer.detokenizer(seed=ids[:cut])
        given = "".join(detokenizer.push([token_id]) for token_id in [*ids[cut:], *word])
        assert given == "漢字です"[cut // 3 :] + " t", cut


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
