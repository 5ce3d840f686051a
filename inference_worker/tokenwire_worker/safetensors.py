"""Reads safetensors files with numpy alone, and says what is wrong with one that is cut or no such.

    header bytes u64 little-endian, header as JSON, data
    header: name -> {"dtype", "shape", "data_offsets": [start, end] into the data}

Source: the format's description in its repository's README.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tokenwire_service.wording import cut

from tokenwire_worker.model_files import SHOWN_BYTES, ModelError

INDEX = "model.safetensors.index.json"
HEADER_BYTES_MOST = 100_000_000
"""The format's own bound."""

_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Stored:
    """One tensor of a file."""

    path: Path
    name: str
    dtype: str
    """F32, F16 or BF16."""
    shape: tuple[int, ...]
    start: int
    """Of its data within the file, in bytes."""

    def values(self, first: int, count: int) -> Any:
        """Returns rows as float32, from the first on."""
        import numpy as np  # noqa: PLC0415 - of the openvino engine's; see its adapter

        row = prod(self.shape[1:])
        kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
        raw = np.fromfile(
            self.path,
            kinds[self.dtype],
            count * row,
            offset=self.start + first * row * _BYTES[self.dtype],
        )
        if self.dtype == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32).reshape(count, *self.shape[1:])


def files_of(folder: Path) -> list[Path]:
    """Returns the files that hold a folder's model; none where it has no safetensors.

    Raises:
        ModelError: the index names a file that is not there, or can't be read.
    """
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ModelError(f"{folder / INDEX} can't be read: {error!r}") from error
        lacking = [each for each in names if not (folder / str(each)).is_file()]
        if lacking:
            raise ModelError(f"{folder} lacks {cut(str(lacking[0]), SHOWN_BYTES)} of its weights")
        return [folder / each for each in names]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def read(paths: list[Path]) -> dict[str, Stored]:
    """Returns all tensors of the files by name.

    Raises:
        ModelError: a file is not whole, or none of safetensors.
    """
    return {each.name: each for path in paths for each in _tensors(path)}


def _tensors(path: Path) -> Iterator[Stored]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size < 8:
                raise ModelError(f"{path} is cut short: it has {size} bytes")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                length = int.from_bytes(data[:8], "little")
                if length > min(size - 8, HEADER_BYTES_MOST):
                    raise ModelError(f"{path} is cut short, or no safetensors file")
                header = json.loads(data[8 : 8 + length])
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} has a header that can't be read: {error}") from error
    if not isinstance(header, dict):
        raise ModelError(f"{path} has a header that is not a JSON object")
    for name, entry in header.items():
        if name != "__metadata__":
            yield _tensor(path, name, entry, 8 + length, size)


def _tensor(path: Path, name: str, entry: Any, begin: int, size: int) -> Stored:
    shown = cut(name, SHOWN_BYTES)
    try:
        dtype, shape = str(entry["dtype"]), tuple(map(int, entry["shape"]))
        start, end = map(int, entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: tensor {shown} is not described: {error!r}") from error
    if dtype not in _BYTES:
        raise ModelError(
            f"{path}: tensor {shown} is of type {cut(dtype, SHOWN_BYTES)}; supported are "
            f"{', '.join(_BYTES)}"
        )
    if min((*shape, start), default=0) < 0 or end - start != prod(shape) * _BYTES[dtype]:
        raise ModelError(f"{path}: tensor {shown} has a size other than its shape's")
    if begin + end > size:
        raise ModelError(
            f"{path} is cut short: tensor {shown} ends at byte {begin + end:,}, the file at "
            f"{size:,}; download or copy it again"
        )
    return Stored(path, name, dtype, shape, begin + start)
