"""A frontend of two processes: one address, and each process by itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from tokenwire import Client
from tokenwire.frontend.v1 import activity_pb2 as fa

from tests.services.calls import (
    Frontend,
    Streamed,
    check_draining,
    duration,
    endless,
    generation,
    read_to_first_token,
    refused,
)
from tests.services.groups import group_of
from tests.services.processes import WAIT_S, check_refused


def rest_of(call: Any, begun: Streamed) -> Streamed:
    for event in call:
        begun.take(event)
    return begun


def test_connections_spread_and_each_process_tells_of_all(two, clients):
    before = two.counter("tokenwire_generations_total")
    spread: set[int] = set()
    made = 0
    while len(spread) < 2:
        assert made < 60, "60 connections went to one process"
        with Frontend(two.address) as client:
            client.generate(generation(max_tokens=2, request_id=f"spread-{made}"))
        line = two.process.wait_for("generation", request_id=f"spread-{made}")
        spread.add(line["process"])
        made += 1
    assert two.counter("tokenwire_generations_total") - before == made
    assert two.counter("tokenwire_frontend_generations_limit") == 2048
    for client in clients:
        for number in (0, made - 1):
            asked = fa.GetRecordRequest(request_id=f"spread-{number}")
            record = client.activity.GetRecord(asked, timeout=WAIT_S).record
            assert record.usage.completion_tokens == 2
        unknown = refused(
            lambda client=client: client.activity.GetRecord(
                fa.GetRecordRequest(request_id="nobody's"), timeout=WAIT_S
            )
        )
        assert unknown.reason == "UNKNOWN_REQUEST"


def test_the_activity_is_that_of_all(two, clients):
    calls = [client.start(endless(request_id=f"active-{n}")) for n, client in enumerate(clients)]
    for call in calls:
        read_to_first_token(call)
    for client in clients:
        request = fa.WatchActivityRequest(interval=duration(0.1), records=2)
        watch = client.activity.WatchActivity(request, timeout=WAIT_S)
        now = next(each for each in watch if each.active_generations == 2)
        assert now.generations_limit == 2048
        assert [each.in_flight for each in now.workers] == [2]
        watch.cancel()
    watch = clients[0].activity.WatchActivity(request, timeout=WAIT_S)
    before = next(watch)
    for call in calls:
        call.cancel()
    now = next(each for each in watch if not each.active_generations)
    assert {each.request_id for each in now.records} == {"active-0", "active-1"}
    cancelled = {each.outcome: each.count for each in now.outcomes}[fa.OUTCOME_CANCELLED]
    assert cancelled - {each.outcome: each.count for each in before.outcomes}[2] == 2
    watch.cancel()


def test_one_that_hangs_is_told_and_holds_up_nobody(two, clients):
    pid = two.processes()[1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        two.until(lambda told: told[1]["state"] == "silent")
        two.get("/readyz")
        assert two.counter("tokenwire_frontend_generations_limit") == 2048
        watch = clients[0].activity.WatchActivity(fa.WatchActivityRequest(), timeout=WAIT_S)
        assert next(watch).generations_limit == 1024
        watch.cancel()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert two.both_serve()[1]["pid"] == pid


def test_one_that_is_killed_takes_its_own_streams_and_comes_back(two, clients):
    killed, lives = clients
    before = two.processes()[0]
    pid, seen = before["pid"], two.process.event_count
    lost = killed.start(endless())
    read_to_first_token(lost)
    kept = lives.start(generation("One day", 200))
    begun = read_to_first_token(kept)
    tokens = two.counter("tokenwire_tokens_total")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as failure:
        list(lost)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    ended = two.process.wait_for("process_ended", after=seen, process=0)
    assert ended["exit_code"] == -signal.SIGKILL
    with Frontend(two.address) as client:  # whoever connects now is served
        assert len(client.stream(generation(max_tokens=3)).ids()) == 3
    assert len(rest_of(kept, begun).ids()) == 200
    [first, _] = two.until(lambda told: told[0]["pid"] not in (None, pid))
    assert first["restarts"] == before["restarts"] + 1
    two.both_serve()
    assert two.counter("tokenwire_tokens_total") >= tokens, "counts of the dead one stay"


class Callers(threading.Thread):
    """Connects and calls until it is told to stop, each time anew."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)  # a test that fails meanwhile ends all the same
        self.failures: list[str] = []
        self.answers = 0
        self._address = address
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            with Frontend(self._address) as client:
                try:
                    client.generate(generation(max_tokens=1))
                    self.answers += 1
                except grpc.RpcError as error:
                    self.failures.append(repr(error))

    def stop(self) -> None:
        self._over.set()
        self.join(WAIT_S)


