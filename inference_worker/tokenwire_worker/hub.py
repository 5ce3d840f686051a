"""Finds a model by its name on the Hugging Face Hub: in the local cache, or downloads it.

The hub's own variables are obeyed: HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import structlog

from tokenwire_worker.model_files import ModelError

NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:/(.+\.gguf))?")
"""ORG/NAME, or ORG/NAME/FILE.gguf for one file of it."""

NOT_FETCHED = (
    "*.gguf", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.onnx", "*.onnx_data", "*.ckpt", "*.tflite",
    "pytorch_model*", "flax_model*", "tf_model*", "rust_model*", "consolidated*", "original/*",
    "onnx/*", "*.md", "*.png", "*.jpg", "*.pdf",
)  # fmt: skip
"""Files that repeat the weights in a form that no engine here loads, and what is for people."""

TELL_EVERY_S = 5.0

log = structlog.get_logger()


def find(model: str) -> Path:
    """Returns the local folder of a model on the hub, or its GGUF file; downloads what is missing.

    Args:
        model: what NAME matches.

    Raises:
        ModelError: the model does not exist or cannot be downloaded; the message says why.
    """
    try:
        import huggingface_hub  # noqa: PLC0415 - of an extra, and half a second to import
    except ModuleNotFoundError as error:
        raise ModelError(
            f"no such folder; to take it for a name on the Hugging Face Hub, the worker "
            f"needs a package that is not installed ({error.name}): extra [hub] of tokenwire-worker"
        ) from error
    found = NAME.fullmatch(model)
    if found is None:
        raise ModelError("it is not the name of a model")
    try:
        return _fetched(huggingface_hub, *found.groups())
    except Exception as error:  # the hub's client, its transport and the disk raise what they like
        raise ModelError(_reason(huggingface_hub.errors, error)) from error


def _fetched(hub: Any, name: str, file: str | None) -> Path:
    if file is not None:
        return Path(hub.hf_hub_download(name, file, tqdm_class=_progress(hub, name)))
    return Path(
        hub.snapshot_download(
            name, ignore_patterns=list(NOT_FETCHED), tqdm_class=_progress(hub, name)
        )
    )


def _progress(hub: Any, name: str) -> type:
    """Returns a tqdm that logs a line now and then, and draws nothing."""

    class Progress(hub.utils.tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._bytes = options.get("unit") == "B"
            self._done, self._told_s = options.get("initial") or 0, time.monotonic()
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self._done += n or 0
            now_s = time.monotonic()
            if self._bytes and now_s - self._told_s >= TELL_EVERY_S:
                self._told_s = now_s
                log.info("downloading", model=name, mib=round(self._done / 2**20))

    return Progress


def _reason(errors: Any, error: Exception) -> str:
    """Returns why a model can't be had, on one line."""
    if isinstance(error, errors.GatedRepoError):
        return "access to it on the Hugging Face Hub has to be granted; HF_TOKEN names who asks"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "no such folder, and no such model on the Hugging Face Hub, or none that "
            "HF_TOKEN may see"
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    ):
        return "the Hugging Face Hub has no such file in this model"
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return (
            "no such folder, it is not in the cache of the Hugging Face Hub, and the hub "
            "can't be reached (or HF_HUB_OFFLINE is set)"
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"it can't be had from the Hugging Face Hub: {lines[0]}"
