"""What a load process makes of a generation's events: losses, times, and which requests count."""

import pytest
from google.rpc import status_pb2
from tokenwire.bench.measures import METRICS, Measures, Merged
from tokenwire.bench.plan import Objective
from tokenwire.bench.reading import CUT, Reading
from tokenwire.frontend.v1 import generation_pb2

Event = generation_pb2.StreamGenerateResponse


def delta(offset, count, text="", text_offset=0):
    return Event(
        delta=generation_pb2.Delta(
            token_offset=offset, token_ids=[7] * count, text=text, text_offset=text_offset
        )
    )


def completed(tokens):
    usage = generation_pb2.Usage(prompt_tokens=5, completion_tokens=tokens)
    return Event(completed=generation_pb2.Completed(usage=usage))


def measures(objective=Objective()):  # noqa: B008 - it is frozen
    return Measures(100.0, 200.0, objective)


def read(events, *, of=None, at_s=150.0):
    """Reads events that come one a second; returns the reading."""
    of = of or measures()
    reading = Reading(of, at_s, collects=True)
    of.started(reading)
    for number, event in enumerate(events, 1):
        reading.take(event, at_s + number)
    reading.end()
    of.ended(reading, at_s + len(events))
    return reading


@pytest.mark.parametrize(
    ("events", "lost", "repeated"),
    [
        ([delta(0, 2), delta(2, 1), completed(3)], 0, 0),
        ([delta(0, 2), delta(3, 1), completed(4)], 1, 0),
        ([delta(0, 2), delta(1, 2), completed(3)], 0, 1),
        ([delta(0, 2), completed(5)], 3, 0),
        ([delta(1, 2), completed(3)], 1, 0),
        ([delta(0, 4), completed(3)], 0, 1),
        ([completed(0)], 0, 0),
    ],
)
def test_what_is_lost_or_repeated_is_told_by_offsets_and_by_the_count(events, lost, repeated):
    reading = read(events)
    assert (reading.lost, reading.repeated) == (lost, repeated)
    assert reading.reason == ""


def test_text_that_does_not_continue_is_counted_in_bytes():
    good = [delta(0, 1, "dé", 0), delta(1, 1, "jà", 3), completed(2)]
    bad = [delta(0, 1, "dé", 0), delta(1, 1, "jà", 2), completed(2)]
    assert [read(each).text_gaps for each in (good, bad)] == [0, 1]
    assert read(good).text == "déjà"


def test_a_stream_that_ends_too_early_has_failed_and_lost():
    reading = read([delta(0, 2)])
    assert (reading.reason, reading.lost) == (CUT, 1)


def test_a_sessions_error_is_a_failure_with_its_reason():
    status = status_pb2.Status(code=8, message="full")
    reading = read([generation_pb2.SessionEvent(id=1, error=status)])
    assert (reading.reason, reading.lost) == ("RESOURCE_EXHAUSTED", 0)


def test_times_count_from_the_intended_start():
    of = measures()
    read([delta(0, 1), delta(1, 3), completed(4)], of=of)

    times = Merged([of.to_json()])
    found = {
        name: [each.times[name].largest_s for each in times.slices if each.times[name].count]
        for name in METRICS
    }
    tpot = [pytest.approx(1 / 3)]
    assert found == {"ttft": [1], "itl": [1], "tpot": tpot, "e2e": [3], "frontend_ttft": []}


def test_requests_of_the_warm_up_and_the_drain_are_in_no_figure_but_their_losses_are():
    of = measures()
    read([delta(0, 1), delta(2, 1), completed(3)], of=of, at_s=99.0)
    read([delta(0, 1), delta(1, 1), completed(2)], of=of, at_s=198.5)

    assert {name: of.totals[name] for name in ("started", "completed", "lost")} == {
        "started": 1,
        "completed": 1,
        "lost": 1,
    }
    # The first's two tokens came at 100 and 101, the second's at 199.5 and 200.5.
    assert sum(each.tokens for each in of.slices) == 3
    # It ended after the measured time: its latency counts, its end does not.
    assert sum(each.finished for each in of.slices) == 1
    assert sum(each.times["e2e"].count for each in of.slices) == 1


@pytest.mark.parametrize(
    ("objective", "good"),
    [
        (Objective(ttft_s=1.0), 1),
        (Objective(ttft_s=0.9), 0),
        (Objective(itl_s=1.0, e2e_s=3.0), 1),
        (Objective(itl_s=0.9), 0),
        (Objective(tpot_s=0.3), 0),
        (Objective(ttft_s=1.0, e2e_s=2.9), 0),
    ],
)
def test_a_request_is_good_if_it_meets_the_whole_objective(objective, good):
    of = measures(objective)
    read([delta(0, 1), delta(1, 3), completed(4)], of=of)
    assert of.totals["good"] == good


def test_processes_add_up():
    parts = []
    for at_s in (110.0, 120.0):
        of = measures()
        read([delta(0, 2), completed(2)], of=of, at_s=at_s)
        parts.append(of.to_json())

    merged = Merged(parts)
    assert merged.totals["completion_tokens"] == 4
    assert [row[0] for row in merged.sample] == [10, 20]
