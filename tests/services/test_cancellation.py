"""What stops a generation early, and that the engine then stops too."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2
from tokenwire.worker.v1 import execution_pb2

from tests.services.calls import (
    LONG,
    SMALL_WINDOW,
    Frontend,
    Streamed,
    Worker,
    duration,
    endless,
    generation,
    read,
    read_to_first_token,
    refused,
)
from tests.services.processes import ROOT, WAIT_S

CANCELLED = generation_pb2.FINISH_REASON_CANCELLED
TIME_BUDGET = generation_pb2.FINISH_REASON_TIME_BUDGET
LENGTH = generation_pb2.FINISH_REASON_LENGTH

SOON_TOKENS = 400
"""The engine has stopped soon when it made fewer tokens than this after the reason to stop: a tenth
of what it would have made, and far more than two steps, for the machine may be busy."""


@contextmanager
def freed(worker: Worker, sequences: int = 1) -> Iterator[None]:
    """Checks that the engine, which runs so many sequences before the block, is free soon after."""
    before = worker.wait_for_load(lambda load: load.running_sequences == sequences)
    yield
    made = worker.wait_until_idle().generated_tokens - before.generated_tokens
    assert made < SOON_TOKENS * sequences, f"{made} tokens for nobody"


# --- the client goes -----------------------------------------------------------------------------


@pytest.mark.parametrize("sequences", [1, 3])
def test_cancelling_a_stream_frees_the_engine(frontend, worker, sequences):
    call = frontend.start(endless(sequence_count=sequences))
    read_to_first_token(call)
    with freed(worker, sequences):
        call.cancel()
    assert call.code() is grpc.StatusCode.CANCELLED
    frontend.wait_for_no_work()


def test_cancelling_a_unary_call_frees_the_engine(frontend, worker):
    request = generation_pb2.GenerateRequest(generation=endless())
    call = frontend.generations.Generate.future(request, timeout=WAIT_S)
    with freed(worker):
        call.cancel()


def test_cancelling_before_the_first_token_frees_the_engine(frontend, worker):
    """Hundreds of calls, each cancelled as soon as it is made: wherever the cancel meets it."""
    for _ in range(200):
        frontend.start(endless()).cancel()
    read(frontend.start(generation(max_tokens=1)))
    worker.wait_until_idle()
    frontend.wait_for_no_work()


def test_a_cancelled_call_of_the_worker_itself_frees_the_engine(worker):
    request = execution_pb2.Request(
        prompt_token_ids=[5, 6], stopping={"max_tokens": LONG, "ignore_eos": True}
    )
    call = worker.execution.Execute(execution_pb2.ExecuteRequest(request=request), timeout=WAIT_S)
    with freed(worker):
        call.cancel()


def test_the_engine_stops_within_two_steps_of_the_cancel(frontend, worker):
    """The worker's own step counter, between the last load that showed the generation running and
    the first that does not, with the load told at most every 10 ms."""
    watch = worker.watch()
    call = frontend.start(endless())
    running = next(load for load in watch if load.running_sequences)
    call.cancel()
    for load in watch:
        if not load.running_sequences:
            break
        running = load
    watch.cancel()
    assert load.steps - running.steps <= 50
    # While nothing runs, no step is made.
    assert worker.load().steps == load.steps


CLIENT = """
import sys, grpc
from tokenwire.frontend.v1 import generation_pb2, generation_pb2_grpc
stub = generation_pb2_grpc.GenerationServiceStub(grpc.insecure_channel(sys.argv[1]))
what = generation_pb2.Generation.FromString(bytes.fromhex(sys.argv[2]))
def opens():
    for number in 1, 2:
        yield generation_pb2.SessionRequest(open={"id": number, "generation": what})
    while True: threading.Event().wait()
if sys.argv[3] == "session":
    import threading
    call = stub.Session(opens())
else:
    call = stub.StreamGenerate(generation_pb2.StreamGenerateRequest(generation=what))
for event in call:
    print(event.WhichOneof("event") if sys.argv[3] == "stream" else "events", flush=True)
