"""Many generations on one stream: none harms another, whatever is opened or goes wrong."""

from __future__ import annotations

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2

from tests.services.calls import (
    Frontend,
    duration,
    endless,
    generation,
    refusal_of_status,
    refused,
)
from tests.services.processes import SERVING, WAIT_S, wait_for_health

STOP = generation_pb2.FINISH_REASON_STOP
CANCELLED = generation_pb2.FINISH_REASON_CANCELLED


def test_hundreds_of_generations_share_one_stream(frontend, worker):
    numbers = range(1, 401)
    with frontend.session() as session:
        for number in numbers:
            session.open(number, generation(f"Number {number} is", 1 + number % 7))
        ended = session.finish(*numbers)
        session.close_sending()
        session.read_to_end()
        assert session.call.code() is grpc.StatusCode.OK
    assert [len(each.ids()) for each in ended] == [1 + number % 7 for number in numbers]
    # One message carries the news of many.
    assert session.messages < sum(len(each.deltas) for each in ended)
    for number in (1, 200, 400):
        alone = frontend.generate(generation(f"Number {number} is", 1 + number % 7))
        assert session[number].ids() == list(alone.sequences[0].token_ids)


def test_two_sessions_use_the_same_numbers(frontend):
    with frontend.session() as first, frontend.session() as second:
        first.open(1, generation("One, two,", 30))
        second.open(1, generation("Hello", 20))
        assert len(first.finish(1)[0].ids()) == 30
        assert len(second.finish(1)[0].ids()) == 20


def test_a_number_is_free_again_after_the_end(frontend):
    with frontend.session() as session:
        for count in (3, 5, 2):
            session.open(4_294_967_295, generation(max_tokens=count))
            [ended] = session.finish(4_294_967_295)
            assert len(ended.ids()) == count


def test_a_number_is_free_again_after_an_error(frontend):
    with frontend.session() as session:
        session.open(1, generation(max_tokens=0))
        [refused] = session.finish(1)
        assert refused.error is not None
        session.open(1, generation(max_tokens=3))
        assert len(session.finish(1)[0].ids()) == 3


def test_a_number_is_free_again_after_a_cancel(frontend):
    with frontend.session() as session:
        session.open(1, endless())
        session.read_until(lambda: bool(session[1].deltas))
        session.cancel(1)
        assert session.finish(1)[0].reason == CANCELLED
        session.open(1, generation(max_tokens=3))
        assert len(session.finish(1)[0].ids()) == 3


def check_bystander(session) -> None:
    """Reads the bystander, generation 9, to its end: nothing has harmed it."""
    [bystander] = session.finish(9)
    assert len(bystander.ids()) == 20
    session.open(10, generation(max_tokens=2))
    assert len(session.finish(10)[0].ids()) == 2


@pytest.fixture
def session(frontend):
    """A session in which generation 9 is under way."""
    with frontend.session() as call:
        call.open(9, generation("One, two,", 20))
        call.read_until(lambda: bool(call[9].deltas))
        yield call


def test_number_0_is_refused(session):
    session.send(generation_pb2.SessionRequest(open={"id": 0, "generation": generation()}))
    session.read_until(lambda: bool(session.unowned))
    refusal = refusal_of_status(session.unowned[0])
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == ["open.id"]
    assert refusal.info.domain == "tokenwire"
    check_bystander(session)


def test_an_empty_command_is_refused(session):
    session.send(generation_pb2.SessionRequest())
    session.read_until(lambda: bool(session.unowned))
    refusal = refusal_of_status(session.unowned[0])
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == ["command"]
    check_bystander(session)


def test_opening_an_open_number_ends_both(session, worker):
    session.open(1, endless())
    session.read_until(lambda: bool(session[1].deltas))
    session.send(generation_pb2.SessionRequest(open={"id": 1, "generation": generation()}))
    [ended] = session.finish(1)
    refusal = refusal_of_status(ended.error)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == ["open.id"]
    # The number is free, and nothing of either comes under it any more.
    session.open(1, generation(max_tokens=4))
    assert len(session.finish(1)[0].ids()) == 4
    check_bystander(session)
    worker.wait_until_idle()


def test_opening_a_number_three_times_at_once_leaves_one(session, worker):
    """The second ends the first, still being started; the third opens the number anew."""
    for _ in range(20):
        twice = generation_pb2.SessionRequest(open={"id": 1, "generation": endless("Hello " * 99)})
        session.send(twice)
        session.send(twice)
        session.open(1, generation("Hello " * 99, 4))
        assert session.finish(1)[0].error is not None
        session.expect(1)
        assert len(session.finish(1)[0].ids()) == 4
    check_bystander(session)
    worker.wait_until_idle()


