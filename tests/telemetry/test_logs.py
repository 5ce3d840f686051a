"""One line for each request on each hop, and none for a token."""

from __future__ import annotations

import pytest

from tests.services.calls import duration, generation, refused
from tests.services.processes import Process


def lines(process: Process, request_id: str) -> list[dict]:
    """Returns the lines about a request, once its own has come."""
    process.wait_for("generation", request_id=request_id)
    return process.events(request_id=request_id)


ENDED = {
    "length": (generation(max_tokens=3), "length"),
    "budget": (generation(max_tokens=3000, time_budget=duration(0.2)), "time_budget"),
}


@pytest.mark.parametrize("name", ENDED)
def test_both_hops_write_one_line_of_the_same_request(pair, name):
    what, reason = ENDED[name]
    what.request_id = f"line-{name}"
    answer = pair.frontend.generate(what)
    [own] = lines(pair.frontend_process, what.request_id)
    [there] = lines(pair.worker_process, what.request_id)
    for line in (own, there):
        assert line["level"] == "info"
        assert line["trace_id"] == answer.trace_id
        assert (line["outcome"], line["reason"]) == ("completed", reason)
        assert line["prompt_tokens"] == answer.usage.prompt_tokens
        assert line["completion_tokens"] == answer.usage.completion_tokens
    assert own["worker"] == "shared"
    assert (own["service"], there["service"]) == ("tokenwire-frontend", "tokenwire-worker")


REFUSED = {
    "field": (generation(max_tokens=0), {}, "INVALID_FIELD"),
    "model": (generation(model="nope"), {}, "UNKNOWN_MODEL"),
    "unread": (generation(time_budget={"nanos": -5, "seconds": 1}), {}, "INVALID_FIELD"),
    "options": (generation(), {"stream": {"max_delay": {"seconds": 11}}}, "INVALID_FIELD"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_line(pair, name):
    what, options, reason = REFUSED[name]
    what.request_id = f"refused-{name}"
    before = pair.frontend_process.event_count
    refused(lambda: pair.frontend.stream(what, **options))
    [line] = lines(pair.frontend_process, what.request_id)
    assert (line["level"], line["outcome"], line["reason"]) == ("info", "refused", reason)
    assert line["message"]
    assert pair.frontend_process.event_count == before + 1


def test_what_is_refused_in_a_session_is_a_line_each(pair):
    with pair.frontend.session() as session:
        session.open(0, generation(request_id="line-zero"))
        session.read_until(lambda: bool(session.unowned))
        session.open(1, generation(request_id="line-delay"), stream={"max_delay": {"seconds": 11}})
        session.finish(1)
    for request_id in ("line-zero", "line-delay"):
        [line] = lines(pair.frontend_process, request_id)
        assert (line["outcome"], line["reason"]) == ("refused", "INVALID_FIELD")


def test_what_the_worker_refuses_is_a_line_on_both_hops(pair):
    what = generation(max_tokens=3, guided={"regex": "("}, request_id="refused-there")
    refused(lambda: pair.frontend.stream(what))
    [own] = lines(pair.frontend_process, what.request_id)
    [there] = lines(pair.worker_process, what.request_id)
    assert own["trace_id"] == there["trace_id"]
    for line in (own, there):
        assert (line["level"], line["outcome"]) == ("info", "refused")
        assert line["reason"] == "INVALID_FIELD"


def test_tokens_write_no_lines(pair):
    processes = (pair.frontend_process, pair.worker_process)
    before = [process.event_count for process in processes]
    pair.frontend.stream(generation("One, two,", 500, request_id="quiet"))
    for process in processes:
        process.wait_for("generation", request_id="quiet")
    after = [process.event_count for process in processes]
    assert after == [count + 1 for count in before]
