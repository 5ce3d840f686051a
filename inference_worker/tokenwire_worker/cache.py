"""Folders that are made of a model once and kept, so that the next start finds them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from tokenwire_worker.model_files import ModelError

log = structlog.get_logger()


def default_folder() -> Path:
    """Returns where they are kept: tokenwire/ in XDG_CACHE_HOME, or in ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths passed over.
    return (Path(named) if named.startswith("/") else Path.home() / ".cache") / "tokenwire"


def kept(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Returns the folder of this name, made by `make` where it is not there yet.

    It appears at once and whole, or not at all. Of processes that want the same one, one makes it
    and the others wait.

    Args:
        folder: of the cache.
        name: says all that the content depends on; may have parts, as in `gguf/0123`.
        make: fills the empty folder that it is given.

    Raises:
        ModelError: the cache can't be written to. What `make` raises passes through.
    """
    target = folder / name
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock")):
            if not target.is_dir():
                _make(target, make)
    except OSError as error:
        # numpy counts what it could not write, and does not say why.
        why = error.strerror or f"its disk is full ({error})"
        raise ModelError(
            f"the cache {folder} can't be written: {why}; --cache-folder names another"
        ) from error
    return target


def _make(target: Path, make: Callable[[Path], None]) -> None:
    # Beside the target, since only within a file system is a rename one step.
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        make(made)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process, however that ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting_for_another_worker", lock=str(path))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
        # Whoever waits for it holds this very file, and finds the folder made.
        with suppress(OSError):
            path.unlink()
