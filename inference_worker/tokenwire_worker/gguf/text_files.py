"""The text files of a GGUF file: those that a Hugging Face folder of the same model has."""

from __future__ import annotations

import json
from typing import Any

from tokenwire_worker.gguf.header import GgufError, Header
from tokenwire_worker.gguf.tokenizer import Vocabulary, tokenizer_json

FORM = 2
"""Raised when the same file is to give other text files than before."""

END_TOKENS = frozenset(
    {
        "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>",
        "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "<|end_of_text|>",
        "<end_of_utterance>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
    }
)  # fmt: skip
"""Control tokens that end a turn, whatever the file says: files name one end-of-sequence token,
and models have several. Source: llama.cpp, src/llama-vocab.cpp."""

SAMPLING = {
    "temperature": ("temp", 0.8),
    "top_k": ("top_k", 40),
    "top_p": ("top_p", 0.95),
    "min_p": ("min_p", 0.05),
}
"""Sampling where a request says nothing: GGUF's names within general.sampling, and what llama.cpp
takes where a file does not say. Most do not, and are used and known with these values."""

_TEMPLATE = "tokenizer.chat_template"

_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Names of special tokens that chat templates use, and GGUF's names for them."""


def text_files(header: Header) -> dict[str, bytes]:
    """Returns the text files by name; tokenizer.json is among them.

    Raises:
        GgufError: the file lacks what is required, or its tokenizer is not supported.
    """
    vocabulary = Vocabulary(header)
    ends = _end_ids(vocabulary)
    files: dict[str, Any] = {
        "tokenizer_config.json": _tokenizer_config(header, vocabulary),
        "config.json": {
            "model_type": header.architecture,
            "vocab_size": _vocabulary_size(header, vocabulary),
            "max_position_embeddings": header.number(f"{header.architecture}.context_length"),
            "bos_token_id": vocabulary.token_id("bos"),
            "eos_token_id": ends,
        },
        "generation_config.json": {"eos_token_id": ends, **_sampling(header)},
    }
    template = header.text(_TEMPLATE, "")
    written = {
        name: json.dumps(value, ensure_ascii=False, indent=1).encode(errors="replace")
        for name, value in files.items()
    }
    if template:
        written["chat_template.jinja"] = template.encode(errors="replace")
    return {"tokenizer.json": tokenizer_json(vocabulary), **written}


def _sampling(header: Header) -> dict[str, float]:
    """Returns the file's own sampling, by generation_config.json's names."""
    return {
        name: header.number(f"general.sampling.{key}", default)
        for name, (key, default) in SAMPLING.items()
    }


def _vocabulary_size(header: Header, vocabulary: Vocabulary) -> int:
    """Returns the rows of the embedding, which may be more than there are tokens."""
    for tensor in header.tensors:
        if tensor.name == "token_embd.weight" and len(tensor.shape) == 2:
            if tensor.shape[0] < len(vocabulary.tokens):
                raise GgufError(
                    f"it has {len(vocabulary.tokens)} tokens, and {tensor.shape[0]} embeddings"
                )
            return tensor.shape[0]
    raise GgufError("it has no token embeddings (tensor token_embd.weight): not a text model")


def _end_ids(vocabulary: Vocabulary) -> list[int]:
    """Returns the ids that end a sequence; the file's own first."""
    named = [vocabulary.token_id(role) for role in ("eos", "eot", "eom")]
    texts = {vocabulary.tokens[each]: each for each in sorted(vocabulary.control)}
    if {"<|return|>", "<|call|>"} <= texts.keys():
        texts.pop("<|end|>", None)  # there it ends a part of a turn
    found = [each for text, each in texts.items() if text in END_TOKENS]
    return list(dict.fromkeys([*(each for each in named if each is not None), *found]))


def _tokenizer_config(header: Header, vocabulary: Vocabulary) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": vocabulary.begins,
        "add_eos_token": vocabulary.ends,
    }
    for role, name in _ROLES.items():
        token_id = vocabulary.token_id(name)
        if token_id is not None:
            config[f"{role}_token"] = vocabulary.tokens[token_id]
    named = _named_templates(header)
    if named:
        config["chat_template"] = named
    return config


def _named_templates(header: Header) -> list[dict[str, str]]:
    """Returns all templates by name where there are several, as tokenizer_config.json has them."""
    names = header.pairs.get(f"{_TEMPLATE}s")
    if not isinstance(names, list):
        return []
    templates = {str(name): header.text(f"{_TEMPLATE}.{name}", "") for name in names}
    templates["default"] = header.text(_TEMPLATE, "") or templates.get("default", "")
    return [{"name": name, "template": text} for name, text in templates.items() if text]
