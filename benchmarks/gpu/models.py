"""Writes the folder of a model that is a shape alone: its configuration and a tokenizer.

There are no weights: engines are told to make random ones (`load_format="dummy"`), which cost the
same to compute with. The tokenizer has the right number of entries and no sense: 256 bytes and
fillers, so that the frontend decodes every id that the model may come up with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

VOCABULARY_SIZE = 128_256

LLAMA_8B: Mapping[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "torch_dtype": "bfloat16",
}
"""Llama 3's of 8 billion parameters."""

MIXTURE_15B: Mapping[str, object] = {
    **LLAMA_8B,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 2048,
    "intermediate_size": 768,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_local_experts": 128,
    "num_experts_per_tok": 8,
    "sliding_window": None,
}
"""A mixture of many small experts, of 15 billion parameters: a token uses an eighth of them. One
GPU takes it whole, so that there is something to compare with."""


def write(folder: Path, shape: Mapping[str, object], vocabulary_size: int) -> Path:
    """Writes the folder of a shape and returns it; a small vocabulary is for trying a run."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**shape, "vocab_size": vocabulary_size}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(vocabulary_size)))
    return folder


def _tokenizer(vocabulary_size: int) -> dict[str, object]:
    vocabulary = {character: number for number, character in enumerate(_byte_characters())}
    for number in range(len(vocabulary), vocabulary_size):
        vocabulary[f"\u0120w{number}"] = number
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def _byte_characters() -> list[str]:
    """Returns the character that byte-level BPE writes for each byte.

    It is the byte itself where that is printable, else one of those from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
