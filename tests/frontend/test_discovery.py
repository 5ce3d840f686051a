"""Workers join and leave while requests run, by a file and by DNS; models go with them."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from tokenwire.frontend.v1 import activity_pb2, model_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.workers import discovery, workers_file
from tokenwire_frontend.workers.discovery import Name
from tokenwire_service import watching
from tokenwire_service.telemetry import histogram, semconv
from tokenwire_service.watching import Watched

from tests.frontend.frontend_here import FrontendHere, frontend_of, refused, until
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import Streamed, endless, generation

READY, DRAINING = LinkState.READY, LinkState.DRAINING


def whole(stream: Stream, submit: pb.Submit) -> None:
    """A script: every generation is three tokens."""
    stream.generate(submit.handle, 5, 6, 7)


class Listed:
    """A file of workers that a frontend follows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *workers: ScriptedWorker | str) -> None:
        """Lists these, in one step, as whoever does not want half a file to be read does."""
        addresses = [each if isinstance(each, str) else each.address for each in workers]
        self.put(f"workers: {json.dumps(addresses)}")

    def put(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listed:
    monkeypatch.setattr(watching, "POLL_S", 0.01)
    file = Listed(tmp_path / "workers.yaml")
    file.put("workers: []")
    return file


async def addresses(frontend: FrontendHere) -> list[str]:
    """Returns the workers that ListWorkers and WatchActivity tell, which are the same."""
    workers = (await frontend.models.ListWorkers(model_pb2.ListWorkersRequest())).workers
    watch = frontend.activity.WatchActivity(activity_pb2.WatchActivityRequest())
    shown = await watch.read()
    watch.cancel()
    found = [each.address for each in workers]
    assert [each.address for each in shown.workers] == found
    return found


async def models(frontend: FrontendHere) -> list[str]:
    listed = await frontend.models.ListModels(model_pb2.ListModelsRequest())
    return [each.name for each in listed.models]


# --- joining and leaving -------------------------------------------------------------------------


async def test_a_worker_that_leaves_the_list_finishes_what_it_has_and_gets_nothing_new(
    worker, other, listed, monkeypatch
):
    monkeypatch.setattr(histogram, "_enabled", True)
    other.script = whole
    listed.write(worker)
    async with frontend_of(workers_file=listed.path) as frontend:
        measured = frontend.generator._recorder.metrics.worker_call

        def measured_ports() -> set[Any]:
            data = measured.collect(0)
            return {each.attributes[semconv.SERVER_PORT] for each in data.data.data_points}

        await until(lambda: frontend.pool.links)
        await frontend.wait_for(worker, READY)
        call = frontend.stream(endless())
        stream = await worker.stream()
        handle = (await stream.submit()).handle
        stream.accept(handle)
        listed.write(other)
        await frontend.wait_for(worker, DRAINING, "not listed")
        assert (await frontend.listed(worker)).state_reason == "it is not listed any more"
        await until(lambda: len(frontend.pool.links) == 2)
        await frontend.wait_for(other, READY)
        for _ in range(3):
            assert (await frontend.generate(generation())).timings.worker == "other"
        stream.tokens(handle, 300)
        stream.end(handle)
        stream.complete(handle)
        streamed = Streamed()
        while not streamed.over:
            streamed.take(await call.read())
        assert streamed.ids() == [300]
        await stream.left.wait()
        assert await addresses(frontend) == [other.address]
        assert measured_ports() == {int(other.address.rpartition(":")[2])}


async def test_a_worker_that_is_listed_again_before_it_is_empty_goes_on_over_its_connection(
    worker, listed
):
    listed.write(worker)
    async with frontend_of(workers_file=listed.path) as frontend:
        await until(lambda: frontend.pool.links)
        await frontend.wait_for(worker, READY)
        call = frontend.stream(endless())
        await (await worker.stream()).submit()
        listed.write()
        await frontend.wait_for(worker, DRAINING)
        assert (await refused(frontend.generate(generation()))).reason == "NO_WORKER"
        listed.write(worker)
        await frontend.wait_for(worker, READY)
        assert len(worker.streams) == 1
        call.cancel()


async def test_a_model_goes_with_its_last_listed_worker_even_where_it_is_down(
    worker, other, listed
):
    other.info.model = "second"
    listed.write(worker, other)
    async with frontend_of(workers_file=listed.path) as frontend:
        await until(lambda: len(frontend.pool.models) == 2)
        await other.stop()
        await frontend.wait_for(other, LinkState.CONNECTING)
        assert await models(frontend) == ["demo", "second"]
        gone = await refused(frontend.generate(generation(model="second")))
        assert gone.reason == "NO_WORKER"
        listed.write(worker)
        await until(lambda: len(frontend.pool.links) == 1)
        assert await models(frontend) == ["demo"]
        unknown = await refused(frontend.generate(generation(model="second")))
        assert unknown.reason == "UNKNOWN_MODEL"


async def test_more_workers_than_a_frontend_connects_to_are_left_out_by_name(
    worker, other, listed, lines, monkeypatch
):
    monkeypatch.setattr(discovery, "WORKERS_LIMIT", 1)
    listed.write(worker, other)
    async with frontend_of(workers_file=listed.path) as frontend:
        await until(lambda: frontend.pool.links)
        assert await addresses(frontend) == [worker.address]
    [line] = [each for each in lines if each["event"] == "too_many_workers"]
    assert (line["limit"], line["left_out"]) == (1, 1)


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is not a mapping with a field `workers`"),
        ("- 10.0.0.1:50061", "is not a mapping with a field `workers`"),
        ("workers: 10.0.0.1:50061", "workers: is not a list"),
        ("workers: [10.0.0.1:50061, 10.0.0.2]", "workers[1]: '10.0.0.2' is not HOST:PORT"),
        ("workers: [{a: 1}]", "workers[0]: \"{'a': 1}\" is not HOST:PORT"),
        ("workers: []\nworker: []", "worker: unknown field; the only one is `workers`"),
        ("workers: []\n bad", ":2:2: "),
        ('{"workers": [,]}', ":1:14: "),
        ("workers: [\xff]".encode("latin-1"), "byte 10: is not UTF-8"),
        ("[" * 500, "can't be parsed"),
        ("#" * 70_000, "has more than 65536 bytes"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_place(tmp_path, text, fault):
    path = tmp_path / "workers"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=str(path)) as caught:
        workers_file.read(path)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "# two\nworkers:\n- 10.0.0.1:50061\n- '[::1]:50062'\n",
        '{\n\t"workers": ["10.0.0.1:50061", "[::1]:50062"]\n}',
    ],
)
def test_a_file_is_yaml_or_json(tmp_path, text):
    path = tmp_path / "workers"
    path.write_text(text)
    assert workers_file.read(path) == ["10.0.0.1:50061", "[::1]:50062"]


