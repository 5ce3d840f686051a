"""The OpenVINO engine's own process: its loss, the worker's, and signals that reach both."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_worker.engines.openvino.child import PROCESS

from tests.services.calls import refusal_of_status
from tests.services.processes import WAIT_S
from tests.worker.calls import LENGTH, LONG, Exchange, request


@pytest.fixture
def pair_of(own_worker):
    """Starts a worker; returns its process, a client, and its engine's process id."""
    process, worker = own_worker()
    return process, worker, engine_of(process)


def engine_of(process) -> int:
    """Returns the process id of a worker's engine, of all its children."""
    tasks = Path(f"/proc/{process.process.pid}/task")
    children = " ".join(each.read_text() for each in tasks.glob("*/children")).split()
    [engine] = [
        int(each)
        for each in children
        if PROCESS.encode() in Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
    ]
    return engine


STALL_S = 2.0


@pytest.mark.parametrize("busy", [True, False], ids=["with work", "before work"])
def test_an_engine_that_stands_still_is_given_up(own_worker, busy):
    process, worker = own_worker("--stall-s", f"{STALL_S:g}")
    engine = engine_of(process)
    watched = os.pidfd_open(engine)
    try:
        with Exchange(worker) as exchange:
            if busy:
                exchange.submit(0, request(max_tokens=LONG))
                exchange.read_until(lambda: exchange[0].ids)
            else:
                exchange.expect(0)
            os.kill(engine, signal.SIGSTOP)
            if not busy:
                exchange.submit(0, request())
            exchange.submit(1, request(1))
            began_s = time.monotonic()
            for generated in exchange.finish(0, 1):
                refusal = refusal_of_status(generated.failure)
                assert refusal.code is grpc.StatusCode.UNAVAILABLE
                assert refusal.reason == "ENGINE_STALLED"
            assert time.monotonic() - began_s > STALL_S / 2, "it was given its time"
            exchange.read_to_end()
        assert process.wait() == 70
        assert time.monotonic() - began_s < STALL_S + 10, "STALL_S and a second on an idle machine"
        assert select.select([watched], [], [], WAIT_S)[0], "the engine's process is left"
    finally:
        os.close(watched)
    line = process.wait_for("engine_stalled")
    assert (line["level"], line["generations"]) == ("critical", 2)
    assert "Traceback" not in process.output


def test_the_loss_of_the_engines_process_is_told_to_everyone(pair_of):
    process, worker, engine = pair_of
    with Exchange(worker) as exchange:
        for handle in range(2):
            exchange.submit(handle, request(handle, max_tokens=LONG))
        exchange.read_until(lambda: all(exchange[handle].ids for handle in range(2)))
        os.kill(engine, signal.SIGKILL)
        for generated in exchange.finish(0, 1):
            refusal = refusal_of_status(generated.failure)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DIED")
            assert "its process was ended by SIGKILL" in refusal.message
        exchange.read_to_end()
    assert process.wait() == 70
    assert process.wait_for("engine_died")["reason"] == "its process was ended by SIGKILL"


def test_the_engines_process_does_not_outlive_the_worker(pair_of):
    process, worker, engine = pair_of
    watched = os.pidfd_open(engine)
    try:
        with Exchange(worker) as exchange:
            exchange.submit(1, request(max_tokens=LONG))
            exchange.read_until(lambda: exchange[1].ids)
            process.kill()
            assert select.select([watched], [], [], WAIT_S)[0], "the engine's process is left"
            with pytest.raises(grpc.RpcError):
                exchange.read_to_end()
    finally:
        os.close(watched)


def test_signals_to_the_engines_process_end_nothing(worker, worker_process):
    engine = engine_of(worker_process)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with Exchange(worker) as exchange:
            exchange.submit(1, request(max_tokens=200))
            exchange.read_until(lambda exchange=exchange: exchange[1].ids)
            os.kill(engine, number)
            (generated,) = exchange.finish(1)
        assert generated.reasons == [LENGTH], number
        assert len(generated.ids[0]) == 200


def test_a_step_does_not_hold_up_the_worker(own_worker):
    # The whole prompt in one step: a worker that is held up answers before and after it.
    _, worker = own_worker("--openvino.max-batched-tokens", "4096")
    health = health_pb2_grpc.HealthStub(worker.raw)
    asked = request(tokens=1500, max_tokens=1)
    call = worker.execution.Execute(pb.ExecuteRequest(request=asked), timeout=WAIT_S)
    assert next(call).HasField("accepted")
    rest: list[pb.ExecuteResponse] = []
    reader = threading.Thread(target=lambda: rest.extend(call))
    reader.start()
    answers = 0
    while reader.is_alive():
        health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        answers += 1
    assert rest[-1].HasField("completed")
    assert answers >= 10
