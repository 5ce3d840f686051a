"""Files that are read again when they change, and when SIGHUP asks for it.

What can't be read leaves what was read before it, and a line in the log: nobody is shut out, and
no service ends, since a file was written halfway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

POLL_S = 2.0
"""Between two looks at the files, each a stat of some microseconds."""

ValueT = TypeVar("ValueT")

log = structlog.get_logger()


class Watched(Generic[ValueT]):
    """What files say.

    Args:
        setting: which setting names them, for log lines.
        paths: the files.
        read: returns what they say; raises ValueError, which names the setting.

    Raises:
        ValueError: as `read`, the first time.
    """

    def __init__(self, setting: str, paths: Sequence[Path], read: Callable[[], ValueT]) -> None:
        self._setting = setting
        self._paths = tuple(paths)
        self._read = read
        self._state = self._look()
        self.value = read()
        """As of the last time that they could be read."""

    def refresh(self, *, asked: bool = False) -> None:
        """Reads the files again where one has changed, or where that is asked for; blocks."""
        state = self._look()
        if state == self._state and not asked:
            return
        # From before the files are read: what changes meanwhile is seen the next time.
        self._state = state
        try:
            self.value = self._read()
        except ValueError as error:
            # Without a traceback: the file is at fault.
            log.error("files_not_read", setting=self._setting, reason=str(error))  # noqa: TRY400
        else:
            log.info("files_read", setting=self._setting)

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Returns what tells a changed file from the one before, also behind a symbolic link."""
        return tuple(map(_state, self._paths))


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Watcher:
    """Keeps what was read from files up to date."""

    def __init__(self) -> None:
        self._files: list[Watched[Any]] = []
        self._asked = asyncio.Event()

    def add(self, *files: Watched[Any] | None) -> None:
        """Watches these from now on; None is nothing to watch."""
        self._files += [each for each in files if each is not None]

    def reload(self) -> None:
        """Has every file read again soon, changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Watches until it is cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S if self._files else None):
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            for file in self._files:
                await asyncio.to_thread(file.refresh, asked=asked)
            if asked:
                log.info("reloaded", files=len(self._files))
