"""What callers are told while a frontend stops: an answer, or that it drains; never less."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from tokenwire.frontend.v1 import (
    activity_pb2,
    activity_pb2_grpc,
    generation_pb2,
    model_pb2,
    tokenization_pb2,
)

from tests.services.calls import (
    Frontend,
    Worker,
    check_draining,
    endless,
    generation,
    read_to_first_token,
    refusal_of,
    refusal_of_status,
    refused,
)
from tests.services.processes import NOT_SERVING, SERVING, WAIT_S, wait_for_health

TRIALS = 2
ENOUGH = 30
"""Answers after which the callers' loops are in full swing."""


def open_end(first: list[Any], hold: threading.Event) -> Iterator[Any]:
    """Sends these requests and keeps the stream open."""
    yield from first
    hold.wait(WAIT_S)


def calls_of(client: Frontend, hold: threading.Event) -> list[Callable[[], Any]]:
    """Returns calls of every shape, each to be made over and over."""
    activity = activity_pb2_grpc.ActivityServiceStub(client.raw)
    short = generation(max_tokens=4)
    texts = [tokenization_pb2.StreamTokenizeRequest(text="hello")] * 3
    return [
        lambda: client.generations.Generate(
            generation_pb2.GenerateRequest(generation=short), timeout=WAIT_S
        ),
        lambda: client.generations.Generate(
            generation_pb2.GenerateRequest(generation=short), timeout=WAIT_S
        ),
        lambda: list(client.start(short)),
        lambda: client.tokenization.Tokenize(
            tokenization_pb2.TokenizeRequest(text="hello"), timeout=WAIT_S
        ),
        lambda: client.models.ListModels(model_pb2.ListModelsRequest(), timeout=WAIT_S),
        lambda: list(activity.WatchActivity(activity_pb2.WatchActivityRequest(), timeout=WAIT_S)),
        lambda: list(client.generations.Session(open_end([], hold), timeout=WAIT_S)),
        lambda: list(client.tokenization.StreamTokenize(open_end(texts, hold), timeout=WAIT_S)),
    ]


def told(error: grpc.RpcError) -> str:
    """Sums up a failure: DRAINING with its details, that nobody is there, or what else it is."""
    told = {key for key, _ in error.trailing_metadata() or ()}
    if error.code() is grpc.StatusCode.UNAVAILABLE and "grpc-status-details-bin" not in told:
        return "gone"  # gRPC's own words for a connection that is closed, or cannot be made
    refusal = refusal_of(error)
    if refusal.code is grpc.StatusCode.UNAVAILABLE and refusal.retry_after_s:
        return refusal.reason
    return f"{refusal.code.name}: {refusal.message}"


class Callers:
    """Eight threads that call without a pause until the frontend is gone."""

    def __init__(self, client: Frontend) -> None:
        self.seen: Counter[str] = Counter()
        self.busy = threading.Event()
        self._hold = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(call,))
            for call in calls_of(client, self._hold)
        ]
        for thread in self._threads:
            thread.start()

    def _repeat(self, call: Callable[[], Any]) -> None:
        said = ""
        while said in ("", "DRAINING"):
            try:
                call()
                self.seen["OK"] += 1
            except grpc.RpcError as error:
                said = told(error)
                self.seen[said] += 1
            if self.seen["OK"] >= ENOUGH:
                self.busy.set()

    def join(self) -> None:
        self._hold.set()
        for thread in self._threads:
            thread.join(WAIT_S)


@pytest.mark.parametrize("trial", range(TRIALS))
def test_callers_in_full_swing_hear_that_it_drains(processes, plain_worker, trial):
    started = processes.frontend(workers=[plain_worker])
    with Frontend(started.address) as client:
        wait_for_health(client.raw, SERVING)
        callers = Callers(client)
        assert callers.busy.wait(WAIT_S)
        started.terminate()
        assert started.wait() == 0
        callers.join()
    assert set(callers.seen) <= {"OK", "DRAINING", "gone"}
    assert callers.seen["DRAINING"]
    assert "Traceback" not in started.output


def test_what_does_not_finish_within_the_grace_is_ended(processes, plain_worker):
    """Generations of every entry point, and streams with nothing open: a session, and a watch whose
    next message is a minute away."""
    started = processes.frontend("--drain-grace-s", "0.5", workers=[plain_worker])
    with Frontend(started.address) as client, client.session() as busy:
        wait_for_health(client.raw, SERVING)
        running = client.start(endless())
        read_to_first_token(running)
        busy.open(1, endless())
        busy.read_until(lambda: bool(busy[1].deltas))
        activity = activity_pb2_grpc.ActivityServiceStub(client.raw)
        request = activity_pb2.WatchActivityRequest(interval={"seconds": 60})
        watch = activity.WatchActivity(request, timeout=WAIT_S)
        next(watch)
        hold = threading.Event()
        session = client.generations.Session(open_end([], hold), timeout=WAIT_S)
        wait_for_health(client.raw, NOT_SERVING, while_waiting=started.terminate)
        for call in (running, watch, session):
            check_draining(refused(lambda call=call: call))
        check_draining(refusal_of_status(busy.finish(1)[0].error))
        assert len(busy.draining) == 1
        hold.set()
    assert started.wait() == 0
    with Worker(plain_worker.address) as worker:
        worker.wait_until_idle()
