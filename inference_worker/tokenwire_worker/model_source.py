"""Makes of `--model` what engines load: a local path, with the text files in a folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tokenwire_worker import cache, hub
from tokenwire_worker.gguf import header, text_files

if TYPE_CHECKING:
    from tokenwire_worker.settings import WorkerSettings

GGUF = ".gguf"


def is_gguf(path: Path) -> bool:
    """Tells whether a path is that of a GGUF file, there or not."""
    return path.suffix == GGUF and not path.is_dir()


def located(settings: WorkerSettings) -> WorkerSettings:
    """Returns the settings with a local model, which callers know by the name that was given.

    Raises:
        ModelError: the model is nowhere, or can't be downloaded.
    """
    if settings.model_path.exists() or hub.NAME.fullmatch(settings.model) is None:
        return settings
    found = hub.find(settings.model)
    changes = {"model": str(found), "model_name": settings.shown_model_name}
    return settings.model_copy(update=changes)


def with_text_files(settings: WorkerSettings) -> WorkerSettings:
    """Returns the settings with a folder of text files: for a GGUF file, one made of the file.

    Raises:
        ModelError: the file is not whole, or its tokenizer is not supported.
    """
    if settings.tokenizer_folder is not None or not is_gguf(settings.model_path):
        return settings
    read = header.read(settings.model_path)
    name = f"gguf/{text_files.FORM}-{read.sha256}"
    folder = cache.kept(settings.cache_path, name, partial(_write, read))
    return settings.model_copy(update={"tokenizer_folder": folder})


def _write(read: header.Header, folder: Path) -> None:
    for name, data in text_files.text_files(read).items():
        (folder / name).write_bytes(data)
