"""Files that are read again when they change, and when SIGHUP asks for it.

What can't be read leaves what was read before it, and a line in the log. A file that has changed is
read once it rests: one that is being written may be a shorter list of keys or of workers, and
nobody is to be shut out for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

POLL_S = 0.5
"""Between two looks at the files, each a stat of some microseconds; also the time that a file has
to rest before it is read."""

ValueT = TypeVar("ValueT")

log = structlog.get_logger()


class Watched(Generic[ValueT]):
    """What files say.

    Args:
        setting: which setting names them, for log lines.
        paths: the files.
        read: returns what they say; raises ValueError, which names the file and the place.
        changed: told of what they say now, on the event loop.

    Raises:
        ValueError: as `read`, the first time.
    """

    def __init__(
        self,
        setting: str,
        paths: Sequence[Path],
        read: Callable[[], ValueT],
        changed: Callable[[ValueT], None] | None = None,
    ) -> None:
        self._setting = setting
        self._paths = tuple(paths)
        self._read = read
        self._changed = changed
        self._seen = self._used = self._look()
        self.value = read()
        """As of the last time that they could be read."""

    async def follow(self, *, asked: bool = False) -> None:
        """Looks at the files, on a thread, and tells of what is new."""
        if await asyncio.to_thread(self.refresh, asked=asked) and self._changed is not None:
            self._changed(self.value)

    def refresh(self, *, asked: bool = False) -> bool:
        """Reads the files again; blocks.

        Args:
            asked: whatever their state; else only where one has changed, and none since the last
                look.

        Returns:
            Whether they were read anew.
        """
        state = self._look()
        rests, self._seen = state == self._seen, state
        if not asked and (state == self._used or not rests):
            return False
        # From before the files are read: what changes meanwhile is seen the next time.
        self._used = state
        try:
            self.value = self._read()
        except ValueError as error:
            # Without a traceback: the file is at fault.
            log.error("files_not_read", setting=self._setting, reason=str(error))  # noqa: TRY400
            return False
        log.info("files_read", setting=self._setting)
        return True

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
        self._also: list[Callable[[], None]] = []
        self._asked = asyncio.Event()

    def add(self, *files: Watched[Any] | None) -> None:
        """Watches these from now on; None is nothing to watch."""
        self._files += [each for each in files if each is not None]

    def also(self, look_again: Callable[[], None]) -> None:
        """Has `reload` call this too, of a source that is not a file."""
        self._also.append(look_again)

    def reload(self) -> None:
        """Has every source read again soon, changed or not."""
        self._asked.set()
        for look_again in self._also:
            look_again()

    async def run(self) -> None:
        """Watches until it is cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S if self._files else None):
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            for file in self._files:
                await file.follow(asked=asked)
            if asked:
                log.info("reloaded", files=len(self._files))
