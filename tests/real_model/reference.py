"""A Llama's forward pass in numpy float32, on the weights that a GGUF file stands for.

It is what the engine is compared with: written from the architecture alone, with nothing of the
engine's, and `gguf` for the meaning of quantised blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

Array = np.ndarray[Any, np.dtype[np.float32]]


class Reference:
    """One model; `logits` is all that it does, from the first token each time.

    Args:
        path: a GGUF file of architecture llama, qwen2 or qwen3.
    """

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self._weights = {
            str(each.name): dequantize(each.data, each.tensor_type).astype(np.float32)
            for each in reader.tensors
        }

        def read(key: str, default: Any = None) -> Any:
            field = reader.fields.get(key)
            return default if field is None else field.contents()

        kind = self._kind = read("general.architecture")
        self._layers = read(f"{kind}.block_count")
        self._heads = read(f"{kind}.attention.head_count")
        self._kv_heads = read(f"{kind}.attention.head_count_kv", self._heads)
        self._size = read(f"{kind}.embedding_length")
        self._head = read(f"{kind}.attention.key_length", self._size // self._heads)
        self._epsilon = read(f"{kind}.attention.layer_norm_rms_epsilon")
        base = read(f"{kind}.rope.freq_base", 10000.0)
        self._frequencies = base ** (-np.arange(0, self._head, 2, dtype=np.float64) / self._head)
        if "rope_freqs.weight" in self._weights:
            self._frequencies /= self._weights["rope_freqs.weight"]

    def logits(self, ids: list[int]) -> Array:
        """Returns the logits after each of the ids: [ids, vocabulary]."""
        hidden = self._weights["token_embd.weight"][ids]
        angles = np.outer(np.arange(len(ids)), self._frequencies).astype(np.float32)
        turn = np.cos(angles), np.sin(angles)
        for layer in range(self._layers):
            hidden = hidden + self._attention(layer, self._norm(hidden, layer, "attn"), turn)
            hidden = hidden + self._feed_forward(layer, self._norm(hidden, layer, "ffn"))
        last = self._scaled(hidden, "output_norm.weight")
        head = self._weights.get("output.weight", self._weights["token_embd.weight"])
        return last @ head.T

    def greedy(self, prompt: list[int], count: int, stops: set[int]) -> list[int]:
        """Returns the likeliest continuation: at most `count` ids, to the first stop at most."""
        ids: list[int] = []
        while len(ids) < count and not (ids and ids[-1] in stops):
            ids.append(int(self.logits(prompt + ids)[-1].argmax()))
        return ids

    def _norm(self, hidden: Array, layer: int, part: str) -> Array:
        return self._scaled(hidden, f"blk.{layer}.{part}_norm.weight")

    def _scaled(self, values: Array, name: str) -> Array:
        size = np.sqrt((values * values).mean(axis=-1, keepdims=True) + self._epsilon)
        return values / size * self._weights[name]

    def _linear(self, values: Array, layer: int, name: str) -> Array:
        result = values @ self._weights[f"blk.{layer}.{name}.weight"].T
        bias = self._weights.get(f"blk.{layer}.{name}.bias")
        return result if bias is None else result + bias

    def _attention(self, layer: int, values: Array, turn: tuple[Array, Array]) -> Array:
        count = len(values)
        query = self._linear(values, layer, "attn_q").reshape(count, self._heads, self._head)
        key = self._linear(values, layer, "attn_k").reshape(count, self._kv_heads, self._head)
        value = self._linear(values, layer, "attn_v").reshape(count, self._kv_heads, self._head)
        if self._kind == "qwen3":
            query = self._scaled(query, f"blk.{layer}.attn_q_norm.weight")
            key = self._scaled(key, f"blk.{layer}.attn_k_norm.weight")
        query, key = self._turned(query, turn), self._turned(key, turn)
        group = self._heads // self._kv_heads
        key, value = key.repeat(group, axis=1), value.repeat(group, axis=1)
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(np.float32(self._head))
        scores[:, np.triu(np.ones((count, count), dtype=bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", shares, value).reshape(count, -1)
        return self._linear(mixed, layer, "attn_output")

    def _turned(self, values: Array, turn: tuple[Array, Array]) -> Array:
        """Rotates pairs: neighbours in a Llama's GGUF, halves in a Qwen's."""
        cos, sin = turn[0][:, None], turn[1][:, None]
        if self._kind == "llama":
            even, odd = values[..., 0::2], values[..., 1::2]
            pair = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
            return pair.reshape(values.shape)
        half = self._head // 2
        low, high = values[..., :half], values[..., half:]
        return np.concatenate([low * cos - high * sin, low * sin + high * cos], axis=-1)

    def _feed_forward(self, layer: int, values: Array) -> Array:
        gate = self._linear(values, layer, "ffn_gate")
        up = self._linear(values, layer, "ffn_up")
        return self._linear(gate / (1 + np.exp(-gate)) * up, layer, "ffn_down")
