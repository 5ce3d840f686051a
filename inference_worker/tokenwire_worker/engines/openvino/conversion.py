"""Makes a GGUF file of a Hugging Face folder of safetensors: what OpenVINO loads without PyTorch.

It knows the architectures that OpenVINO computes from GGUF. Weights become Q8_0, tokenizers of
byte-level BPE go along for guided decoding, and the frontends' text files stay the folder's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tokenwire_service.wording import cut

from tokenwire_worker import safetensors
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.openvino.gguf_writing import Target, write
from tokenwire_worker.model_files import SHOWN_BYTES, ModelError
from tokenwire_worker.safetensors import Stored

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""GGUF's names of architectures, by config.json's."""

INNER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""GGUF's names of a layer's parts, by transformers'."""

OTHERWISE = "optimum-cli export openvino converts more, see docs/models.md"


@dataclass(frozen=True)
class Shape:
    """What of config.json a GGUF file says."""

    architecture: str
    layers: int
    vocabulary: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    context: int
    epsilon: float
    rope_base: float


def check(folder: Path) -> None:
    """Raises EngineError or ModelError where a folder of safetensors can't be converted; quick."""
    config = _object(folder / "config.json")
    _shape(folder, config)
    _targets(folder, config)


def convert(source: Path, folder: Path) -> None:
    """Writes the model of a folder, that passed `check`, as one file into another folder."""
    config = _object(source / "config.json")
    shape = _shape(source, config)
    pairs = {**_pairs(shape), **_vocabulary(source, config)}
    write(folder, shape.architecture, pairs, _targets(source, config))


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object")
    return value


