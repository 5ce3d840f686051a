"""A test over the rows of a table, which tells of every row that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Row = Callable[[str], AbstractContextManager[None]]


@contextmanager
def table() -> Iterator[Row]:
    """Yields what is entered for each row, with the row's name; fails at the end if one did."""
    faults: list[str] = []
    rows: list[str] = []

    @contextmanager
    def row(name: str) -> Iterator[None]:
        rows.append(name)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - told at the end, with those of other rows
            faults.append(f"{name}: {type(error).__name__}: {error}")

    yield row
    assert rows, "a table without rows"
    assert not faults, f"{len(faults)} of {len(rows)} rows:\n" + "\n".join(faults)
