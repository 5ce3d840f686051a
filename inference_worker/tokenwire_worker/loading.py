"""Loads the engine on a thread: meanwhile the worker answers for itself, and can be stopped."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from tokenwire_service.tasks import Supervisor, first_of

from tokenwire_worker import engines
from tokenwire_worker.engines import guard
from tokenwire_worker.engines.adapters import ADAPTERS
from tokenwire_worker.engines.descendants import kill_descendants
from tokenwire_worker.engines.port import Engine
from tokenwire_worker.model_files import TextFiles, read_text_files
from tokenwire_worker.model_source import located, with_text_files
from tokenwire_worker.settings import WorkerSettings

TELL_EVERY_S = 10.0
"""A load may take half an hour, and who waits for it wants to know that it goes on."""

GIVE_UP_S = 2.0
"""Time that a load which nobody waits for any more has to notice that its processes are gone."""

LOOK_EVERY_S = 0.1

log = structlog.get_logger()

_ResultT = TypeVar("_ResultT")


@dataclass(frozen=True)
class Loaded:
    """What a worker serves."""

    settings: WorkerSettings
    """Those of this worker."""
    engine: Engine
    files: TextFiles


async def load(
    settings: WorkerSettings, supervisor: Supervisor, stop: asyncio.Future[None]
) -> list[Loaded] | None:
    """Returns what each worker serves once it has loaded, or None where `stop` is done first.

    Raises:
        ModelError: the model's files lack what is needed.
        EngineError: the engine can't be built as the settings say.
        EngineStartError: it failed for another reason, or takes longer than `--load-timeout-s`.
    """
    began_s = time.monotonic()
    telling = supervisor.keep("loading", partial(_tell, settings, began_s))
    building = _on_thread(partial(_build, settings))
    try:
        async with asyncio.timeout(settings.load_timeout_s or None):
            await first_of(building, stop)
    except TimeoutError:
        pass
    finally:
        telling.cancel()
    if building.done():
        loaded = building.result()
        log.info("loaded", took_s=round(time.monotonic() - began_s, 1))
        return loaded
    await _give_up(building)
    if stop.done():
        return None
    raise engines.EngineStartError(
        f"it had not loaded after --load-timeout-s {settings.load_timeout_s:g}"
    )


def _build(settings: WorkerSettings) -> list[Loaded]:
    module = engines.module_of(settings)
    settings = located(settings)
    module.check_model(settings)
    settings = with_text_files(settings)
    files = read_text_files(settings.text_folder)
    log.info("loading", **_shown(settings))
    if ADAPTERS[settings.engine].guarded:
        guard.start()
    return [Loaded(each, module.build(each), files) for each in settings.of_each_worker()]


async def _tell(settings: WorkerSettings, began_s: float) -> None:
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        log.info("loading", **_shown(settings), since_s=round(time.monotonic() - began_s))


def _shown(settings: WorkerSettings) -> dict[str, str]:
    return {"model": settings.shown_model_name, "engine": settings.engine}


def _on_thread(work: Callable[[], _ResultT]) -> asyncio.Future[_ResultT]:
    """Runs the work on a thread that the process does not wait for at its end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_ResultT] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
            settle = partial(done.set_exception, error)
        else:
            settle = partial(done.set_result, result)
        with suppress(RuntimeError):  # the loop has ended: nobody waits
            loop.call_soon_threadsafe(settle)

    # Its log lines have what those of the loop have.
    started = partial(contextvars.copy_context().run, run)
    threading.Thread(target=started, name="loading", daemon=True).start()
    return done


async def _give_up(building: asyncio.Future[list[Loaded]]) -> None:
    """Ends the processes of a load, those too that it goes on to start."""
    until_s = time.monotonic() + GIVE_UP_S
    while not building.done() and time.monotonic() < until_s:
        kill_descendants(os.getpid())
        await asyncio.wait([building], timeout=LOOK_EVERY_S)
    if building.done():
        building.exception()  # that of a load whose processes are gone; it is not news