def _shape(folder: Path, config: dict[str, Any]) -> Shape:
    named = config.get("architectures") or [None]
    known = ARCHITECTURES.get(named[0]) if isinstance(named, list) else None
    if known is None:
        raise EngineError(
            f"{folder}: its architecture is {cut(repr(named), SHOWN_BYTES)}; of safetensors, the "
            f"openvino engine supports {', '.join(ARCHITECTURES)}; {OTHERWISE}"
        )
    ignored = _ignored(config, known)
    if ignored:
        raise EngineError(
            f"{folder}: config.json has {ignored}, which is not supported; {OTHERWISE}"
        )

    def number(key: str, default: float | None = None) -> float:
        value = config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            shown = cut(repr(value), SHOWN_BYTES)
            raise ModelError(f"{folder / 'config.json'}: {key} is {shown}, no number above 0")
        return value

    heads, hidden = int(number("num_attention_heads")), int(number("hidden_size"))
    rope = _part(config, "rope_parameters")  # where transformers 5 keeps it
    return Shape(
        architecture=known,
        layers=int(number("num_hidden_layers")),
        vocabulary=int(number("vocab_size")),
        hidden=hidden,
        feed_forward=int(number("intermediate_size")),
        heads=heads,
        kv_heads=int(number("num_key_value_heads", heads)),
        head=int(number("head_dim", hidden // heads)),
        context=int(number("max_position_embeddings")),
        epsilon=number("rms_norm_eps", 1e-6),
        rope_base=number("rope_theta", rope.get("rope_theta", 10000.0)),
    )


def _ignored(config: dict[str, Any], architecture: str) -> str | None:
    """Returns what of a model OpenVINO does not compute from GGUF, or None."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = _part(config, key)
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            return f"{key} of the type {cut(repr(kind), SHOWN_BYTES)}"
    if config.get("sliding_window") and config.get("use_sliding_window", architecture == "llama"):
        return "sliding_window"
    if config.get("quantization_config"):
        return "quantization_config: weights that are quantised already"
    if config.get("attention_bias") and architecture == "llama":
        return "attention_bias"
    return None


def _part(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _targets(folder: Path, config: dict[str, Any]) -> list[Target]:
    """Returns the tensors to write."""
    shape = _shape(folder, config)
    stored = safetensors.read(safetensors.files_of(folder))
    tied = bool(config.get("tie_word_embeddings"))
    made = []
    for name, wanted, target in _names(shape):
        optional = name.endswith(".bias") or name == "lm_head.weight"
        if name not in stored:
            if not optional or (name == "lm_head.weight" and not tied):
                raise ModelError(f"{folder} lacks tensor {name}")
            continue
        if name == "lm_head.weight" and tied:
            continue
        found = stored[name]
        if found.shape != wanted:
            raise ModelError(
                f"{folder}: tensor {name} has shape {list(found.shape)}, and config.json says "
                f"{list(wanted)}"
            )
        made.append(Target(target, found.shape, partial(_rows, found, _heads(shape, name))))
    return made


def _names(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Yields each tensor's name, its shape, and its name in GGUF."""
    embedding = (shape.vocabulary, shape.hidden)
    yield "model.embed_tokens.weight", embedding, "token_embd.weight"
    yield "model.norm.weight", (shape.hidden,), "output_norm.weight"
    yield "lm_head.weight", embedding, "output.weight"
    query, key = shape.heads * shape.head, shape.kv_heads * shape.head
    size = {
        "attn_q": (query, shape.hidden),
        "attn_k": (key, shape.hidden),
        "attn_v": (key, shape.hidden),
        "attn_output": (shape.hidden, query),
        "ffn_gate": (shape.feed_forward, shape.hidden),
        "ffn_up": (shape.feed_forward, shape.hidden),
        "ffn_down": (shape.hidden, shape.feed_forward),
        "attn_q_norm": (shape.head,),
        "attn_k_norm": (shape.head,),
    }
    for layer in range(shape.layers):
        for part, short in INNER.items():
            if part.endswith(("q_norm", "k_norm")) and shape.architecture != "qwen3":
                continue
            name = f"model.layers.{layer}.{part}"
            yield f"{name}.weight", size.get(short, (shape.hidden,)), f"blk.{layer}.{short}.weight"
            if short in ("attn_q", "attn_k", "attn_v") and shape.architecture == "qwen2":
                yield f"{name}.bias", size[short][:1], f"blk.{layer}.{short}.bias"


def _heads(shape: Shape, name: str) -> int:
    """Returns the heads whose rows change places: in a Llama's GGUF pairs stand side by side."""
    if shape.architecture != "llama":
        return 0
    if ".q_proj." in name:
        return shape.heads
    return shape.kv_heads if ".k_proj." in name else 0


def _rows(stored: Stored, heads: int, first: int, count: int) -> Any:
    """Returns rows of a tensor as GGUF has them."""
    if not heads:
        return stored.values(first, count)
    whole = stored.values(0, stored.shape[0])
    paired = whole.reshape(heads, 2, -1, *whole.shape[1:]).swapaxes(1, 2).reshape(whole.shape)
    return paired[first : first + count]


def _pairs(shape: Shape) -> dict[str, Any]:
    name = shape.architecture
    return {
        f"{name}.context_length": shape.context,
        f"{name}.embedding_length": shape.hidden,
        f"{name}.block_count": shape.layers,
        f"{name}.feed_forward_length": shape.feed_forward,
        f"{name}.attention.head_count": shape.heads,
        f"{name}.attention.head_count_kv": shape.kv_heads,
        f"{name}.attention.key_length": shape.head,
        f"{name}.attention.value_length": shape.head,
        f"{name}.attention.layer_norm_rms_epsilon": float(shape.epsilon),
        f"{name}.rope.freq_base": float(shape.rope_base),
        f"{name}.rope.dimension_count": shape.head,
    }


def _vocabulary(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the tokenizer of byte-level BPE; of another kind nothing, and so no guides."""
    tokenizer = _object(folder / "tokenizer.json")
    model = tokenizer["model"]
    decoder = (tokenizer.get("decoder") or {}).get("type")
    if model.get("type") != "BPE" or decoder != "ByteLevel":
        return {}
    special = {each["id"]: each["content"] for each in tokenizer.get("added_tokens") or []}
    by_id = {**{each: text for text, each in model["vocab"].items()}, **special}
    ids = range(max(config["vocab_size"], max(by_id) + 1))
    ends = config.get("eos_token_id")
    end = ends[0] if isinstance(ends, list) and ends else ends
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [by_id.get(each, f"<unused {each}>") for each in ids],
        "tokenizer.ggml.token_type": [3 if each in special else 1 for each in ids],
        "tokenizer.ggml.merges": [
            each if isinstance(each, str) else " ".join(each) for each in model["merges"]
        ],
        **({"tokenizer.ggml.eos_token_id": end} if isinstance(end, int) else {}),
    }
