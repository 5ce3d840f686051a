"""Makes files that OpenVINO computes right: once, of other GGUF files and of safetensors.

What OpenVINO gets wrong becomes Q8_0: a byte for each weight, and so little loss that the greedy
text of a small model stays the same.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from tokenwire_worker import cache, safetensors
from tokenwire_worker.engines.openvino import conversion
from tokenwire_worker.engines.openvino.gguf import RIGHT, wrong_types
from tokenwire_worker.engines.openvino.gguf_writing import FILE_NAME, Target, write
from tokenwire_worker.gguf import header

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

FORM = 2
"""Raised when the same file is to become another than before."""

log = structlog.get_logger()


def reencoded(settings: WorkerSettings) -> Path:
    """Returns the path of a GGUF file that OpenVINO computes right: the model's own, or one of it.

    Raises:
        ModelError: it can't be read, or the cache can't be written.
    """
    path = settings.model_path
    read = header.read(path)
    wrong = wrong_types(read)
    if not wrong:
        return path
    return _kept(settings, [path], read.sha256, partial(_write, path, wrong))


def converted(settings: WorkerSettings) -> Path:
    """Returns the path of the GGUF file that a folder of safetensors becomes; errors as above."""
    folder = settings.model_path
    files = [*safetensors.files_of(folder), folder / "config.json", folder / "tokenizer.json"]
    return _kept(settings, files, "", partial(_convert, folder))


def _kept(settings: WorkerSettings, files: list[Path], known: str, make: Any) -> Path:
    # A hash of all that they hold would take longer than loading them.
    statuses = [path.stat() for path in files]
    identity = [known, *(f"{each.st_size} {each.st_mtime_ns}" for each in statuses)]
    digest = hashlib.sha256("\n".join([*identity, str(settings.model_path.resolve())]).encode())
    return (
        cache.kept(settings.cache_path, f"openvino/{FORM}-{digest.hexdigest()}", make) / FILE_NAME
    )


def _convert(source: Path, folder: Path) -> None:
    log.info("converting", model=str(source), to="GGUF, Q8_0", folder=str(folder.parent))
    conversion.convert(source, folder)
    _tell_size(source, folder)


def _write(path: Path, wrong: list[str], folder: Path) -> None:
    log.info(
        "converting",
        model=str(path),
        types=wrong,
        to="GGUF, Q8_0",
        folder=str(folder.parent),
        reason="OpenVINO computes these types otherwise than the file says, or not at all",
    )
    # Only here, since it takes a second to import and few files need it.
    import gguf  # noqa: PLC0415

    reader = gguf.GGUFReader(path)
    pairs = header.read(path).pairs
    architecture = pairs.pop("general.architecture")
    targets = [_target(gguf, each) for each in reader.tensors]
    write(folder, architecture, pairs, targets)
    _tell_size(path, folder)


def _tell_size(source: Path, folder: Path) -> None:
    size = (folder / FILE_NAME).stat().st_size
    log.info("converted", model=str(source), mib=size // 2**20)


def _target(gguf: Any, tensor: Any) -> Target:
    shape = tuple(int(each) for each in reversed(tensor.shape))
    if len(shape) == 1 or tensor.tensor_type.name in RIGHT:
        return Target(tensor.name, shape, lambda *_: tensor.data, tensor.tensor_type)

    def rows(first: int, count: int) -> Any:
        part = tensor.data[first : first + count]
        return gguf.quants.dequantize(part, tensor.tensor_type).astype("float32")

    return Target(tensor.name, shape, rows)
