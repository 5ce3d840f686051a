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
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
CHAT_TEMPLATE_FOLDER = "additional_chat_templates/"
PROCESSOR_TEMPLATE_FILE = "chat_template.json"
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
    templates: dict[str, str]
    """Jinja sources of chat templates by name; the plain one is `default`."""
    special_tokens: dict[str, str]
    """`bos_token` and the like, by name."""
    defaults: SamplingDefaults
    formats_config: dict[str, Any]
    """What tokenizer_config.json says of the formats of reasoning and tool calls."""


_FORMAT_ENTRIES = ("response_schema", "response_template")


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
        templates=_templates(files, config),
        special_tokens=_special_tokens(config, _object(files, SPECIAL_TOKENS_FILE)),
        defaults=_defaults(_object(files, GENERATION_CONFIG_FILE)),
        formats_config={name: config[name] for name in _FORMAT_ENTRIES if name in config},
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


def _templates(files: Mapping[str, bytes], config: dict[str, Any]) -> dict[str, str]:
    """Returns the chat templates by name, from the first place that has any.

    Tokenizers of transformers look into files of their own, then into tokenizer_config.json.
    chat_template.json is older and belongs to processors, so it is last.
    """
    found = _template_files(files)
    if not found:
        found = _named_templates(TOKENIZER_CONFIG_FILE, config)
    if not found:
        found = _named_templates(PROCESSOR_TEMPLATE_FILE, _object(files, PROCESSOR_TEMPLATE_FILE))
    return {name: source for name, source in found.items() if source}


def _template_files(files: Mapping[str, bytes]) -> dict[str, str]:
    """Returns the templates that are files of their own."""
    found = {"default": CHAT_TEMPLATE_FILE} if CHAT_TEMPLATE_FILE in files else {}
    for file in files:
        folder, _, name = file.rpartition("/")
        if f"{folder}/" == CHAT_TEMPLATE_FOLDER and name.endswith(".jinja"):
            found[name.removesuffix(".jinja")] = file
    return {name: _source(cut(file, 80), _text(files, file)) for name, file in found.items()}


def _named_templates(file: str, content: dict[str, Any]) -> dict[str, str]:
    """Returns the templates of a file's `chat_template`: one, or several with their names."""
    given = content.get("chat_template")
    named: dict[Any, Any] = {}
    if isinstance(given, str):
        named = {"default": given}
    elif isinstance(given, dict):
        named = given
    elif isinstance(given, list):
        for place, each in enumerate(given):
            if not (isinstance(each, dict) and isinstance(each.get("name"), str)):
                raise ModelFilesError(
                    f"{file}: chat_template[{place}] is not an object with `name` and `template`"
                )
            named[each["name"]] = each.get("template")
    elif given is not None:
        raise ModelFilesError(
            f"{file}: chat_template is neither a text nor a list of named templates"
        )
    return {
        name: _source(f"{file}: chat_template {cut(name, 40)}", source)
        for name, source in named.items()
    }


def _source(place: str, source: Any) -> str:
    if not isinstance(source, str):
        raise ModelFilesError(f"{place} is not a text")
    if len(source) > TEMPLATE_CHARS_LIMIT:
        raise ModelFilesError(
            f"{place} has {len(source)} characters; at most {TEMPLATE_CHARS_LIMIT}"
        )
    return source


def _special_tokens(config: dict[str, Any], older: dict[str, Any]) -> dict[str, str]:
    """Returns the `*_token` entries as text, and named ones of `extra_special_tokens`.

    special_tokens_map.json, an older place, counts where tokenizer_config.json has no
    `added_tokens_decoder`; there it is before tokenizer_config.json.
    """
    entries = config if "added_tokens_decoder" in config else {**config, **older}
    named = {name: value for name, value in entries.items() if name.endswith("_token")}
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        extra = entries.get(key)
        if isinstance(extra, dict):
            named.update(extra)
    tokens = {}
    for name, value in named.items():
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):  # others are settings, such as add_bos_token
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
