"""Settings from a file in YAML: what it says, what it must not say, and where.

A key is a setting's name with `_` between its words; a group of settings is a mapping.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel

from tokenwire_service import environment, yaml_file

BYTES_LIMIT = 1024 * 1024
"""A file that has more is another one: 4,096 LoRA adapters with their paths take half as much."""

FIELD = "config"
"""The setting that names the file, which the file itself can't."""


class SettingsFileError(ValueError):
    """A file of settings that can't be used; `faults` has a line for each reason."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


@dataclass(frozen=True)
class SettingsFile:
    """What a file says, by setting; without a path there is none."""

    path: Path | None = None
    values: dict[str, Any] = field(default_factory=dict)

    def place(self, location: tuple[int | str, ...]) -> str:
        """Returns the file and the path in it of a value; empty: it is not of the file.

        Args:
            location: where the value is within the settings, as pydantic tells it.
        """
        found: Any = self.values
        path = ""
        for part in location:
            if isinstance(part, int):
                path += f"[{part}]"
                break
            if not isinstance(found, dict) or part not in found:
                break
            path += f".{part}" if path else part
            found = found[part]
        return f"{self.path}: {path}" if path else ""


def read(path: Path, settings: type[BaseModel]) -> SettingsFile:
    """Reads a file; values are yet to be checked.

    Args:
        path: the file.
        settings: the model of the settings.

    Raises:
        SettingsFileError: it can't be read, or has keys that are not settings.
    """
    try:
        found = yaml_file.load(path, BYTES_LIMIT)
    except ValueError as error:
        raise SettingsFileError(str(error)) from error
    if found is None:  # empty, or comments alone
        return SettingsFile(path)
    if not isinstance(found, dict):
        raise SettingsFileError(f"{path} is not a mapping of settings")
    faults = [f"{path}: {fault}" for fault in _faults(settings, found, "")]
    if faults:
        raise SettingsFileError(*faults)
    return SettingsFile(path, found)


def _faults(model: type[BaseModel], values: dict[Any, Any], within: str) -> Iterator[str]:
    """Yields a line for each key that is not a setting."""
    fields = model.model_fields
    for key, value in values.items():
        path = f"{within}{key}"
        if key not in fields:
            near = difflib.get_close_matches(str(key).replace("-", "_"), fields, n=1)
            hint = f"; did you mean {within}{near[0]}?" if near else ""
            yield f"{path}: unknown setting{hint}"
            continue
        if not within and key == FIELD:
            yield f"{path}: a file of settings can't name another"
        plain = environment.plain(fields[key].annotation)
        if get_origin(plain) is None and isinstance(plain, type) and issubclass(plain, BaseModel):
            if isinstance(value, dict):
                yield from _faults(plain, value, f"{path}.")
            else:
                yield f"{path}: is not a mapping of settings"