@pytest.mark.parametrize(
    ("what", "fields", "field", "code"),
    [
        ({}, {}, "open.generation.prompt", "INVALID_ARGUMENT"),
        ({"prompt": {"text": ""}}, {}, "open.generation.prompt.text", "INVALID_ARGUMENT"),
        (
            {"prompt": {"text": "x"}, "sampling": {"temperature": -1}},
            {},
            "open.generation.sampling.temperature",
            "INVALID_ARGUMENT",
        ),
        (
            {"prompt": {"text": "x"}},
            {"stream": {"max_delay": duration(11)}},
            "open.stream.max_delay",
            "INVALID_ARGUMENT",
        ),
        ({"prompt": {"text": "x"}, "model": "nope"}, {}, None, "NOT_FOUND"),
        ({"prompt": {"text": "x " * 5000}}, {}, "open.generation.prompt", "INVALID_ARGUMENT"),
    ],
)
def test_an_invalid_generation_ends_alone(session, what, fields, field, code):
    session.open(1, generation_pb2.Generation(**what), **fields)
    [ended] = session.finish(1)
    refusal = refusal_of_status(ended.error)
    assert refusal.code.name == code
    assert refusal.fields == ([field] if field else [])
    assert refusal.info.domain == "tokenwire"
    assert ended.accepted is None
    check_bystander(session)


def test_a_refusal_by_the_worker_ends_alone(session):
    """Only the engine can tell that this is no regular expression."""
    what = generation(guided={"regex": "(unclosed"}, stop={"ignore_eos": False})
    session.open(1, what)
    [ended] = session.finish(1)
    refusal = refusal_of_status(ended.error)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields == ["open.generation.guided.regex"]
    check_bystander(session)


@pytest.mark.parametrize("prompt", [{"text": "x"}, {"token_ids": {"ids": [5]}}])
def test_a_refusal_by_the_worker_names_the_callers_field(frontend, prompt):
    """The worker takes no minimum with a guide; its contract calls the field otherwise."""
    stop = {"min_tokens": 2, "ignore_eos": False}
    what = generation(prompt, stop=stop, guided={"regex": "a+"})
    refusal = refused(lambda: frontend.stream(what))
    assert refusal.fields == ["generation.stop.min_tokens"]
    assert "stopping" not in refusal.message


def test_many_refusals_come_in_order_and_are_all_told(frontend):
    with frontend.session() as session:
        for number in range(1, 501):
            session.open(number, generation(max_tokens=0 if number % 2 else 1))
        ended = session.finish(*range(1, 501))
    assert [each.error is not None for each in ended] == [
        number % 2 == 1 for number in range(1, 501)
    ]


def test_a_full_session_still_hears_cancels(processes):
    """As many generations as one session may hold, all but one waiting for the engine."""
    narrow = processes.simulated(
        *("--simulated.max-sequences", "1", "--max-waiting-requests", "5000")
    )
    started = processes.frontend(
        *("--generations-limit", "5000", "--queue-limit", "5000"), workers=[narrow]
    )
    with Frontend(started.address) as frontend, frontend.session() as session:
        wait_for_health(frontend.raw, SERVING)
        for number in range(1, 1026):
            session.open(number, endless())
        [beyond] = session.finish(1025)
        refusal = refusal_of_status(beyond.error)
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.reason == "TOO_MANY_GENERATIONS"
        assert refusal.retry_after_s is not None
        assert refusal.quotas == ["session/generations"]
        session.cancel(1)
        session.cancel(1000)
        first, waiting = session.finish(1, 1000)
        assert first.reason == waiting.reason == CANCELLED
        assert waiting.ids() == []
        # There is room again.
        session.open(1000, generation(max_tokens=0))
        session.finish(1000)


def test_the_session_of_an_unread_client_is_bounded(frontend, worker):
    """Thousands of empty commands from a client that reads nothing: the errors do not pile up in
    the frontend, which stops to read; once the client reads, all of them come."""
    sent = 8_000
    commands = (generation_pb2.SessionRequest() for _ in range(sent))
    call = frontend.generations.Session(commands, timeout=WAIT_S)
    assert len(frontend.generate(generation(max_tokens=5)).sequences) == 1
    events = [event for response in call for event in response.events]
    assert len(events) == sent
    assert {event.WhichOneof("event") for event in events} == {"error"}


def test_one_message_opens_and_cancels_several(frontend):
    with frontend.session() as session:
        for number in (1, 2, 3, 4):
            session.expect(number)
        open_ = generation_pb2.Open
        session.send(
            generation_pb2.SessionRequest(
                open=open_(id=1, generation=generation(max_tokens=3)),
                opens=[
                    open_(id=2, generation=endless()),
                    open_(id=3, generation=generation(max_tokens=5)),
                    open_(id=4, generation=endless()),
                ],
                cancels=[generation_pb2.Cancel(id=4)],
            )
        )
        assert [len(each.ids()) for each in session.finish(1, 3)] == [3, 5]
        assert session.finish(4)[0].reason == CANCELLED
        session.read_until(lambda: bool(session[2].deltas))
        session.send(generation_pb2.SessionRequest(cancels=[generation_pb2.Cancel(id=2)]))
        assert session.finish(2)[0].reason == CANCELLED
