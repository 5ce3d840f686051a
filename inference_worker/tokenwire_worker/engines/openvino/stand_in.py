"""A tokenizer for pipelines whose model file has none that OpenVINO can use.

A pipeline must have one, and with token ids in and out it never asks it for anything.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import openvino_genai as ov_genai

_STRING, _ARRAY, _UINT32, _INT32 = 8, 9, 4, 5
_CONTROL = 3


def tokenizer() -> Any:
    """Returns an openvino_genai.Tokenizer of two tokens, one of them special."""
    pairs = {
        "general.architecture": _text("llama"),
        "tokenizer.ggml.model": _text("gpt2"),
        "tokenizer.ggml.pre": _text("gpt-2"),
        "tokenizer.ggml.tokens": struct.pack("<IIQ", _ARRAY, _STRING, 2)
        + _string("a")
        + _string("<end>"),
        "tokenizer.ggml.merges": struct.pack("<IIQ", _ARRAY, _STRING, 0),
        "tokenizer.ggml.token_type": struct.pack("<IIQii", _ARRAY, _INT32, 2, 1, _CONTROL),
        "tokenizer.ggml.bos_token_id": struct.pack("<II", _UINT32, 1),
        "tokenizer.ggml.eos_token_id": struct.pack("<II", _UINT32, 1),
        "tokenizer.ggml.padding_token_id": struct.pack("<II", _UINT32, 1),
    }
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs))
    data += b"".join(_string(key) + value for key, value in pairs.items())
    with tempfile.TemporaryDirectory(prefix="tokenwire-") as folder:
        path = Path(folder) / "tokenizer.gguf"
        path.write_bytes(data)
        return ov_genai.Tokenizer(str(path))


def _text(text: str) -> bytes:
    return struct.pack("<I", _STRING) + _string(text)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
