"""The file that lists workers: what it may hold, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from tokenwire_service.settings import check_address

FILE_BYTES_LIMIT = 64 * 1024
"""Room for as many workers as a frontend connects to."""

FIELD = "workers"


def read(path: Path) -> list[str]:
    """Returns the addresses, HOST:PORT, that the file lists.

    Raises:
        ValueError: it can't be read, or says something else; names the file and the place.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_LIMIT + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_LIMIT:
        raise ValueError(f"{path}: has more than {FILE_BYTES_LIMIT} bytes")
    try:
        return parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse(content: bytes) -> list[str]:
    """Returns the addresses, HOST:PORT, that a file with this content lists.

    The content is a mapping in YAML or JSON, with one field: `workers`, a list of addresses, which
    may be empty.

    Raises:
        ValueError: it is not; names the place.
    """
    found = _loaded(content)
    if not isinstance(found, dict) or FIELD not in found:
        raise ValueError(f"is not a mapping with a field `{FIELD}`")
    strangers = sorted(str(name) for name in found if name != FIELD)
    if strangers:
        raise ValueError(f"{strangers[0][:100]}: unknown field; the only one is `{FIELD}`")
    workers = found[FIELD]
    if not isinstance(workers, list):
        raise ValueError(f"{FIELD}: is not a list")  # noqa: TRY004 - as all that is wrong with it
    for place, address in enumerate(workers):
        try:
            check_address(address if isinstance(address, str) else str(address)[:100])
        except ValueError as error:
            raise ValueError(f"{FIELD}[{place}]: {error}") from error
    return workers


def _loaded(content: bytes) -> Any:
    try:
        text = content.decode()
        # What JSON may have and YAML may not is a tab before a field.
        if text.lstrip().startswith("{"):
            return json.loads(text)
        # In Python, since deep nesting ends a process that parses it in C.
        return yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start}: is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ValueError(f"{place}{error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"can't be parsed: {str(error)[:100]}") from error
