"""Workers that are restarted back to back, under load by every door: no caller hears of it."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2 as pb
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2_grpc

from tests.services.bad_values_of_inference import asking
from tests.services.calls import Frontend, Worker, generation
from tests.services.processes import (
    MODEL_NAME,
    SERVING,
    WAIT_S,
    Process,
    Processes,
    free_address,
    wait_for_health,
)

OPTIONS = ("--simulated.step-ms", "20")
TOKENS = 8
PROCESSES = 2
"""Of the frontend."""


def of_grpc(stack: ExitStack, frontend: Process) -> Callable[[], Any]:
    client = stack.enter_context(Frontend(frontend.address))
    return lambda: client.generate(generation(max_tokens=TOKENS))


def of_streams(stack: ExitStack, frontend: Process) -> Callable[[], Any]:
    client = stack.enter_context(Frontend(frontend.address))
    return lambda: client.stream(generation(max_tokens=TOKENS)).completed.usage


def of_kserve(stack: ExitStack, frontend: Process) -> Callable[[], Any]:
    channel = stack.enter_context(grpc.insecure_channel(frontend.address))
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    request = pb.ModelInferRequest(model_name=MODEL_NAME, **asking())
    return lambda: stub.ModelInfer(request, timeout=WAIT_S)


def of_openai(stack: ExitStack, frontend: Process) -> Callable[[], Any]:
    address = frontend.wait_for("openai_listening")["address"]
    connection = http.client.HTTPConnection(address, timeout=WAIT_S)
    stack.callback(connection.close)
    body = json.dumps({"model": MODEL_NAME, "prompt": "Hello", "max_tokens": TOKENS})

    def call() -> None:
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()
        told = response.read().decode()
        if response.status != http.client.OK:
            raise RuntimeError(told)

    return call


DOORS = {"grpc": of_grpc, "streams": of_streams, "kserve": of_kserve, "openai": of_openai}
CALLERS = 2
"""Of each door, with a connection each."""


@contextmanager
def load(frontend: Process) -> Iterator[tuple[Counter[str], list[str]]]:
    """Calls by every door until the block is left; offers what was answered, and what failed."""
    answered: Counter[str] = Counter()
    failed: list[str] = []
    over = threading.Event()

    def repeat(door: str, call: Callable[[], Any]) -> None:
        while not over.is_set():
            try:
                call()
                answered[door] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, a caller heard of it
                failed.append(f"{door}: {error}")

    with ExitStack() as stack:
        threads = [
            threading.Thread(target=repeat, args=(door, make(stack, frontend)))
            for door, make in DOORS.items()
            for _ in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield answered, failed
        finally:
            over.set()
            for thread in threads:
                thread.join(WAIT_S)


def start(processes: Processes, *addresses: str) -> list[Process]:
    """Returns workers that say themselves that they serve; a frontend may not have reached them."""
    started = [processes.simulated(*OPTIONS, listen=each) for each in addresses]
    for each in addresses:
        with Worker(each) as worker:
            wait_for_health(worker.raw, SERVING)
    return started


def stop(*workers: Process) -> None:
    for each in workers:
        each.terminate()
    assert [each.wait() for each in workers] == [0] * len(workers)


def test_two_workers_are_restarted_back_to_back_and_nothing_is_refused(processes):
    one, two = free_address(), free_address()
    first, second = start(processes, one, two)
    frontend = processes.frontend(
        *(
            "--processes",
            str(PROCESSES),
            "--openai-listen",
            "127.0.0.1:0",
            "--worker-wait-s",
            str(WAIT_S),
        ),
        workers=[one, two],
    )
    for process in range(PROCESSES):
        frontend.wait_for("worker", process=process, state="ready")
    with load(frontend) as (answered, failed), ExitStack() as stack:
        stop(first)
        [first] = start(processes, one)
        stop(second)
        [second] = start(processes, two)
        stop(first, second)
        start(processes, one, two)
        for make in DOORS.values():
            make(stack, frontend)()
    assert failed == []
    assert all(answered[door] for door in DOORS)
