"""Models made of the demo model that several GPUs can share, to compare their answers by.

The demo model has 5 heads, which no number of GPUs divides. `with_heads` gives it 8, of which the
new ones hold zeros: it computes what the demo model does. `with_experts` then has each feed-forward
part as a mixture of 8 experts: the demo model's own, each with noise of its own, so that a token
that went to the wrong expert shows.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenwire_worker import safetensors

HEADS = 8

EXPERTS, EXPERTS_OF_A_TOKEN = 8, 2
NOISE = 0.1
"""Of an expert's weights, as a share of each."""
ROUTER = 0.1
"""Standard deviation of the router's weights: with 320 inputs its logits differ by about 2."""

PARTS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
"""Mixtral's names of an expert's parts, by Llama's."""

Tensors = dict[str, Any]


def with_heads(demo: Path, out: Path) -> Path:
    """Writes the demo model with 8 heads, in float32, and returns its folder."""
    return _write(demo, out, _tensors(demo), {})


def with_experts(demo: Path, out: Path) -> Path:
    """Writes that with 8 experts in each layer, in Mixtral's form, and returns its folder."""
    config = {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": EXPERTS_OF_A_TOKEN,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }
    tensors = _mixed(_tensors(demo))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    return _write(demo, out, tensors, config)


def _tensors(demo: Path) -> Tensors:
    """Returns the demo model's tensors by name, with 8 heads."""
    head = json.loads((demo / "config.json").read_text())["head_dim"]
    found = {}
    for name, stored in safetensors.read(safetensors.files_of(demo)).items():
        values = stored.values(0, stored.shape[0])
        lacking = HEADS * head - len(values)
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            values = np.pad(values, ((0, lacking), (0, 0)))
        elif name.endswith("o_proj.weight"):
            values = np.pad(values, ((0, 0), (0, HEADS * head - values.shape[1])))
        found[name] = values
    return found


def _mixed(tensors: Tensors) -> Tensors:
    source = np.random.default_rng(1)
    found: Tensors = {}
    for name, values in tensors.items():
        layer, in_feed_forward, part = name.partition(".mlp.")
        if not in_feed_forward:
            found[name] = values
            continue
        moe = f"{layer}.block_sparse_moe"
        part = PARTS[part.removesuffix(".weight")]
        for expert in range(EXPERTS):
            noise = 1 + NOISE * source.standard_normal(values.shape, np.float32)
            found[f"{moe}.experts.{expert}.{part}.weight"] = values * noise
        if part == "w1":
            router = ROUTER * source.standard_normal((EXPERTS, values.shape[1]), np.float32)
            found[f"{moe}.gate.weight"] = router
    return found


def _write(demo: Path, out: Path, tensors: Tensors, config: Mapping[str, Any]) -> Path:
    shutil.copytree(demo, out, dirs_exist_ok=True)
    known = json.loads((demo / "config.json").read_text())
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "torch_dtype": "float32"}
    (out / "config.json").write_text(json.dumps({**known, **heads, **config}, indent=2))
    _save(tensors, out / "model.safetensors")
    return out


def _save(tensors: Tensors, path: Path) -> None:
    """Writes tensors in the form that tokenwire_worker.safetensors describes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, values in tensors.items():
        begin, end = end, end + values.nbytes
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values).tobytes())
