"""The LoRA adapters that requests may name, loaded and unloaded while the worker serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

import structlog
from tokenwire_service.errors import invalid
from tokenwire_service.limits import LORA_ADAPTERS, NAME_CHARACTERS
from tokenwire_service.tasks import Scope

from tokenwire_worker import errors
from tokenwire_worker.dispatcher import Dispatcher
from tokenwire_worker.engines.port import Ability, LoraLoader, Refused

PATH_CHARACTERS = 1024
"""Of an adapter's path within the folder; file systems take 4,096 bytes of a whole path."""

log = structlog.get_logger()


class LoraState(Enum):
    """What is done with an adapter."""

    LOADING = "loading"
    """Requests may not name it yet."""
    LOADED = "loaded"
    """Requests may name it."""
    UNLOADING = "unloading"
    """Generations that have it go on; requests may not name it."""


@dataclass(slots=True, eq=False)
class LoraAdapter:
    """One adapter."""

    name: str
    path: str
    """Within the folder; empty where the worker's settings name the adapter."""
    state: LoraState


class LoraAdapters:
    """All adapters of a worker.

    Args:
        dispatcher: checks requests against them, and tells frontends.
        loader: the engine's; None: it can't change its adapters while it runs.
        folder: where adapters may be loaded from; None: nowhere.
    """

    def __init__(
        self, dispatcher: Dispatcher, loader: LoraLoader | None, folder: Path | None
    ) -> None:
        self._dispatcher = dispatcher
        self._loader = loader
        self._folder = None if folder is None else folder.expanduser().resolve()
        self._adapters = {
            name: LoraAdapter(name, "", LoraState.LOADED) for name in dispatcher.info.lora_adapters
        }
        self._scope = Scope("lora")
        self._turn = asyncio.Lock()
        """Held while the engine loads or unloads: one adapter at a time."""

    def list(self) -> list[tuple[LoraAdapter, int]]:
        """Returns the adapters by name, each with the number of generations that have it."""
        return [
            (self._adapters[name], self._dispatcher.using(name)) for name in sorted(self._adapters)
        ]

    async def load(self, name: str, path: str) -> LoraAdapter:
        """Loads an adapter. Once this has begun, it goes on though the caller is cancelled.

        Args:
            name: by which requests ask for it.
            path: where it is within the folder; empty: its name.

        Raises:
            ServiceError: it can't be loaded.
        """
        _check_name(name)
        relative = _relative(path or name)
        loader = self._able()
        folder = self._folder
        if folder is None:
            raise errors.lora_not_set_up("it was started without --lora-folder")
        place = await asyncio.to_thread(_located, folder, relative)
        if name in self._adapters:
            raise errors.lora_exists(name, self._adapters[name].state.value)
        if len(self._adapters) >= LORA_ADAPTERS:
            raise errors.lora_limit(LORA_ADAPTERS)
        adapter = LoraAdapter(name, path or name, LoraState.LOADING)
        self._adapters[name] = adapter

        async def load() -> None:
            try:
                await loader.load(name, place)
            except BaseException:
                del self._adapters[name]
                raise
            self._set(adapter, LoraState.LOADED)

        try:
            await self._to_its_end(load, "load", adapter)
        except Refused as refusal:
            raise invalid(refusal.field, refusal.description) from refusal
        return adapter

    async def unload(self, name: str) -> None:
        """Unloads an adapter once no generation has it any more.

        A caller that is cancelled before that leaves it loaded.

        Raises:
            ServiceError: it can't be unloaded.
        """
        _check_name(name)
        loader = self._able()
        adapter = self._adapters.get(name)
        if adapter is None:
            raise errors.lora_not_found("name", f"the worker has no adapter {name!r}")
        if adapter.state is not LoraState.LOADED:
            raise errors.lora_changing(name, adapter.state.value)
        self._set(adapter, LoraState.UNLOADING)
        try:
            await self._dispatcher.unused(name)
        except BaseException:
            self._set(adapter, LoraState.LOADED)
            raise

        async def unload() -> None:
            try:
                await loader.unload(name)
            except BaseException:
                self._set(adapter, LoraState.LOADED)
                raise
            del self._adapters[name]

        await self._to_its_end(unload, "unload", adapter)

    async def close(self) -> None:
        """Ends what is being loaded or unloaded."""
        await self._scope.close()

    def _able(self) -> LoraLoader:
        info = self._dispatcher.info
        if self._loader is None:
            raise errors.lora_fixed(info.engine)
        if Ability.LORA not in info.abilities:
            raise errors.lora_not_set_up(f"engine {info.engine} was started without room for them")
        self._dispatcher.refuse_if_closing()
        return self._loader

    def _set(self, adapter: LoraAdapter, state: LoraState) -> None:
        adapter.state = state
        loaded = [each.name for each in self._adapters.values() if each.state is LoraState.LOADED]
        self._dispatcher.offer_adapters(loaded)

    async def _to_its_end(
        self, change: Callable[[], Awaitable[None]], kind: str, adapter: LoraAdapter
    ) -> None:
        """Has the engine make a change, also where the call that asked for it ends early."""
        done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        async def make() -> None:
            told = {"change": kind, "adapter": adapter.name, "path": adapter.path}
            fault: Exception | None = None
            try:
                async with self._turn:
                    began_s = time.monotonic()
                    await change()
            except Exception as error:  # noqa: BLE001 - raised where it is awaited
                fault = error
                log.warning("lora_adapter_failed", **told, reason=str(error))
            else:
                log.info("lora_adapter", **told, took_s=round(time.monotonic() - began_s, 3))
            done.set_result(fault)

        self._scope.start(make())
        fault = await asyncio.shield(done)
        if fault is not None:
            raise fault


def _check_name(name: str) -> None:
    """Raises the ServiceError for what is not the name of an adapter."""
    if not 1 <= len(name) <= NAME_CHARACTERS or not name.isprintable():
        raise invalid("name", f"is not 1 to {NAME_CHARACTERS} printable characters")


def _relative(path: str) -> PurePosixPath:
    """Returns a path within a folder; raises the ServiceError for one that is not."""
    if len(path) > PATH_CHARACTERS or not path.isprintable():
        raise invalid("path", f"is not at most {PATH_CHARACTERS} printable characters")
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise invalid("path", f"{path!r} is not a relative path without `..`")
    return relative


def _located(folder: Path, path: PurePosixPath) -> Path:
    """Returns where an adapter is; looks at the file system.

    Raises:
        ServiceError: it is not in the folder.
    """
    try:
        place = (folder / path).resolve()
        found = place.exists()
    except OSError as error:
        raise invalid("path", f"{str(path)!r}: {error.strerror}") from error
    if not place.is_relative_to(folder):  # a link may lead anywhere
        raise invalid("path", f"{str(path)!r} leads out of the worker's folder of adapters")
    if not found:
        raise errors.lora_not_found("path", f"the worker's folder of adapters has no {str(path)!r}")
    return place
