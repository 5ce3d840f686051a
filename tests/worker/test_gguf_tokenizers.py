"""Tokenizers made of GGUF files, against what llama.cpp made of the same files and texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenwire_worker.gguf.header import GgufError, Header, Tensor
from tokenwire_worker.gguf.pre_tokenizers import PRE_TOKENIZERS
from tokenwire_worker.gguf.text_files import text_files
from tokenwire_worker.gguf.types import TENSOR_TYPES

RECORDED = json.loads((Path(__file__).parent / "gguf_tokenizers.json").read_text())
"""How it was made: tools/record_gguf_tokenizers.py."""

SPECIAL = ("<unk>", "<s>", "</s>", "<|user|>")


def header(kind: str, **changed) -> Header:
    """Returns the header of a file with the recorded vocabulary of a kind."""
    vocabulary = RECORDED[kind]
    tokens = vocabulary["tokens"]
    types = vocabulary.get("types") or [3 if each in SPECIAL else 1 for each in tokens]
    pairs = {
        "general.architecture": "llama",
        "llama.context_length": 4096,
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": tokens.index("<s>"),
        "tokenizer.ggml.eos_token_id": tokens.index("</s>"),
        "tokenizer.ggml.unknown_token_id": tokens.index("<unk>"),
    }
    for name in ("merges", "scores"):
        if name in vocabulary:
            pairs[f"tokenizer.ggml.{name}"] = vocabulary[name]
    pairs |= {f"tokenizer.{name.replace('__', '.')}": value for name, value in changed.items()}
    pairs = {key: value for key, value in pairs.items() if value is not None}
    embedding = Tensor("token_embd.weight", (len(tokens), 64), TENSOR_TYPES[0])
    return Header(pairs, (embedding,), "0" * 64)


def tokenizer(kind: str, **changed) -> Tokenizer:
    return Tokenizer.from_str(text_files(header(kind, **changed))["tokenizer.json"].decode())


@pytest.mark.parametrize("pre", [each for each in RECORDED["ids"] if not each.startswith("llama ")])
def test_text_becomes_the_ids_that_llama_cpp_gives(pre):
    check_ids(tokenizer("llama") if pre == "llama" else tokenizer("gpt2", ggml__pre=pre), pre)


def test_a_vocabulary_without_a_space_before_the_text():
    made = tokenizer("llama", ggml__add_space_prefix=False)
    check_ids(made, "llama without a prefix")


APPROXIMATE = ("tekken", "gpt-4o")
"""llama.cpp has no classes of letters of one case: beyond ASCII it splits otherwise than the
pattern that these models were trained with, which is the one that counts."""


def check_ids(made: Tokenizer, name: str) -> None:
    wrong = {}
    for text, ids in zip(RECORDED["texts"], RECORDED["ids"][name], strict=True):
        if name in APPROXIMATE and any(not each.isascii() and each.isalpha() for each in text):
            continue
        found = made.encode(text).ids
        if found != ids:
            wrong[text] = [[made.id_to_token(each) for each in side] for side in (found, ids)]
    assert not wrong


def test_ids_become_the_text_again():
    for made in (tokenizer("llama"), tokenizer("gpt2", ggml__pre="qwen2")):
        for text in RECORDED["texts"]:
            plain = text.replace("<s>", "").replace("</s>", "").replace("<|user|>", "")
            ids = made.encode(plain, add_special_tokens=False).ids
            assert made.decode(ids) == plain


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_every_pattern_is_one_that_the_tokenizer_can_use(pre):
    made = tokenizer("gpt2", ggml__pre=pre)
    assert made.decode(made.encode("It's 12345 caf\u00e9s,\n\n  ok").ids) == (
        "It's 12345 caf\u00e9s,\n\n  ok"
    )


def test_what_a_prompt_begins_and_ends_with_is_as_the_file_says():
    names = {
        "llama": ({}, ["<s>"], []),
        "gpt2": ({}, [], []),
        "llama-bpe": ({"ggml__pre": "llama-bpe"}, ["<s>"], []),
        "bos": ({"ggml__add_bos_token": True}, ["<s>"], []),
        "no bos": ({"ggml__pre": "llama-bpe", "ggml__add_bos_token": False}, [], []),
        "eos": ({"ggml__add_eos_token": True}, [], ["</s>"]),
    }
    for name, (changed, before, after) in names.items():
        made = tokenizer("llama" if name == "llama" else "gpt2", **changed)
        ids = made.encode("a").ids
        bare = made.encode("a", add_special_tokens=False).ids
        found = [made.id_to_token(each) for each in ids]
        assert found == [*before, *(made.id_to_token(each) for each in bare), *after], name


def config(kind: str = "gpt2", **changed) -> dict[str, dict]:
    files = text_files(header(kind, **changed))
    return {name: json.loads(data) for name, data in files.items() if name.endswith(".json")}


def test_limits_and_ends_are_those_of_the_file():
    tokens = [*RECORDED["gpt2"]["tokens"], "<|im_end|>", "<|end|>", "<|return|>", "<|call|>"]
    count = len(tokens)
    types = [3 if each in SPECIAL or at >= count - 4 else 1 for at, each in enumerate(tokens)]
    changed = {"ggml__tokens": tokens, "ggml__token_type": types}
    eos, eot = tokens.index("</s>"), 7
    # A turn's end by its name; not <|end|>, which ends a part of one where there is <|return|>.
    ends = [eos, eot, count - 4, count - 2, count - 1]
    embedding = Tensor("token_embd.weight", (count + 24, 64), TENSOR_TYPES[1])
    made = header("gpt2", **changed, ggml__eot_token_id=eot)
    files = text_files(Header(made.pairs, (embedding,), made.sha256))
    assert json.loads(files["config.json"])["eos_token_id"] == ends
    assert json.loads(files["generation_config.json"])["eos_token_id"] == ends
    assert json.loads(files["config.json"])["vocab_size"] == count + 24, "padded rows have ids too"
    assert json.loads(files["config.json"])["max_position_embeddings"] == 4096


def test_sampling_is_the_files_own_or_what_llama_cpp_takes():
    made = header("gpt2")
    plain = json.loads(text_files(made)["generation_config.json"])
    assert [plain[name] for name in ("temperature", "top_k", "top_p", "min_p")] == [
        0.8,
        40,
        0.95,
        0.05,
    ]
    made.pairs["general.sampling.temp"] = 0.25
    assert json.loads(text_files(made)["generation_config.json"])["temperature"] == 0.25


def test_chat_templates_by_name():
    assert "chat_template" not in config()["tokenizer_config.json"]
    assert "chat_template.jinja" not in text_files(header("gpt2"))
    files = text_files(
        header(
            "gpt2",
            chat_template="plain",
            chat_templates=["tool_use", "rag"],
            chat_template__tool_use="tools",
            chat_template__rag="documents",
        )
    )
    assert files["chat_template.jinja"] == b"plain"
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == [
        {"name": "tool_use", "template": "tools"},
        {"name": "rag", "template": "documents"},
        {"name": "default", "template": "plain"},
    ]


def test_special_tokens_have_the_names_that_templates_use():
    named = config()["tokenizer_config.json"]
    assert (named["bos_token"], named["eos_token"], named["unk_token"]) == ("<s>", "</s>", "<unk>")
    assert "pad_token" not in named
    beyond = config(ggml__bos_token_id=10**6)["tokenizer_config.json"]
    assert "bos_token" not in beyond, "an id beyond the vocabulary stands for none"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ggml__model": "bert"}, "of the kind 'bert'; supported are gpt2 and llama"),
        ({"ggml__model": None}, "has no tokenizer"),
        ({"ggml__model": 3}, "tokenizer.ggml.model is 3"),
        ({"ggml__pre": "kimi-k2"}, "'kimi-k2', which is not supported"),
        ({"ggml__tokens": None}, "no list tokenizer.ggml.tokens"),
        ({"ggml__tokens": [1, 2]}, "no list tokenizer.ggml.tokens of str"),
        ({"ggml__tokens": ["a", "b", "a"]}, "has 'a' more than once"),
        ({"ggml__token_type": [1]}, "token_type has 1 entries"),
        ({"ggml__merges": None}, "no list tokenizer.ggml.merges"),
        ({"ggml__merges": ["no such"]}, "'no such', which are no tokens"),
        ({"ggml__eos_token_id": "2"}, "eos_token_id is '2'"),
        ({"chat_template": 3}, "tokenizer.chat_template is 3"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_named(changed, says):
    with pytest.raises(GgufError) as raised:
        text_files(header("gpt2", **changed))
    assert says in str(raised.value)
    assert len(str(raised.value)) < 300
