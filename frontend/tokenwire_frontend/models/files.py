"""The text files of a model, as a worker sends them; what is odd is refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tokenwire_service.wording import cut

from tokenwire_frontend.core.model import SamplingDefaults

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
GENERATION_CONFIG_FILE = "generation_config.json"

FILES_BYTES_LIMIT = 256 * 2**20
"""All files of a model; tokenizer.json of the largest vocabularies in use has about 35 MiB."""

TEMPLATE_CHARS_LIMIT = 2**20
"""A chat template; the largest in use have about 50 KB."""

_RANGES = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.0, 100.0),
}
"""What a default of generation_config.json may be: beyond it, the worker would refuse every request
that leaves the field unset."""


class ModelFilesError(Exception):
    """A model's text files can't be used; the message names the file and the key."""


@dataclass(frozen=True, slots=True)
class TextFiles:
    """What the files of one model say."""

    tokenizer: str
    """tokenizer.json."""
    template: str | None
    """The chat template's Jinja source."""
    special_tokens: dict[str, str]
    """`bos_token` and the like, by name."""
    defaults: SamplingDefaults


def read_files(files: Mapping[str, bytes]) -> TextFiles:
    """Reads the contents of the files by name; tokenizer.json is required.

    Raises:
        ModelFilesError: a file is missing, too large, malformed, or not of its form.
    """
    size = sum(map(len, files.values()))
    if size > FILES_BYTES_LIMIT:
        raise ModelFilesError(f"its files have {size} bytes; at most {FILES_BYTES_LIMIT}")
    if TOKENIZER_FILE not in files:
        raise ModelFilesError(f"it sends no {TOKENIZER_FILE}")
    config = _object(files, TOKENIZER_CONFIG_FILE)
    return TextFiles(
        tokenizer=_text(files, TOKENIZER_FILE),
        template=_template(files, config),
        special_tokens=_special_tokens(config),
        defaults=_defaults(_object(files, GENERATION_CONFIG_FILE)),
    )


def digest(files: Mapping[str, bytes]) -> str:
    """Returns a digest of all files' names and contents."""
    whole = sha256()
    for name in sorted(files):
        whole.update(f"{len(name)} {len(files[name])} {name}".encode(errors="replace"))
        whole.update(files[name])
    return whole.hexdigest()


def check_fingerprint(files: Mapping[str, bytes], fingerprint: str) -> None:
    """Refuses a tokenizer.json that is another than the worker says.

    Raises:
        ModelFilesError: it is.
    """
    if sha256(files.get(TOKENIZER_FILE, b"")).hexdigest() != fingerprint:
        raise ModelFilesError(f"its {TOKENIZER_FILE} does not have the fingerprint that it names")


def _text(files: Mapping[str, bytes], name: str) -> str:
    try:
        return files[name].decode()
    except UnicodeDecodeError as error:
        raise ModelFilesError(f"{name} is not UTF-8: {error}") from error


def _object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Returns a file's JSON object; an absent file is an empty one."""
    if name not in files:
        return {}
    try:
        value = json.loads(_text(files, name))
    except RecursionError as error:
        raise ModelFilesError(f"{name} is nested too deeply") from error
    except ValueError as error:
        raise ModelFilesError(f"{name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelFilesError(f"{name} is JSON, but not an object")
    return value


def _template(files: Mapping[str, bytes], config: dict[str, Any]) -> str | None:
    """Returns chat_template.jinja's template, else tokenizer_config.json's, else None."""
    name = f"{TOKENIZER_CONFIG_FILE}: chat_template"
    source = config.get("chat_template")
    if isinstance(source, list):
        source = _default_template(name, source)
    if source is not None and not isinstance(source, str):
        raise ModelFilesError(f"{name} is neither a text nor a list of named templates")
    if CHAT_TEMPLATE_FILE in files:
        name, source = CHAT_TEMPLATE_FILE, _text(files, CHAT_TEMPLATE_FILE)
    if source is not None and len(source) > TEMPLATE_CHARS_LIMIT:
        raise ModelFilesError(
            f"{name} has {len(source)} characters; at most {TEMPLATE_CHARS_LIMIT}"
        )
    return source or None


def _default_template(name: str, named: list[Any]) -> str | None:
    """Returns the template named `default`: the plain one of several."""
    found = None
    for place, each in enumerate(named):
        if not (
            isinstance(each, dict)
            and isinstance(each.get("name"), str)
            and isinstance(each.get("template"), str)
        ):
            raise ModelFilesError(f"{name}[{place}] is not an object with `name` and `template`")
        if each["name"] == "default" and found is None:
            found = each["template"]
    return found


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Returns the config's `*_token` entries as text; others of that name are settings."""
    tokens = {}
    for name, value in config.items():
        if name.endswith("_token"):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                tokens[name] = text
    return tokens


def _defaults(config: dict[str, Any]) -> SamplingDefaults:
    """Returns the sampling of generation_config.json; `do_sample: false` means greedy."""
    found: dict[str, float] = {}
    for name, (low, high) in _RANGES.items():
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ModelFilesError(f"{GENERATION_CONFIG_FILE}: {name} is not a number")
        if not low <= value <= high:  # which NaN is not, either
            raise ModelFilesError(
                f"{GENERATION_CONFIG_FILE}: {name} is {cut(str(value), 40)}; it must be {low:g} to "
                f"{high:g}"
            )
        found[name] = value
    defaults = SamplingDefaults()
    return SamplingDefaults(
        temperature=(
            0.0
            if config.get("do_sample") is False
            else float(found.get("temperature", defaults.temperature))
        ),
        top_p=float(found.get("top_p", defaults.top_p)),
        top_k=max(int(found.get("top_k", defaults.top_k)), 0),
        min_p=float(found.get("min_p", defaults.min_p)),
        repetition_penalty=float(found.get("repetition_penalty", defaults.repetition_penalty)),
    )
