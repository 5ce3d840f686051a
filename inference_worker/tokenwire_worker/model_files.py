"""What a model folder says beside its weights: limits, end-of-sequence ids, text-side files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
)
"""Files that a frontend needs to turn text into ids and back; only the first must be there."""

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""Where config.json tells the context, by age of the model's family."""


class ModelError(ValueError):
    """The model folder lacks something, or says something that makes no sense."""


@dataclass(frozen=True)
class TextFile:
    """One text-side file, whole."""

    name: str
    data: bytes
    sha256: str
    """64 lower-case hex digits."""


@dataclass(frozen=True)
class TextFiles:
    """The text-side files of a model; tokenizer.json is the first."""

    files: tuple[TextFile, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of tokenizer.json, 64 lower-case hex digits."""
        return self.files[0].sha256


@dataclass(frozen=True)
class ModelLimits:
    """What a model's configuration bounds."""

    context_tokens: int
    """Most tokens of prompt and output together."""
    vocabulary_size: int
    eos_token_ids: tuple[int, ...]
    """Ids that end a sequence, in order, each once."""


def read_text_files(folder: Path) -> TextFiles:
    """Reads the text-side files of a folder.

    Raises:
        ModelError: there is no tokenizer.json, or a file can't be read.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}")
    if not (folder / TEXT_FILES[0]).is_file():
        raise ModelError(f"{folder} has no tokenizer.json")
    present = [name for name in TEXT_FILES if (folder / name).is_file()]
    return TextFiles(tuple(_read(folder / name) for name in present))


def read_limits(folder: Path, context_tokens: int | None = None) -> ModelLimits:
    """Reads config.json and generation_config.json of a folder.

    Args:
        folder: the model's folder.
        context_tokens: overrides what config.json says, downwards; None: as config.json says.

    Raises:
        ModelError: config.json is missing or lacks what is needed, or its context is smaller.
    """
    config, text = _config(folder)
    vocabulary = text.get("vocab_size", config.get("vocab_size"))
    if not isinstance(vocabulary, int) or vocabulary < 1:
        raise ModelError(f"{folder / 'config.json'} does not tell vocab_size")
    context = next((text[key] for key in _CONTEXT_KEYS if isinstance(text.get(key), int)), None)
    if context is None and context_tokens is None:
        raise ModelError(
            f"{folder / 'config.json'} does not tell max_position_embeddings; give --context-tokens"
        )
    if context is not None and context_tokens is not None and context_tokens > context:
        raise ModelError(
            f"--context-tokens {context_tokens} is more than the model's own context, {context} "
            f"as {folder / 'config.json'} tells"
        )
    bounds = [bound for bound in (context, context_tokens) if bound is not None]
    return ModelLimits(min(bounds), vocabulary, _eos_token_ids(folder, text, config))


def read_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """Returns the ids that end a sequence, in order, each once.

    Raises:
        ModelError: config.json is missing or can't be read.
    """
    config, text = _config(folder)
    return _eos_token_ids(folder, text, config)


def _config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns config.json, and the language model's part of it."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json")
    config = _json(folder / "config.json")
    # Multimodal models keep the language model's part apart.
    nested = config.get("text_config")
    return config, nested if isinstance(nested, dict) else config


def _eos_token_ids(folder: Path, *configs: dict[str, Any]) -> tuple[int, ...]:
    """Returns generation_config.json's ids, which may be more than config.json's; else those."""
    generation = folder / "generation_config.json"
    sources = [_json(generation)] if generation.is_file() else []
    for source in (*sources, *configs):
        ids = source.get("eos_token_id")
        ids = [ids] if isinstance(ids, int) else ids or []
        valid = [token_id for token_id in ids if isinstance(token_id, int) and token_id >= 0]
        if valid:
            return tuple(dict.fromkeys(valid))
    return ()


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object")
    return value


def _read(path: Path) -> TextFile:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error
    return TextFile(path.name, data, hashlib.sha256(data).hexdigest())
