"""What is remembered of generations that have ended: how many, in which order, and quantiles."""

from __future__ import annotations

import pytest
from tokenwire.frontend.v1 import activity_pb2 as fa
from tokenwire.frontend.v1 import model_pb2 as fm
from tokenwire_frontend.core.activity import (
    WINDOW_S,
    Activity,
    Latencies,
    Outcome,
    Quantiles,
    Record,
)
from tokenwire_frontend.core.events import Completion
from tokenwire_frontend.edge.grpc.activity import Found, Part, Watch

READY = fm.WORKER_STATE_READY


def record(
    request_id: str = "a",
    ended_s: float = 0.0,
    total_s: float = 1.0,
    outcome: Outcome = Outcome.COMPLETED,
    first_s: float | None = None,
) -> Record:
    completion = Completion(1, 2, None, first_s, None, total_s, [], "w")
    return Record(request_id, "", "0" * 32, 0.0, ended_s, "m", outcome, "stop", "", completion)


def ids(records: list[Record]) -> list[str]:
    return [each.request_id for each in records]


def test_the_newest_come_first_and_as_many_as_wanted():
    activity = Activity(10)
    for name in "abc":
        activity.add(record(name))
    assert ids(activity.latest(2)) == ["c", "b"]
    assert ids(activity.latest(10)) == ["c", "b", "a"]
    assert activity.latest(0) == []


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_oldest_goes_when_the_limit_is_met(limit):
    activity = Activity(limit)
    for name in "abcde":
        activity.add(record(name))
    assert ids(activity.latest(9)) == list("edcba")[:limit]


def test_of_several_of_one_id_the_last_is_found():
    activity = Activity(5)
    first, last = record("a", total_s=1.0), record("a", total_s=2.0)
    for each in (first, last, record("b")):
        activity.add(each)
    assert activity.find("a") is last
    assert activity.find("z") is None


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], (0, 0.0, 0.0, 0.0)),
        ([7.0], (1, 7.0, 7.0, 7.0)),
        ([2.0, 1.0], (2, 1.0, 2.0, 2.0)),
        (range(1, 11), (10, 5, 9, 10)),
        (range(100, 0, -1), (100, 50, 90, 99)),
        (range(1, 202), (201, 101, 181, 199)),
    ],
)
def test_quantiles_are_values_that_were_there(values, wanted):
    found = Quantiles.of(list(values))
    assert (found.count, found.p50, found.p90, found.p99) == wanted


def test_latencies_are_of_what_completed_in_the_last_minute():
    activity, now_s = Activity(10), 1000.0
    for total_s, ended_s, outcome in [
        (1.0, now_s - WINDOW_S - 0.1, Outcome.COMPLETED),
        (2.0, now_s - WINDOW_S + 0.1, Outcome.COMPLETED),
        (3.0, now_s, Outcome.COMPLETED),
        (4.0, now_s, Outcome.CANCELLED),
        (5.0, now_s, Outcome.REFUSED),
        (6.0, now_s, Outcome.FAILED),
    ]:
        activity.add(record(ended_s=ended_s, total_s=total_s, outcome=outcome))
    assert activity.latencies(now_s).total_s == [2.0, 3.0]


def test_what_had_no_token_has_no_time_to_the_first():
    activity = Activity(10)
    activity.add(record(first_s=None))
    activity.add(record(first_s=0.5))
    latencies = activity.latencies(1.0)
    assert latencies.time_to_first_token_s == [0.5]
    assert latencies.time_per_output_token_s == []
    assert len(latencies.total_s) == 2


# --- several processes ---------------------------------------------------------------------------


def process_part(
    tokens: int, totals_s: list[float], ended_s: list[float], state: int = READY
) -> Part:
    """Returns what a process tells that has made so many tokens, and ended so many generations."""
    message = fa.WatchActivityResponse(
        workers=[fm.Worker(address="w:1", state=state, running=3, in_flight=2)],
        active_generations=1,
        generations_limit=10,
        completion_tokens=tokens,
        outcomes=[fa.OutcomeCount(outcome=fa.OUTCOME_COMPLETED, count=len(ended_s))],
        records=[fa.Record(request_id=f"at-{each:g}") for each in ended_s],
    )
    return Part.unpacked(Part(message, Latencies([], [], totals_s), ended_s).packed())


class Told:
    """Processes that tell what a test has them tell."""

    def __init__(self) -> None:
        self.now: dict[str, Part] = {}

    async def parts(self, records: int, tenant: str | None) -> dict[str, Part]:
        return self.now

    async def find(self, request_id: str, tenant: str | None) -> list[Found]:
        raise NotImplementedError


async def test_the_activity_of_several_processes_is_one():
    told = Told()
    told.now = {
        "0.1": process_part(5, [1.0, 3.0], [30.0, 10.0]),
        "1.1": process_part(7, [2.0], [20.0], fm.WORKER_STATE_LOST),
    }
    now = await Watch(told, records=2, tenant=None).next()
    assert (now.active_generations, now.generations_limit, now.completion_tokens) == (2, 20, 12)
    assert [each.request_id for each in now.records] == ["at-30", "at-20"]
    assert (now.total.count, now.total.p50.seconds) == (3, 2), "the median of all, not of medians"
    [worker] = now.workers
    assert (worker.state, worker.running, worker.in_flight) == (fm.WORKER_STATE_LOST, 3, 4)


async def test_what_a_watcher_has_seen_counted_stays_counted():
    told = Told()
    watch = Watch(told, records=0, tenant=None)
    first, second = process_part(5, [], [1.0]), process_part(7, [], [2.0])
    seen = []
    for told.now in (
        {"0.1": first, "1.1": second},
        {"0.1": first},  # the other is silent, or gone
        {"0.1": first, "1.2": process_part(1, [], [])},
    ):
        now = await watch.next()
        seen.append((now.completion_tokens, now.outcomes[0].count, now.active_generations))
    assert seen == [(12, 2, 2), (12, 2, 1), (13, 2, 2)]
