"""Writes a GGUF file anew with types of weights that OpenVINO computes right.

What OpenVINO gets wrong becomes Q8_0: a byte for each weight, and so little loss that the greedy
text of a small model stays the same.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from tokenwire_worker import cache
from tokenwire_worker.engines.openvino.gguf import RIGHT, wrong_types
from tokenwire_worker.gguf.header import Header

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

FORM = 1
"""Raised when the same file is to become another than before."""

FILE_NAME = "model.gguf"
FILE_TYPE = 7
"""general.file_type of a file that is mostly Q8_0."""

SLAB_ELEMENTS = 2**24
"""Weights that are converted at a time: 64 MiB in float32, of which a few copies are made."""

log = structlog.get_logger()


def reencoded(settings: WorkerSettings, header: Header) -> Path:
    """Returns the path of a file that OpenVINO computes right: the model's own, or one made of it.

    Raises:
        ModelError: it can't be read, or the cache can't be written.
    """
    path = settings.model_path
    wrong = wrong_types(header)
    if not wrong:
        return path
    status = path.stat()
    # A hash of all of it would take longer than loading it.
    identity = f"{header.sha256} {status.st_size} {status.st_mtime_ns}"
    name = f"openvino-gguf/{FORM}-{hashlib.sha256(identity.encode()).hexdigest()}"
    return cache.kept(settings.cache_path, name, partial(_write, path, wrong)) / FILE_NAME


def _write(path: Path, wrong: list[str], folder: Path) -> None:
    log.info(
        "reencoding",
        model=str(path),
        types=wrong,
        to="Q8_0",
        reason="OpenVINO computes these types otherwise than the file says, or not at all",
    )
    # Only here, since they take a second to import and few files need them.
    import gguf  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(folder / FILE_NAME, reader.fields["general.architecture"].contents())
    _copy_pairs(reader, writer)
    kinds = [_kind(gguf, tensor) for tensor in reader.tensors]
    for tensor, kind in zip(reader.tensors, kinds, strict=True):
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        writer.add_tensor_info(
            tensor.name,
            [int(each) for each in reversed(tensor.shape)],
            np.dtype(np.float32),  # passed over, since the type is given
            int(tensor.n_elements) // block_elements * block_bytes,
            raw_dtype=kind,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in zip(reader.tensors, kinds, strict=True):
        writer.write_tensor_data(_converted(gguf, tensor, kind))
    writer.close()
    size = (folder / FILE_NAME).stat().st_size
    log.info("reencoded", model=str(path), mib=size // 2**20)


def _copy_pairs(reader: Any, writer: Any) -> None:
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = FILE_TYPE if key == "general.file_type" else field.contents()
        if field.types[0].name == "ARRAY":
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, field.types[0])


def _kind(gguf: Any, tensor: Any) -> Any:
    """Returns the type that a tensor becomes."""
    kind = tensor.tensor_type
    if len(tensor.shape) == 1 or kind.name in RIGHT:
        return kind
    types = gguf.GGMLQuantizationType
    block, _ = gguf.GGML_QUANT_SIZES[types.Q8_0]
    return types.F16 if tensor.shape[0] % block else types.Q8_0


def _converted(gguf: Any, tensor: Any, kind: Any) -> Any:
    """Returns a tensor's data as of another type."""
    import numpy as np  # noqa: PLC0415 - see above

    if kind == tensor.tensor_type:
        return np.ascontiguousarray(tensor.data)
    rows = max(SLAB_ELEMENTS // int(tensor.shape[0]), 1)
    slabs = []
    for start in range(0, len(tensor.data), rows):
        values = gguf.quants.dequantize(tensor.data[start : start + rows], tensor.tensor_type)
        slabs.append(gguf.quants.quantize(values.astype(np.float32), kind))
    return np.concatenate(slabs)
