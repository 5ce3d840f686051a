"""Which of the frontend's threads give way to others, as Linux has it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tokenwire_frontend import poller

from tests.services.processes import Processes


@pytest.mark.parametrize(("arguments", "giving_way"), [((), 1), (("--shared-cores",), 0)])
def test_grpcs_thread_gives_way_unless_cores_are_shared(arguments, giving_way):
    processes = Processes()
    try:
        frontend = processes.frontend(*arguments, workers=["127.0.0.1:1"])
        pid = frontend.process.pid
        frontend.wait_for("worker")
        threads = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
        policies = [os.sched_getscheduler(each) for each in threads]
        assert policies.count(os.SCHED_BATCH) == giving_way
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER, "the event loop's"
    finally:
        processes.end()


@pytest.mark.parametrize("error", [PermissionError(1, "refused"), ProcessLookupError(3, "gone")])
def test_a_system_that_refuses_it_stops_nothing(monkeypatch, error):
    asked = []

    def refuse(thread_id, *_):
        asked.append(thread_id)
        raise error

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="Thread-1 (_poll_wrapper)")
    thread.start()
    try:
        poller.give_way()
    finally:
        over.set()
        thread.join()
    assert thread.native_id in asked