@contextmanager
def going_on(address: str) -> Iterator[Client]:
    """A client with one connection, on which a stream goes on through the block to its end."""
    with (
        Client(address) as client,
        client.stream("Once", max_tokens=400, ignore_eos=True) as stream,
    ):
        next(iter(stream))
        yield client
        for _ in stream:
            pass
        assert stream.result.usage.completion_tokens == 400


def test_each_drains_and_starts_anew_while_the_other_serves(two, clients):
    pids = [each["pid"] for each in two.processes()]
    seen, drained = two.process.event_count, len(two.process.events(event="draining"))
    calls = [client.start(generation("Once", 250)) for client in clients]
    begun = [read_to_first_token(call) for call in calls]
    sessions = [client.session() for client in clients]
    for session in sessions:
        session.open(1, generation("Once", 250))
    callers = Callers(two.address)
    callers.start()
    # An idle connection is closed, so that its next call goes to the other process.
    with ExitStack() as stack:
        idle = [stack.enter_context(Frontend(two.address)) for _ in range(4)]
        for client in idle:
            client.workers()
        one = stack.enter_context(going_on(two.address))
        two.process.process.send_signal(signal.SIGUSR1)
        two.process.wait_for("draining", after=seen)
        for _ in range(5):
            one.generate("Hello", max_tokens=2)
        for call, events in zip(calls, begun, strict=True):
            assert len(rest_of(call, events).ids()) == 250
        for session in sessions:
            assert len(session.finish(1)[0].ids()) == 250
            check_draining(refused(session.read_to_end))
            assert len(session.draining) == 1
        two.process.wait_for("rolling_restart_done", after=seen)
        for client in idle:
            client.generate(generation(max_tokens=1))
    callers.stop()
    assert callers.failures == []
    assert callers.answers
    now = two.both_serve()
    assert not {each["pid"] for each in now} & set(pids)
    drains = [each["process"] for each in two.process.events(event="draining")[drained:]]
    assert drains == [0, 1]


def test_an_address_in_use_is_found(two, main_here):
    worker = ("--worker", "127.0.0.1:1")
    for more in ((), ("--processes", "2")):
        refusal = main_here("tokenwire_frontend", *worker, *more, "--listen", two.address)
        refusal.check_refused(f"--listen {two.address} can't be listened on")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--processes", "0"], "--processes"),
        (["--processes", "2", "--process-listen", "127.0.0.1:65535"], "has port 65536"),
        (["--processes", "2", "--tls.certificate", "/no/such/file"], "--tls."),
        (["--processes", "2", "--worker-tls.ca", "/no/such/file"], "--worker-tls."),
    ],
)
def test_settings_are_refused_before_any_process_starts(main_here, settings, said):
    main_here("tokenwire_frontend", "--worker", "127.0.0.1:1", *settings).check_refused(said)


def test_a_process_that_cannot_start_as_told_ends_all_at_once(processes, two):
    taken = two.processes()[1]["address"]  # the next port is free
    group = group_of(processes, "--process-listen", taken, workers=["127.0.0.1:1"])
    check_refused(group.process, f"--process-listen {taken} can't be listened on")
    assert "process_ended" not in group.process.output


def family(pid: int) -> set[int]:
    """Returns a process and all that come of it, as Linux tells them."""
    found, new = set(), {pid}
    while new:
        found |= new
        new = {
            int(child)
            for parent in new
            for task in Path(f"/proc/{parent}/task").iterdir()
            for child in (task / "children").read_text().split()
        }
    return found


def wait_until_gone(pids: set[int]) -> None:
    """Waits until none of the processes runs."""

    def runs(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in "ZX"

    deadline_s = time.monotonic() + WAIT_S
    while left := {pid for pid in pids if runs(pid)}:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.02)


def test_none_outlives_the_one_that_supervises(processes):
    group = group_of(processes, workers=["127.0.0.1:1"])
    group.until(lambda told: all(each["address"] for each in told))
    pids = family(group.process.process.pid)
    assert len(pids) >= 3
    group.process.process.kill()
    wait_until_gone(pids)


def test_all_finish_what_they_have_when_they_are_told_to_stop(two, clients):
    pids = family(two.process.process.pid)
    assert len(pids) == 7, "one that supervises, two that serve, and two texts' processes of each"
    calls = [client.start(generation("One day", 250)) for client in clients]
    begun = [read_to_first_token(call) for call in calls]
    seen = two.process.event_count
    two.process.terminate()
    two.process.wait_for("draining", after=seen, process=1)
    two.process.terminate()  # a second one changes nothing
    # Calls that are on their way have a moment to come.
    with suppress(grpc.RpcError):
        while True:
            clients[1].generate(generation(max_tokens=1))
    check_draining(refused(lambda: clients[1].generate(generation())))
    for call, events in zip(calls, begun, strict=True):
        assert len(rest_of(call, events).ids()) == 250
    assert two.process.wait() == 0, two.process.output
    wait_until_gone(pids)
    assert "Traceback" not in two.process.output
