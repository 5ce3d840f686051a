"""LoRA adapters are loaded and unloaded while generations run, from the worker's folder alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tokenwire.worker.v1 import admin_pb2 as pb
from tokenwire.worker.v1 import admin_pb2_grpc, worker_pb2
from tokenwire_service.limits import LORA_ADAPTERS
from tokenwire_worker.engines.port import GUIDED, Ability, Refused

from tests.frontend.frontend_here import refused
from tests.services.calls import Refusal
from tests.services.processes import WAIT_S
from tests.worker.calls import request
from tests.worker.scripted_engine import ScriptedEngine
from tests.worker.worker_here import WorkerHere, guided, running, until, worker_of

LOADED, LOADING, UNLOADING = (
    pb.LORA_ADAPTER_STATE_LOADED,
    pb.LORA_ADAPTER_STATE_LOADING,
    pb.LORA_ADAPTER_STATE_UNLOADING,
)


class Loader:
    """An engine's part, which waits for the test's word where it is told to."""

    def __init__(self) -> None:
        self.loaded: dict[str, Path] = {"named": Path()}
        self.refusal: Exception | None = None
        self.word = asyncio.Event()
        self.word.set()
        self.begun = asyncio.Event()

    async def load(self, name: str, path: Path) -> None:
        self.begun.set()
        await self.word.wait()
        if self.refusal is not None:
            raise self.refusal
        self.loaded[name] = path

    async def unload(self, name: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        del self.loaded[name]


class Admin:
    """A worker with an adapter of its settings, `named`, and what it is asked to do."""

    def __init__(self, here: WorkerHere, loader: Loader) -> None:
        self.here = here
        self.loader = loader
        self.stub: Any = admin_pb2_grpc.AdminServiceStub(here.channel)

    def load(self, name: str, path: str = "") -> Any:
        return self.stub.LoadLoraAdapter(
            pb.LoadLoraAdapterRequest(name=name, path=path), timeout=WAIT_S
        )

    def unload(self, name: str, timeout: float = WAIT_S) -> Any:
        return self.stub.UnloadLoraAdapter(pb.UnloadLoraAdapterRequest(name=name), timeout=timeout)

    async def listed(self) -> dict[str, tuple[str, int, int]]:
        """Returns path, state and generations of each adapter."""
        told = await self.stub.ListLoraAdapters(pb.ListLoraAdaptersRequest(), timeout=WAIT_S)
        return {each.name: (each.path, each.state, each.generations) for each in told.adapters}

    async def described(self) -> worker_pb2.GetWorkerInfoResponse:
        return await self.here.service.GetWorkerInfo(worker_pb2.GetWorkerInfoRequest())


@asynccontextmanager
async def admin_of(
    folder: Path | None, *, able: bool = True, fixed: bool = False
) -> AsyncIterator[Admin]:
    """Runs a worker on a scripted engine.

    Args:
        folder: where adapters may be loaded from.
        able: the engine is set up for adapters.
        fixed: it can't change them.
    """
    engine = ScriptedEngine(
        abilities=GUIDED | ({Ability.LORA} if able else frozenset()),
        lora_adapters=("named",) if able else (),
    )
    loader = Loader()
    engine.lora = None if fixed else loader
    async with worker_of(engine, folder) as here:
        yield Admin(here, loader)


@pytest.fixture
def folder(tmp_path):
    """A folder with two adapters, one of them in a subfolder, and a link that leads out of it."""
    own = tmp_path / "adapters"
    (own / "law" / "v2").mkdir(parents=True)
    (own / "poems").mkdir()
    (tmp_path / "secret").mkdir()
    (own / "out").symlink_to(tmp_path / "secret")
    (own / "current").symlink_to(own / "poems")
    return own


async def test_an_adapter_is_loaded_and_may_be_named_and_whoever_watches_hears_of_it(folder):
    async with admin_of(folder) as admin:
        before = await admin.described()
        assert before.description_number == 1
        watch = admin.here.service.WatchLoad(worker_pb2.WatchLoadRequest(), timeout=WAIT_S)
        assert (await watch.read()).description_number == 1
        async with admin.here.exchange() as exchange:
            await exchange.submit(1, request(lora_adapter="law"))
            failure = await exchange.failure(1)
            assert "lora_adapter: 'law' is not here; there are: named" in failure.message
            told = await admin.load("law", "law/v2")
            assert (told.adapter.name, told.adapter.state) == ("law", LOADED)
            while (await watch.read()).description_number == 1:
                pass
            assert set((await admin.described()).lora_adapters) == {"named", "law"}
            await exchange.submit(2, request(lora_adapter="law"))
            await running(admin.here)
        assert admin.loader.loaded["law"] == folder / "law" / "v2"
        assert await admin.listed() == {
            "law": ("law/v2", LOADED, 1),
            "named": ("", LOADED, 0),
        }
        watch.cancel()
        await admin.here.quiet()


async def test_an_adapter_is_unloaded_when_its_last_generation_has_ended(folder):
    async with admin_of(folder) as admin, admin.here.exchange() as exchange:
        await exchange.submit(1, request(lora_adapter="named"))
        await exchange.submit(2, request())
        await running(admin.here, 2)
        first, other = admin.here.engine.running
        unload = asyncio.ensure_future(admin.unload("named"))
        await until(lambda: "named" not in admin.here.dispatcher.info.lora_adapters)
        assert await admin.listed() == {"named": ("", UNLOADING, 1)}
        again = await refused(admin.unload("named"))
        assert (again.code, again.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LORA_CHANGING")
        taken = await refused(admin.load("named", "poems"))
        assert (taken.code, taken.reason) == (grpc.StatusCode.ALREADY_EXISTS, "LORA_EXISTS")
        await exchange.submit(3, request(lora_adapter="named"))
        assert "'named' is not here" in (await exchange.failure(3)).message
        # Its caller has heard the end of a cancelled one before the engine has let go of it.
        await exchange.cancel(1)
        await exchange.read_until(lambda: exchange[1].over)
        assert "named" in admin.loader.loaded
        assert not unload.done()
        await admin.here.engine.confirm()
        await unload
        assert "named" not in admin.loader.loaded
        assert await admin.listed() == {}
        await admin.here.engine.finish(other)
        missing = await refused(admin.unload("named"))
        assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "LORA_NOT_FOUND")
        assert first != other


async def test_an_unload_that_is_given_up_leaves_the_adapter(folder):
    async with admin_of(folder) as admin, admin.here.exchange() as exchange:
        await exchange.submit(1, request(lora_adapter="named"))
        await running(admin.here)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await admin.unload("named", timeout=0.05)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: "named" in admin.here.dispatcher.info.lora_adapters)
        assert await admin.listed() == {"named": ("", LOADED, 1)}
        await admin.here.engine.finish(admin.here.engine.key)
        await admin.unload("named")
        assert await admin.listed() == {}


async def test_a_load_goes_on_without_its_caller(folder):
    async with admin_of(folder) as admin:
        admin.loader.word.clear()
        call = admin.load("poems")
        await admin.loader.begun.wait()
        assert (await admin.listed())["poems"] == ("poems", LOADING, 0)
        assert "poems" not in (await admin.described()).lora_adapters
        call.cancel()
        admin.loader.word.set()
        await until(lambda: "poems" in admin.here.dispatcher.info.lora_adapters)


async def test_what_the_engine_refuses_or_fails_at_leaves_nothing(folder):
    async with admin_of(folder) as admin:
        admin.loader.refusal = Refused("path", "its rank is 128; at most 64")
        wrong = await refused(admin.load("poems"))
        assert (wrong.code, wrong.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["path"])
        admin.loader.refusal = RuntimeError("the engine broke")
        assert (await refused(admin.load("poems"))).code is grpc.StatusCode.INTERNAL
        assert (await refused(admin.unload("named"))).code is grpc.StatusCode.INTERNAL
        assert await admin.listed() == {"named": ("", LOADED, 0)}
        admin.loader.refusal = None
        await admin.load("poems")
        await admin.unload("named")
        assert set(await admin.listed()) == {"poems"}


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("name", "path", "code", "field"),
    [
        ("", "poems", INVALID, "name"),
        ("n" * 257, "poems", INVALID, "name"),
        ("a\nb", "poems", INVALID, "name"),
        ("a", "/etc", INVALID, "path"),
        ("a", "../secret", INVALID, "path"),
        ("a", "poems/../../secret", INVALID, "path"),
        ("..", "", INVALID, "path"),
        ("a", ".", INVALID, "path"),
        ("a", "out", INVALID, "path"),
        ("a", "poems\0", INVALID, "path"),
        ("a", "p/" * 600, INVALID, "path"),
        ("a", "p" * 300, INVALID, "path"),
        ("nothing", "", NOT_FOUND, "path"),
    ],
)
async def test_a_path_never_leads_out_of_the_folder(folder, name, path, code, field):
    async with admin_of(folder) as admin:
        refusal = await refused(admin.load(name, path))
        assert (refusal.code, refusal.fields) == (code, [field])
        assert set(admin.loader.loaded) == {"named"}


async def test_a_link_within_the_folder_is_followed(folder):
    async with admin_of(folder) as admin:
        await admin.load("current")
        assert admin.loader.loaded["current"] == folder / "poems"


@pytest.mark.parametrize(
    ("setup", "code", "reason"),
    [
        ({"fixed": True}, grpc.StatusCode.UNIMPLEMENTED, "LORA_FIXED"),
        ({"able": False}, grpc.StatusCode.FAILED_PRECONDITION, "LORA_NOT_SET_UP"),
        ({"folder": None}, grpc.StatusCode.FAILED_PRECONDITION, "LORA_NOT_SET_UP"),
    ],
)
async def test_a_worker_that_is_not_set_up_for_it_says_so(folder, setup, code, reason):
    async with admin_of(**{"folder": folder, **setup}) as admin:
        refusal: Refusal = await refused(admin.load("poems"))
        assert (refusal.code, refusal.reason) == (code, reason)


async def test_there_is_a_bound(folder, monkeypatch):
    monkeypatch.setattr("tokenwire_worker.lora.LORA_ADAPTERS", 2)
    assert LORA_ADAPTERS > 2
    async with admin_of(folder) as admin:
        await admin.load("poems")
        refusal = await refused(admin.load("law"))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "LORA_LIMIT",
        )


async def test_an_adapter_that_is_unloaded_while_a_guide_is_tried_is_refused(folder):
    """The adapter was there when the request was checked, and is not when it is submitted."""
    async with admin_of(folder) as admin, admin.here.exchange() as exchange:
        await exchange.submit(1, guided(lora_adapter="named"))
        await until(lambda: bool(admin.here.engine.checks))
        await admin.unload("named")
        admin.here.engine.checks[0].set_result(None)
        assert "'named' is not here" in (await exchange.failure(1)).message
