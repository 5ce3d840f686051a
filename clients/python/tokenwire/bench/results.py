"""The result file: one JSON object, whose `schema` names its form; docs/benchmarks.md has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = "tokenwire.bench/1"
"""The number grows where a reader of the last form would misread the new one."""

Result = Mapping[str, Any]


def write(result: Result, path: Path) -> None:
    """Writes a result; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, separators=(",", ":")) + "\n", encoding="utf-8")


def read(path: str) -> Result:
    """Returns a result.

    Raises:
        ValueError: the file cannot be read, or is not a result of this form.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path}: not a result of `tokenwire bench` ({SCHEMA})")
    return dict(found)
