"""Encoding by fastokens: the ids of tokenizers, or not used at all."""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as HfTokenizer
from tokenwire_frontend.models import fast_encoder
from tokenwire_frontend.models.encoder import Encoder
from tokenwire_frontend.models.fast_encoder import (
    FastEncoder,
    NotFastError,
    encodes_at_once,
)
from tokenwire_frontend.models.process import Jobs

from tests.frontend.tokenizer_kinds import DEMO, REAL, byte_fallback, byte_level, kinds

UNKNOWN = {"unigram", "word_piece", "word_suffix", "word_level", "connectionist"}
"""Kinds that fastokens does not know."""

UNSPELT = {"byte_fallback", "without_strip", "nested_fallback"}
"""Kinds whose vocabulary has byte tokens such as <0x0A>, but not the characters of their names: the
text "<0x0A>" is six unknown characters to tokenizers, and the byte to fastokens."""

CACHE_BYTES = 2**20

PIECES = [
    "Hello", "the quick", " ", "  ", "\n", "\r\n", "\t", "don't", "I'LL", "123", "4567890", "é",
    "e\u0301", "\ufb01", "\u0130", "ß", "\u01c5", "日本語", "か\u3099", "👩‍👩‍👧‍👦", "🏳️‍🌈", "\u200b",
    "\ufeff", "\x00", "\x01", "\x7f", "\u00a0", "\u2003", "\u2028", "\u2581", "Ġ", "a" * 50, "!!!",
    "<", ">", "|", "\u0958", "\u1e9b\u0323", "\uac00", "\u1100\u1161", "\U0001d15e", "\ufdfa",
    "\u00ad", "\u2167", "\uff12", "x_y", "CamelCase", "\u212b", "\u0344", "\U0010fffd", "Привет",
    "שלום", "हिन्दी", "<0x0A>", " " * 40, "\n" * 9, "z" * 400,
]  # fmt: skip
"""What tokenizers treat in ways of their own, or get wrong."""

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def quick(source: str) -> FastEncoder:
    return Encoder(source).quicken(source, json.loads(source))


def texts(source: str, count: int) -> list[str]:
    """Random mixtures of odd pieces and the tokenizer's own added tokens."""
    rng = random.Random(11)
    added = [each["content"] for each in json.loads(source)["added_tokens"]]
    pieces = PIECES + (added * 3 + [each[:-1] for each in added] if len(added) < 100 else [])
    return ["".join(rng.choices(pieces, k=rng.randrange(12))) for _ in range(count)]


def differences(source: str, count: int = 300) -> list[str]:
    """Returns the texts that have other ids by fastokens."""
    fast, reference = quick(source), HfTokenizer.from_str(source)
    reference.no_truncation()
    reference.no_padding()
    return [
        text
        for text in texts(source, count)
        for special in (True, False)
        if fast.encode(text, special).tolist()
        != reference.encode(text, add_special_tokens=special).ids
    ]


def with_parts(make: Callable[[], HfTokenizer], **parts: Any) -> str:
    tokenizer = make()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer.to_str()


def with_added(make: Callable[[], HfTokenizer], **flags: bool) -> str:
    tokenizer = make()
    tokenizer.add_tokens([AddedToken(each, **flags) for each in ("<X>", "tool", "<X>y")])
    return tokenizer.to_str()


def with_model(make: Callable[[], HfTokenizer], **fields: Any) -> str:
    description = json.loads(make().to_str())
    return json.dumps({**description, "model": {**description["model"], **fields}})


def spelt() -> HfTokenizer:
    """A Llama-2-style tokenizer as they are: with the characters of its byte tokens' names."""
    description = json.loads(byte_fallback().to_str())
    vocabulary = description["model"]["vocab"]
    for character in "<>x0123456789ABCDEF":
        vocabulary.setdefault(character, len(vocabulary))
    return HfTokenizer.from_str(json.dumps(description))


SOURCES = {name: kind.source for name, kind in kinds().items()} | {"spelt": spelt().to_str()}
SERVED = sorted(SOURCES.keys() - UNKNOWN - UNSPELT)

VARIANTS = {
    "NFC": with_parts(byte_level, normalizer=normalizers.NFC()),
    "lowercase": with_parts(byte_level, normalizer=normalizers.Lowercase()),
    "a template of special tokens": with_parts(
        spelt,
        post_processor=processors.TemplateProcessing(
            single="<s> $A </s>", pair=None, special_tokens=[("<s>", 1), ("</s>", 2)]
        ),
    ),
    "a regular expression": with_parts(
        byte_level,
        pre_tokenizer=pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA_3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    ),
    "whole words first": with_model(byte_level, ignore_merges=True),
    **{
        f"{make.__name__}, added tokens with {flag}": with_added(make, **{flag: True})
        for make in (byte_level, spelt)
        for flag in ("single_word", "lstrip", "rstrip", "normalized", "special")
    },
}