"""


@pytest.mark.parametrize(("kind", "sequences"), [("stream", 1), ("session", 2)])
def test_a_client_that_is_killed_frees_the_engine(frontend, worker, kind, sequences):
    arguments = [frontend.address, endless().SerializeToString().hex(), kind]
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, *arguments], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert client.stdout is not None
    try:
        assert client.stdout.readline()
        with freed(worker, sequences):
            client.kill()
    finally:
        client.kill()
        client.wait()
        client.stdout.close()
    frontend.wait_for_no_work()


# --- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["unary", "stream"])
def test_the_deadline_ends_the_call_and_the_engine(frontend, worker, entry):
    request = generation_pb2.GenerateRequest(generation=endless())
    calls = {
        "unary": lambda: frontend.generations.Generate(request, timeout=0.5),
        "stream": lambda: read(frontend.start(endless(), timeout=0.5)),
    }
    with pytest.raises(grpc.RpcError) as failure:
        calls[entry]()
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    load = worker.wait_until_idle()
    assert load.running_sequences == 0


@pytest.mark.parametrize("sequences", [1, 3])
def test_a_spent_budget_gives_what_there_is(frontend, worker, sequences):
    what = endless(time_budget=duration(0.5), sequence_count=sequences)
    streamed = frontend.stream(what)
    for index in range(sequences):
        assert streamed.end(index) == generation_pb2.SequenceEnd(reason=TIME_BUDGET)
        assert 0 < len(streamed.ids(index)) < LONG
        assert streamed.text(index) == frontend.detokenize(streamed.ids(index))
    made = sum(len(streamed.ids(index)) for index in range(sequences))
    assert streamed.completed.usage.completion_tokens == made
    timings = streamed.completed.timings
    assert timings.total.ToNanoseconds() >= 0.5e9
    # The worker itself kept the budget: its report is there.
    assert [stage.name for stage in timings.stages][-3:] == ["queue", "prefill", "decode"]
    worker.wait_until_idle()


def test_a_spent_budget_gives_what_there_is_in_a_unary_call(frontend):
    answer = frontend.generate(endless(time_budget=duration(0.3)))
    [sequence] = answer.sequences
    assert sequence.end == generation_pb2.SequenceEnd(reason=TIME_BUDGET)
    assert 0 < len(sequence.token_ids) == answer.usage.completion_tokens < LONG


def test_a_budget_that_is_not_spent_changes_nothing(frontend):
    within = frontend.generate(generation(max_tokens=8, time_budget=duration(60)))
    assert within.sequences == frontend.generate(generation(max_tokens=8)).sequences


@pytest.mark.parametrize("budget_s", [1e-9, 1e-4])
def test_a_budget_too_short_for_one_token_gives_an_empty_answer(frontend, budget_s):
    what = endless(time_budget=duration(budget_s))
    whole = frontend.generate(what)
    assert whole.sequences[0].end.reason == TIME_BUDGET
    with frontend.session() as session:
        session.open(1, what)
        [streamed] = session.finish(1)
    assert streamed.reason == TIME_BUDGET
    assert streamed.ids() == []


def test_the_budget_is_told_apart_from_a_later_deadline(frontend):
    streamed = read(frontend.start(endless(time_budget=duration(0.3)), timeout=20))
    assert streamed.reason == TIME_BUDGET


def test_a_deadline_before_the_budget_is_a_deadline(frontend):
    with pytest.raises(grpc.RpcError) as failure:
        read(frontend.start(endless(time_budget=duration(20)), timeout=0.3))
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_budget_in_a_session_is_each_generations_own(frontend):
    with frontend.session() as session:
        session.open(1, endless(time_budget=duration(0.3)))
        session.open(2, generation("One, two,", 100))
        short, whole = session.finish(1, 2)
    assert short.reason == TIME_BUDGET
    assert whole.reason == LENGTH
    assert len(whole.ids()) == 100


# --- sessions ------------------------------------------------------------------------------------


def test_cancel_ends_one_generation_and_the_others_go_on(frontend, worker):
    others = range(2, 6)
    with frontend.session() as session:
        session.open(1, endless(sequence_count=2))
        for number in others:
            session.open(number, generation(f"Number {number} is", 60))
        session.read_until(lambda: len(session[1].deltas) > 4)
        session.cancel(1)
        [cancelled] = session.finish(1)
        rest = session.finish(*others)
    for index in range(2):
        assert cancelled.end(index) == generation_pb2.SequenceEnd(reason=CANCELLED)
        assert 0 < len(cancelled.ids(index)) < LONG
        assert cancelled.text(index) == frontend.detokenize(cancelled.ids(index))
    made = sum(len(cancelled.ids(index)) for index in range(2))
    assert cancelled.completed.usage.completion_tokens == made
    for number, each in zip(others, rest, strict=True):
        alone = frontend.generate(generation(f"Number {number} is", 60))
        assert each.ids() == list(alone.sequences[0].token_ids)
    worker.wait_until_idle()


def test_cancel_right_after_open_ends_it(frontend, worker):
    """The cancel arrives while the prompt is still being tokenised."""
    with frontend.session() as session:
        for number in range(1, 21):
            session.open(number, generation("A long prompt. " * 200, 2000))
            session.cancel(number)
        ended = session.finish(*range(1, 21))
        session.open(21, generation(max_tokens=3))
        [after] = session.finish(21)
    assert {each.reason for each in ended} == {CANCELLED}
    assert len(after.ids()) == 3
    worker.wait_until_idle()


def test_cancel_of_a_number_that_is_not_open_is_passed_over(frontend):
    with frontend.session() as session:
        session.cancel(5)
        session.open(1, generation(max_tokens=3))
        session.finish(1)
        session.cancel(1)
        session.cancel(0)
        session.open(2, generation(max_tokens=3))
        [after] = session.finish(2)
    assert len(after.ids()) == 3
    assert session.unowned == []


def test_closing_the_sending_side_lets_what_is_open_finish(frontend):
    with frontend.session() as session:
        for number in range(1, 9):
            session.open(number, generation(f"Number {number}", 60))
        session.close_sending()
        session.read_to_end()
        assert session.call.code() is grpc.StatusCode.OK
        for number in range(1, 9):
            assert len(session[number].ids()) == 60
            assert session[number].completed is not None


def test_a_session_without_a_command_ends_when_it_is_closed(frontend):
    with frontend.session() as session:
        session.close_sending()
        session.read_to_end()
        assert session.call.code() is grpc.StatusCode.OK


def test_cancelling_the_session_cancels_all_of_it(frontend, worker):
    with frontend.session() as session:
        for number in range(1, 5):
            session.open(number, endless(f"Number {number}"))
        session.read_until(lambda: all(session[number].deltas for number in range(1, 5)))
        with freed(worker, 4):
            session.call.cancel()
    frontend.wait_for_no_work()


def test_the_deadline_of_a_session_cancels_all_of_it(frontend, worker):
    command = generation_pb2.SessionRequest(open={"id": 1, "generation": endless()})
    with pytest.raises(grpc.RpcError) as failure:
        list(frontend.generations.Session(iter([command]), timeout=0.5))
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    worker.wait_until_idle()


# --- clients that do not read --------------------------------------------------------------------

STUCK = {"sequence_count": 8, "output": {"logprobs": True}}
"""Eight sequences with log probabilities: more bytes than goes out on credit."""


@pytest.fixture
def slow_frontend(frontend):
    """A client of the shared frontend that takes little before it reads."""
    with Frontend(frontend.address, arguments=SMALL_WINDOW) as client:
        yield client


def test_a_client_that_stops_reading_slows_no_other_and_gets_everything_later(
    frontend, slow_frontend, worker
):
    tokens = 300
    before = worker.load().generated_tokens
    stuck = slow_frontend.start(generation("Hello", tokens, **STUCK))
    streamed = Streamed()
    streamed.take(next(stuck))  # Accepted; from here on it reads nothing
    other = frontend.stream(generation("One, two,", 100))
    assert len(other.ids()) == 100
    # The engine finishes the stuck one's tokens too: nothing holds it back.
    load = worker.wait_until_idle()
    assert load.generated_tokens - before == 8 * tokens + 100
    frontend.wait_for_no_work()
    for event in stuck:
        streamed.take(event)
    for index in range(8):
        assert len(streamed.ids(index)) == len(streamed.logprobs(index)) == tokens
        assert streamed.text(index) == frontend.detokenize(streamed.ids(index))
    # What waited was merged.
    assert max(len(delta.token_ids) for delta in streamed.deltas) > 100


def test_a_session_that_is_not_read_slows_no_other_and_gets_everything_later(
    frontend, slow_frontend, worker
):
    numbers = range(1, 31)
    with slow_frontend.session() as stuck, frontend.session() as reading:
        for number in numbers:
            stuck.open(number, generation(f"Number {number}", 150, output={"logprobs": True}))
        reading.open(1, generation("One, two,", 100))
        [other] = reading.finish(1)
        assert len(other.ids()) == 100
        worker.wait_until_idle()
        everything = stuck.finish(*numbers)
    assert {len(each.ids()) for each in everything} == {150}
    assert {len(each.logprobs()) for each in everything} == {150}
    # What waited was merged: a generation's tokens come in a few deltas.
    assert max(len(delta.token_ids) for each in everything for delta in each.deltas) > 100


def test_an_exchange_that_is_not_read_slows_no_other(frontend, worker):
    """The same on the worker itself: an Exchange whose caller does not read."""
    request = execution_pb2.Request(
        prompt_token_ids=[5, 6],
        stopping={"max_tokens": 200, "ignore_eos": True},
        sequence_count=8,
        logprobs=True,
    )
    submits = [
        execution_pb2.ExchangeRequest(submit={"handle": handle, "request": request})
        for handle in (1, 2)
    ]
    stuck = worker.execution.Exchange(iter(submits), timeout=WAIT_S)
    other = frontend.stream(generation("One, two,", 100))
    assert len(other.ids()) == 100
    worker.wait_until_idle()
    counts, entries, completed = {1: 0, 2: 0}, 0, set()
    for frame in stuck:
        entries += len(frame.handles)
        sizes = frame.counts or [1] * len(frame.handles)
        assert sum(sizes) == len(frame.token_ids)
        for handle, size in zip(frame.handles, sizes, strict=True):
            counts[handle] += size
        completed |= {end.handle for end in frame.completions}
    assert counts == {1: 8 * 200, 2: 8 * 200}
    assert completed == {1, 2}


def test_cancelling_a_stuck_stream_frees_everything(frontend, worker):
    call = frontend.start(endless(**STUCK))
    with freed(worker, 8):
        call.cancel()
    frontend.wait_for_no_work()


def test_a_refused_generation_leaves_nothing_behind(frontend, worker):
    for _ in range(20):
        refused(lambda: frontend.stream(generation(max_tokens=0)))
    frontend.wait_for_no_work()
    assert worker.load().running_sequences == 0
