"""Writes a GGUF file of weights that OpenVINO computes right, a part of a tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

FILE_NAME = "model.gguf"

FILE_TYPE = 7
"""general.file_type of a file that is mostly Q8_0."""

SLAB_ELEMENTS = 2**24
"""Weights that are converted at a time: 64 MiB in float32, of which a few copies are made."""


class Target(NamedTuple):
    """A tensor to write."""

    name: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], Any]
    """Returns its values as float32: so many rows, from one on. With `raw`, its blocks: all."""
    raw: Any = None
    """Its type, where its blocks are written as they are; None: F32 vectors and Q8_0 matrices."""


def write(
    folder: Path, architecture: str, pairs: Mapping[str, Any], targets: Sequence[Target]
) -> None:
    """Writes FILE_NAME into a folder.

    Args:
        folder: where to.
        architecture: GGUF's name of it.
        pairs: what the file says beside its tensors, but for its type; numbers, texts and lists.
        targets: the tensors.
    """
    # Only here, since they take a second to import and few models need them.
    import gguf  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    writer = gguf.GGUFWriter(folder / FILE_NAME, architecture)
    for key, value in {**pairs, "general.file_type": FILE_TYPE}.items():
        _add(writer, key, value)
    kinds = [_kind(gguf, each) for each in targets]
    for target, kind in zip(targets, kinds, strict=True):
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        writer.add_tensor_info(
            target.name,
            list(target.shape),
            np.dtype(np.float32),  # passed over, since the type is given
            prod(target.shape) // block_elements * block_bytes,
            raw_dtype=kind,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for target, kind in zip(targets, kinds, strict=True):
        writer.write_tensor_data(_data(gguf.quants.quantize, target, kind))
    writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        if value < 0:
            writer.add_int32(key, value)
        elif value < 2**32:
            writer.add_uint32(key, value)
        else:
            writer.add_uint64(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _kind(gguf: Any, target: Target) -> Any:
    """Returns the type that a tensor is written as."""
    types = gguf.GGMLQuantizationType
    if target.raw is not None:
        return target.raw
    if len(target.shape) == 1:
        return types.F32
    block, _ = gguf.GGML_QUANT_SIZES[types.Q8_0]
    return types.F16 if target.shape[-1] % block else types.Q8_0


def _data(quantize: Callable[[Any, Any], Any], target: Target, kind: Any) -> Any:
    import numpy as np  # noqa: PLC0415 - see above

    if target.raw is not None:
        return np.ascontiguousarray(target.rows(0, target.shape[0]))
    rows = max(SLAB_ELEMENTS // prod(target.shape[1:]), 1)
    return np.concatenate(
        [
            quantize(target.rows(first, min(rows, target.shape[0] - first)), kind)
            for first in range(0, target.shape[0], rows)
        ]
    )