@pytest.mark.parametrize("name", SERVED)
def test_every_tokenizer_at_hand_has_the_same_ids(name):
    assert not differences(SOURCES[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_part_that_is_taken_has_the_same_ids(name):
    assert not differences(VARIANTS[name], 100)


@pytest.mark.skipif(not REAL.exists(), reason="no folder of real tokenizers")
@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_texts_with_known_ids(name):
    fast = quick((REAL / f"{name}.json").read_text())
    for kind in ("small", "mixed"):
        given = (REAL / f"{kind}_input.txt").read_text().split("\n")
        told = (REAL / f"{kind}_tokens_{name}.txt").read_text().split("\n")
        for line, ids in zip(given, told, strict=True):
            text = line.replace("\\n", "\n").replace("\\s", " ")
            assert fast.encode(text, add_special_tokens=False).tolist() == [
                int(each) for each in ids.split(",") if each
            ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        *((SOURCES[name], "not BPE|fastokens refuses|lack a token") for name in sorted(UNKNOWN)),
        *((SOURCES[name], "other ids for") for name in sorted(UNSPELT)),
        (with_model(byte_level, dropout=0.5), "dropped at random"),
        (with_model(byte_fallback, byte_fallback=False, unk_token=None), "lack a token"),
        (with_parts(byte_level, normalizer=normalizers.NFKD()), "fastokens refuses it: .*NFKD"),
    ],
)
def test_a_tokenizer_that_may_differ_is_left_to_tokenizers(source, reason):
    with pytest.raises(NotFastError, match=reason):
        quick(source)
    jobs = Jobs()
    told = jobs.load("m", {"tokenizer.json": source.encode()}, fast=True, cache_bytes=0)
    assert told["slow_because"]
    assert not told["encodes_at_once"]
    want = HfTokenizer.from_str(source).encode("hello world").ids
    if "dropout" not in source or json.loads(source)["model"].get("dropout") is None:
        [ids] = jobs.encode("m", "hello world", True, False, 100)
        assert array("I", ids).tolist() == want


def test_a_tokenizer_with_other_ids_for_a_text_is_left_to_tokenizers(monkeypatch):
    source = byte_level().to_str()
    true = FastEncoder.encode

    def wrong(self: FastEncoder, text: str, add_special_tokens: bool) -> array[int]:
        ids = true(self, text, add_special_tokens)
        return ids[:-1] if "\u212b" in text else ids

    monkeypatch.setattr(FastEncoder, "encode", wrong)
    with pytest.raises(NotFastError, match="fastokens has other ids for 'e\u0301"):
        quick(source)


def test_a_text_that_fastokens_gives_up_on_is_encoded_by_tokenizers(monkeypatch):
    source = byte_level().to_str()
    encoder = Encoder(source)
    encoder.quicken(source, json.loads(source))

    def gives_up(self: FastEncoder, text: str, add_special_tokens: bool) -> array[int]:
        raise NotFastError("match limit")

    monkeypatch.setattr(FastEncoder, "encode", gives_up)
    [ids] = encoder.encode("Hello, world!", add_special_tokens=True)
    assert ids.tolist() == HfTokenizer.from_str(source).encode("Hello, world!").ids


def test_where_fastokens_is_not_installed_tokenizers_encodes(monkeypatch):
    monkeypatch.setattr(fast_encoder, "fastokens", None)
    jobs = Jobs()
    told = jobs.load("m", {"tokenizer.json": DEMO.read_bytes()})
    assert told["slow_because"] == "fastokens is not installed"
    assert jobs.encode("m", "Hello", True, False, 100)


def test_switched_off_it_is_not_loaded(monkeypatch):
    monkeypatch.setattr(fast_encoder, "FastEncoder", None)
    jobs = Jobs()
    told = jobs.load("m", {"tokenizer.json": DEMO.read_bytes()}, fast=False, cache_bytes=0)
    assert not told["slow_because"]
    assert not told["encodes_at_once"]


def test_a_tokenizer_whose_time_grows_with_the_square_of_a_text_is_not_used_at_once():
    squared = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+(?!\S)|\S+\s*=\s*\S+|."), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    assert not encodes_at_once(quick(with_parts(byte_level, pre_tokenizer=squared)))
    assert encodes_at_once(quick(byte_level().to_str()))


# --- what is remembered --------------------------------------------------------------------------

REMEMBERING = {name: quick(SOURCES[name]) for name in ("demo", "byte_level", "spelt")}
for each in REMEMBERING.values():
    each.remember(CACHE_BYTES)
REFERENCES = {name: HfTokenizer.from_str(SOURCES[name]) for name in REMEMBERING}
MARKS = {
    "demo": ["<|user|>", "<|assistant|>", "<|end|>"],
    "byte_level": ["<|end|>"],
    "spelt": ["<s>", "</s>"],
}


@pytest.mark.parametrize("name", REMEMBERING)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_growing_conversation_has_the_same_ids_with_what_is_remembered(name, data):
    fast, reference, marks = REMEMBERING[name], REFERENCES[name], MARKS[name]
    turn = st.lists(st.one_of(st.sampled_from(PIECES + marks), st.text(max_size=8)), max_size=8)
    conversation = ""
    for pieces in data.draw(st.lists(turn, min_size=1, max_size=6)):
        conversation += marks[0] + "".join(pieces) + marks[-1]
        special = data.draw(st.booleans())
        want = reference.encode(conversation, add_special_tokens=special).ids
        assert fast.encode(conversation, special).tolist() == want


def test_earlier_turns_are_remembered_within_bounds():
    rng = random.Random(5)
    fast = quick(SOURCES["demo"])
    fast.remember(CACHE_BYTES)

    def turn() -> str:
        return f"<|user|>{' '.join(f'{rng.random()}' for _ in range(40))}<|end|>"

    conversation = ""
    for _ in range(20):
        conversation += turn()
        fast.encode(conversation, add_special_tokens=True)
    counts = fast.cache_counts()
    assert counts.misses == 20
    assert counts.hits == 19 * 20 // 2
    assert counts.hit_bytes > 9 * counts.miss_bytes
    for _ in range(3000):
        fast.encode(turn(), add_special_tokens=True)
    assert fast.cache_counts().held_bytes <= CACHE_BYTES
    fast.encode(conversation, add_special_tokens=True)
    assert fast.cache_counts().hits == counts.hits, "the least recently used are forgotten"
