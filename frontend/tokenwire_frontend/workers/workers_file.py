"""The file that lists workers: what it may hold, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

from tokenwire_service import yaml_file
from tokenwire_service.settings import check_remote

FILE_BYTES_LIMIT = 64 * 1024
"""Room for as many workers as a frontend connects to."""

FIELD = "workers"


def read(path: Path) -> list[str]:
    """Returns the addresses, HOST:PORT, that the file lists.

    It is a mapping in YAML or JSON, with one field: `workers`, a list of addresses, which may be
    empty.

    Raises:
        ValueError: it can't be read, or says something else; names the file and the place.
    """
    found = yaml_file.load(path, FILE_BYTES_LIMIT)
    if not isinstance(found, dict) or FIELD not in found:
        raise ValueError(f"{path}: is not a mapping with a field `{FIELD}`")
    strangers = sorted(name for name in found if name != FIELD)
    if strangers:
        stranger = strangers[0][:100]
        raise ValueError(f"{path}: {stranger}: unknown field; the only one is `{FIELD}`")
    workers = found[FIELD]
    if not isinstance(workers, list):
        raise ValueError(f"{path}: {FIELD}: is not a list")  # noqa: TRY004 - as all of its faults
    for place, address in enumerate(workers):
        try:
            check_remote(address if isinstance(address, str) else str(address)[:100])
        except ValueError as error:
            raise ValueError(f"{path}: {FIELD}[{place}]: {error}") from error
    return workers
