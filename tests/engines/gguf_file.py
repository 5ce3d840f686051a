"""Writes the demo model's Hugging Face form as a GGUF file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

ALIGNMENT = 32
TYPES = {"uint32": (4, "<I"), "float32": (6, "<f"), "int32": (5, "<i")}

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(model: Path, path: Path, kind: str = "F16") -> Path:
    """Writes a Llama of bfloat16 safetensors, `model`, as GGUF with matrices of a type."""
    config = json.loads((model / "config.json").read_text())
    tensors = _gguf_tensors(_safetensors(model / "model.safetensors"), config)
    metadata = {**_metadata(config), **_tokenizer(model, config)}
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        out += _string(key) + _value(value)
    data = bytearray()
    for name, values in tensors.items():
        shape = values.shape[::-1]
        of_type = GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        out += (
            _string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        )
        out += struct.pack("<IQ", of_type, len(data))
        data += quantize(values, of_type).tobytes()
        data += bytes(-len(data) % ALIGNMENT)
    path.write_bytes(bytes(out) + bytes(-len(out) % ALIGNMENT) + bytes(data))
    return path


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + size + offset for offset in entry["data_offsets"])
        assert entry["dtype"] == "BF16"
        words = np.frombuffer(data[start:end], dtype=np.uint16).astype(np.uint32) << 16
        tensors[name] = words.view(np.float32).reshape(entry["shape"])
    return tensors


def _gguf_tensors(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, np.ndarray]:
    heads = {
        "self_attn.q_proj": config["num_attention_heads"],
        "self_attn.k_proj": config["num_key_value_heads"],
    }
    made = {
        "token_embd.weight": tensors["model.embed_tokens.weight"],
        "output_norm.weight": tensors["model.norm.weight"],
    }
    if "lm_head.weight" in tensors:
        made["output.weight"] = tensors["lm_head.weight"]
    for layer in range(config["num_hidden_layers"]):
        for name, short in NAMES.items():
            values = tensors[f"model.layers.{layer}.{name}.weight"]
            if name in heads:  # GGUF has the halves of each rotated pair side by side
                split = values.reshape(heads[name], 2, -1, values.shape[1])
                values = split.swapaxes(1, 2).reshape(values.shape)
            made[f"blk.{layer}.{short}.weight"] = values
    return {name: np.ascontiguousarray(values, np.float32) for name, values in made.items()}


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.name": "demo",
        "general.file_type": ("uint32", 1),
        "llama.context_length": ("uint32", config["max_position_embeddings"]),
        "llama.embedding_length": ("uint32", config["hidden_size"]),
        "llama.block_count": ("uint32", config["num_hidden_layers"]),
        "llama.feed_forward_length": ("uint32", config["intermediate_size"]),
        "llama.attention.head_count": ("uint32", config["num_attention_heads"]),
        "llama.attention.head_count_kv": ("uint32", config["num_key_value_heads"]),
        "llama.attention.layer_norm_rms_epsilon": ("float32", config["rms_norm_eps"]),
        "llama.rope.freq_base": ("float32", config["rope_theta"]),
        "llama.rope.dimension_count": ("uint32", config["head_dim"]),
        "llama.vocab_size": ("uint32", config["vocab_size"]),
    }


def _tokenizer(model: Path, config: dict[str, Any]) -> dict[str, Any]:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    special = {each["id"]: each["content"] for each in tokenizer["added_tokens"]}
    by_id = {**{each: text for text, each in tokenizer["model"]["vocab"].items()}, **special}
    merges = tokenizer["model"]["merges"]
    ids = range(config["vocab_size"])
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",  # which splits as the demo model's own tokenizer does
        "tokenizer.ggml.tokens": [by_id.get(each, f"<unused {each}>") for each in ids],
        "tokenizer.ggml.token_type": ("int32", [3 if each in special else 1 for each in ids]),
        "tokenizer.ggml.merges": [
            each if isinstance(each, str) else " ".join(each) for each in merges
        ],
        "tokenizer.ggml.bos_token_id": ("uint32", config["bos_token_id"]),
        "tokenizer.ggml.eos_token_id": ("uint32", config["eos_token_id"]),
        "tokenizer.ggml.padding_token_id": ("uint32", config["pad_token_id"]),
        "tokenizer.chat_template": (model / "chat_template.jinja").read_text(),
    }


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    name, number = value
    kind, form = TYPES[name]
    if isinstance(number, list):
        packed = b"".join(struct.pack(form, each) for each in number)
        return struct.pack("<IIQ", 9, kind, len(number)) + packed
    return struct.pack("<I", kind) + struct.pack(form, number)