async def test_a_bad_file_is_refused_and_the_list_before_it_stays(worker, listed, lines):
    worker.script = whole
    listed.write(worker)
    async with frontend_of(workers_file=listed.path) as frontend:
        await until(lambda: frontend.pool.links)
        link = await frontend.wait_for(worker, READY)

        def refusals() -> list[str]:
            refused = [each for each in lines if each["event"] == "files_not_read"]
            return [each["reason"] for each in refused]

        listed.put("workers: [nowhere]")
        await until(refusals)
        assert "workers[0]: 'nowhere' is not HOST:PORT" in refusals()[0]
        listed.path.unlink()
        await until(lambda: len(refusals()) == 2)
        assert "No such file" in refusals()[1]
        assert link.state is READY
        assert (await frontend.generate(generation())).timings.worker == "scripted"
        listed.write()
        await until(lambda: not frontend.pool.links)
    assert len(refusals()) == 2, "told again though it did not change"


def watched(path: Path) -> Watched[list[str]]:
    return Watched("--workers-file", [path], lambda: workers_file.read(path))


def test_a_link_that_points_to_another_folder_is_seen(tmp_path):
    """As Kubernetes changes the files of a ConfigMap."""
    for name, address in (("one", "a:1"), ("two", "b:2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "workers.yaml").write_text(f"workers: [{address}]")
    data = tmp_path / "..data"
    data.symlink_to("one")
    (tmp_path / "workers.yaml").symlink_to("..data/workers.yaml")
    followed = watched(tmp_path / "workers.yaml")
    assert followed.value == ["a:1"]
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(data)
    assert not followed.refresh()
    assert followed.refresh()
    assert followed.value == ["b:2"]


def test_a_file_that_is_being_written_is_read_once_it_rests(tmp_path):
    path = tmp_path / "workers.yaml"
    path.write_text("workers:\n- a:1\n- b:2\n")
    followed = watched(path)
    for text in ("", "workers:\n", "workers:\n- a:1\n"):
        path.write_text(text)
        assert not followed.refresh()
    path.write_text("workers:\n- a:1\n- b:2\n- c:3\n")
    assert not followed.refresh()
    assert followed.value == ["a:1", "b:2"]
    assert followed.refresh()
    assert followed.value == ["a:1", "b:2", "c:3"]


async def test_workers_are_looked_up_at_once_where_that_is_asked_for(
    worker, listed, resolver, monkeypatch
):
    """As SIGHUP does: the file and the names, of which neither would be looked at for an hour."""
    monkeypatch.setattr(watching, "POLL_S", 3600.0)
    resolver.answer = ["127.0.0.1"]
    named = "dns:///workers.example:7"
    async with frontend_of(named, workers_file=listed.path, worker_dns_interval_s=3600) as frontend:
        await until(lambda: [each.address for each in frontend.pool.links] == ["127.0.0.1:7"])
        resolver.answer = ["127.0.0.2"]
        listed.write(worker)
        frontend._files.reload()
        expected = {"127.0.0.2:7", worker.address}
        await until(lambda: {each.address for each in frontend.pool.links} == expected)


# --- DNS -----------------------------------------------------------------------------------------


class Resolver:
    """Stands in the place of the system's: answers as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: list[str] | Exception = []
        self.asked: list[tuple[str, int]] = []
        monkeypatch.setattr(discovery, "resolve", self._resolve)

    async def _resolve(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


NOWHERE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
FAILING = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


async def test_workers_follow_a_name(worker, resolver, lines):
    port = int(worker.address.rpartition(":")[2])
    worker.script = whole
    resolver.answer = FAILING
    target = f"dns:///workers.example:{port}"
    async with frontend_of(target, worker_dns_interval_s=1) as frontend:
        assert (await refused(frontend.generate(generation()))).reason == "NO_WORKER"
        resolver.answer = ["127.0.0.1"]
        await until(lambda: frontend.pool.links)
        await frontend.wait_for(worker, READY)
        assert (await frontend.generate(generation())).timings.worker == "scripted"
        resolver.answer = ["127.0.0.2"]
        await until(lambda: [each.address for each in frontend.pool.links] == [f"127.0.0.2:{port}"])
    assert resolver.asked[0] == ("workers.example", port)
    told = [each for each in lines if each["event"] == "name_not_resolved"]
    assert [(each["name"], each["reason"]) for each in told] == [(target, FAILING.strerror)]


async def test_a_name_keeps_its_last_answer_where_there_is_none(resolver, lines, monkeypatch):
    name = Name("dns:///workers.example:50061")
    resolver.answer = ["10.0.0.2", "10.0.0.1"]
    found = {"10.0.0.1:50061": "workers.example", "10.0.0.2:50061": "workers.example"}
    assert await name.look_up() == found
    for _ in range(5):
        resolver.answer = FAILING
        assert await name.look_up() is None
    resolver.answer = ["10.0.0.1"]
    assert await name.look_up() == {"10.0.0.1:50061": "workers.example"}
    # That it has none is believed once it was said three times in a row.
    for answer, believed in ((NOWHERE, None), ([], None), (NOWHERE, {})):
        resolver.answer = answer
        assert await name.look_up() == believed
    faults = [each["reason"] for each in lines if each["event"] == "name_not_resolved"]
    assert faults == [FAILING.strerror, "it has no address"]

    async def never(host: str, port: int) -> list[str]:
        await asyncio.get_running_loop().create_future()
        return []

    monkeypatch.setattr(discovery, "resolve", never)
    monkeypatch.setattr(discovery, "RESOLVE_S", 0.01)
    assert await name.look_up() is None
    assert lines[-1]["reason"] == "no answer within 0.01 s"


@pytest.mark.parametrize(
    ("answer", "addresses"),
    [
        (["::1"], ["[::1]:7"]),
        (["10.0.0.1", "fd00::1"], ["10.0.0.1:7"]),
        (["fd00::1", "10.0.0.1", "fd00::2"], ["[fd00::1]:7", "[fd00::2]:7"]),
        (["10.0.0.1", "10.0.0.1"], ["10.0.0.1:7"]),
    ],
)
async def test_a_worker_with_addresses_of_both_families_is_connected_once(
    resolver, answer, addresses
):
    resolver.answer = answer
    assert list(await Name("dns:///workers:7").look_up() or ()) == addresses


async def test_the_system_resolves_names():
    assert "127.0.0.1" in await discovery.resolve("localhost", 7)
