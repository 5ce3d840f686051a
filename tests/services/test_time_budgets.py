"""Time budgets where requests wait for the engine: both services, and an engine of one place."""

from __future__ import annotations

import time

import grpc
from tokenwire.frontend.v1.generation_pb2 import FINISH_REASON_LENGTH as LENGTH

from tests.services.calls import Frontend, generation, refused
from tests.services.calls import duration as seconds
from tests.services.processes import SERVING, WAIT_S, wait_for_health

HELD_S = 0.25
"""Time that a generation of 25 tokens runs."""

WAITING = 16


def test_one_that_would_wait_beyond_its_budget_is_refused_until_there_is_room(processes):
    worker = processes.simulated(
        *("--simulated.max-sequences", "1", "--simulated.step-ms", str(HELD_S * 1e3 / 25))
    )
    frontend = processes.frontend(workers=[worker])
    short = generation(max_tokens=1, time_budget=seconds(4 * HELD_S))
    with Frontend(frontend.address) as client, client.session() as session:
        wait_for_health(client.raw, SERVING)
        client.generate(generation(max_tokens=25))  # by which the worker knows how long one takes
        numbers = range(1, WAITING + 1)
        for number in numbers:
            session.open(number, generation(max_tokens=25))
        session.finish(1)  # so the load was told
        refusal = refused(lambda: client.generate(short))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "BUDGET_TOO_SHORT",
        )
        wait_s = float(refusal.info.metadata["wait_s"])
        assert 4 * HELD_S < wait_s < 2 * WAITING * HELD_S
        assert 0 < refusal.retry_after_s < wait_s
        assert {each.reason for each in session.finish(*numbers)} == {LENGTH}
        ends_s = time.monotonic() + WAIT_S
        while True:  # until the frontend has heard that there is room
            try:
                [answer] = client.generate(short).sequences
                break
            except grpc.RpcError:
                assert time.monotonic() < ends_s
        assert answer.end.reason == LENGTH
