"""What a model folder says beside its weights: limits, end-of-sequence ids, text-side files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from tokenwire_service.wording import cut

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"

MOST_TOKENS = 2**31 - 1
"""Most that a count of tokens or an id may be, as engines keep them."""

LEAST_CONTEXT = 2
"""A token of prompt and one of output."""

SHOWN_BYTES = 64
"""Most bytes of a value that an error repeats."""

TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
)
"""Files that a frontend needs to turn text into ids and back; only the first must be there."""

TEMPLATES = "additional_chat_templates/*.jinja"
"""More of them: chat templates with names."""

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
"""Where config.json tells the context, by age of the model's family."""


class ModelError(ValueError):
    """The model folder lacks something, or says something that makes no sense."""


@dataclass(frozen=True)
class TextFile:
    """One text-side file, whole."""

    name: str
    """Its path in the folder, with `/`."""
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


@dataclass(frozen=True)
class Vocabulary:
    """The ids that a tokenizer.json gives a meaning."""

    size: int
    """One more than the highest."""
    added: frozenset[int]
    """Those of added tokens, such as control tokens; not all of them."""


def read_vocabulary(folder: Path) -> Vocabulary:
    """Returns what the tokenizer.json of a folder gives a meaning; see `read_text_files`.

    Raises:
        ModelError: it can't be read, or has added tokens only.
    """
    tokenizer = _json(folder / TEXT_FILES[0])
    vocabulary = tokenizer["model"]["vocab"]
    plain = set(vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary)))
    added = frozenset(token["id"] for token in tokenizer.get("added_tokens") or ())
    if plain <= added:
        raise ModelError(f"{folder / TEXT_FILES[0]} has no token but the added ones")
    return Vocabulary(1 + max(plain | added), added)


def read_text_files(folder: Path) -> TextFiles:
    """Reads the text-side files of a folder.

    The tokenizer is checked, since no frontend can use a worker without one. What is odd in the
    other files is the frontends' to judge and to tell.

    Raises:
        ModelError: tokenizer.json is missing, it is none, or a file can't be read.
    """
    if not folder.is_dir():
        raise ModelError(f"no such folder: {folder}")
    if not (folder / TEXT_FILES[0]).is_file():
        raise ModelError(f"{folder} has no tokenizer.json")
    present = [folder / name for name in TEXT_FILES] + sorted(folder.glob(TEMPLATES))
    files = TextFiles(
        tuple(
            _read(path, path.relative_to(folder).as_posix()) for path in present if path.is_file()
        )
    )
    _check_tokenizer(folder / TEXT_FILES[0], files.files[0].data)
    return files


def _check_tokenizer(path: Path, data: bytes) -> None:
    """Raises ModelError where a tokenizer.json is not what the tokenizers package writes."""
    tokenizer = _object(path, data)
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        sound = all(_is_count(token_id) for token_id in vocabulary.values())
    elif isinstance(vocabulary, list):  # of Unigram: pieces and their scores
        sound = all(isinstance(each, list) and len(each) == 2 for each in vocabulary)
    else:
        raise ModelError(f"{path} is not a tokenizer: it has no model.vocab")
    if not sound or not vocabulary:
        raise ModelError(
            f"{path} is not a tokenizer: model.vocab does not give tokens with their ids"
        )
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(_is_added(token) for token in added):
        raise ModelError(f"{path} is not a tokenizer: added_tokens are not texts with their ids")


def _is_added(token: Any) -> bool:
    return (
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and _is_count(token.get("id"))
    )


def _is_count(value: Any) -> TypeGuard[int]:
    # JSON's true is an int to Python.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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
    if not _is_count(vocabulary) or not 1 <= vocabulary <= MOST_TOKENS:
        raise ModelError(f"{folder / 'config.json'} does not tell vocab_size")
    context = _context(folder / "config.json", text)
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


def _context(path: Path, text: dict[str, Any]) -> int | None:
    """Returns the context that config.json tells, if it tells one."""
    told = [(key, text[key]) for key in _CONTEXT_KEYS if text.get(key) is not None]
    if not told:
        return None
    key, context = told[0]
    if isinstance(context, float) and context.is_integer():
        context = int(context)  # as in 1e6
    if not _is_count(context) or not LEAST_CONTEXT <= context <= MOST_TOKENS:
        raise ModelError(f"{path}: {key} is {cut(repr(context), SHOWN_BYTES)}, no number of tokens")
    return context


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
    generation = folder / GENERATION_CONFIG
    sources = [_json(generation)] if generation.is_file() else []
    names = [GENERATION_CONFIG] * len(sources) + [CONFIG] * len(configs)
    for name, source in zip(names, (*sources, *configs), strict=True):
        told = source.get("eos_token_id")
        ids = told if isinstance(told, list) else [] if told is None else [told]
        wrong = [each for each in ids if not _is_count(each) or each > MOST_TOKENS]
        if wrong:
            shown = cut(repr(wrong[0]), SHOWN_BYTES)
            raise ModelError(f"{folder / name}: eos_token_id has {shown}, which is not a token id")
        if ids:
            return tuple(dict.fromkeys(ids))
    return ()


def _json(path: Path) -> dict[str, Any]:
    return _object(path, _read(path).data)


def _object(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object")
    return value


def _read(path: Path, name: str = "") -> TextFile:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error
    return TextFile(name or path.name, data, hashlib.sha256(data).hexdigest())
