"""A generation goes on where its stream breaks: nothing is missing, and nothing comes twice."""

import asyncio

import grpc
import pytest
from tokenwire import (
    AsyncClient,
    Attempt,
    FinishReason,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    RetryPolicy,
    UnavailableError,
)
from tokenwire._channel import checked_targets
from tokenwire._frontends import Frontends
from tokenwire.frontend.v1 import generation_pb2, options_pb2

from tests.client.scripted_server import (
    COMPLETED,
    HELLO,
    OVERLOADED,
    TIMINGS,
    WAIT_S,
    Break,
    Disconnect,
    Event,
    Hold,
    ScriptedServer,
    accepted,
    call_delta,
    delta,
    end,
    prompt_logprobs,
    reason,
    retry_after,
    status,
)

WORKER_LOST = status(grpc.StatusCode.UNAVAILABLE, "worker lost", reason("WORKER_LOST"))
BEGUN = [accepted(), delta("One ", [1]), delta("two ", [2], 1, text_offset=4)]
REST = [accepted(), delta("three", [3], 2, text_offset=8, end=end()), COMPLETED]


def generations(server):
    """The generations that were asked for."""
    return [call.request.generation for call in server.calls]


def so_far(generation):
    return [(list(each.token_ids), each.ended) for each in generation.output_so_far]


@pytest.mark.parametrize(
    "broken",
    [
        Break(),
        Break(grpc.StatusCode.INTERNAL),
        Break(grpc.StatusCode.CANCELLED),
        Break(grpc.StatusCode.UNKNOWN),
        Disconnect(),
        WORKER_LOST,
    ],
    ids=["unavailable", "internal", "cancelled", "unknown", "cut", "worker lost"],
)
async def test_a_stream_that_breaks_goes_on_with_the_ids_that_came(twin, server, naps, broken):
    server.play("p", *BEGUN, broken)
    server.play("p", *REST)
    stream = twin.stream("p", max_tokens=7, seed=3, timeout=60)
    deltas = await twin.read(stream)
    assert [(each.text, each.token_offset) for each in deltas] == [
        ("One ", 0),
        ("two ", 1),
        ("three", 2),
    ]
    assert (stream.result.text, stream.result.token_ids) == ("One two three", [1, 2, 3])
    assert (stream.continued, stream.result.continued, len(naps)) == (1, 1, 1)
    first, second = generations(server)
    assert (so_far(first), so_far(second)) == ([], [([1, 2], False)])
    assert (second.request_id, second.stop.max_tokens, second.sampling.seed) == ("r-1", 7, 3)
    assert server.calls[1].time_remaining < 61
    parents = {call.metadata["traceparent"] for call in server.calls}
    assert len(parents) == 1


async def test_a_whole_answer_goes_on_likewise(twin, server, naps):
    server.play("p", *BEGUN, Break())
    server.play("p", *REST)
    answer = await twin.call("generate", "p")
    assert (answer.text, answer.continued) == ("One two three", 1)


async def test_what_the_services_say_of_a_generation_is_not_continued(twin, server, naps):
    fault = status(grpc.StatusCode.INTERNAL, "fault", reason("INTERNAL_FAULT"))
    unread = status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "not reading", reason("NOT_READING"), retry_after(1)
    )
    for prompt, failure, kind in (("a", fault, InternalError), ("b", unread, OverloadedError)):
        server.play(prompt, *BEGUN, failure)
        with pytest.raises(kind):
            await twin.read(twin.stream(prompt))
    assert (naps, len(server.calls)) == ([], 2)


async def test_a_frontend_that_is_overloaded_when_it_is_to_go_on_is_asked_again(twin, server, naps):
    server.play("p", *BEGUN, Break())
    server.play("p", OVERLOADED)
    server.play("p", *REST)
    stream = twin.stream("p")
    await twin.read(stream)
    assert (stream.result.text, stream.continued) == ("One two three", 1)
    assert [so_far(each) for each in generations(server)] == [
        [],
        [([1, 2], False)],
        [([1, 2], False)],
    ]
    assert naps[1] > 1.5


async def test_it_goes_on_as_often_as_the_policy_says(kind, server, naps):
    twin = kind(server.address, retry=RetryPolicy(continuations=2))
    server.play("p", *BEGUN, Break())
    server.play("p", Break(grpc.StatusCode.INTERNAL))
    server.play("p", WORKER_LOST)
    with pytest.raises(UnavailableError, match="worker lost") as caught:
        await twin.read(stream := twin.stream("p"))
    with pytest.raises(UnavailableError):
        stream.result  # noqa: B018
    assert (stream.text, caught.value.reason, len(server.calls)) == ("One two ", "WORKER_LOST", 3)
    await twin.close()


async def test_a_stream_that_had_brought_nothing_starts_over(twin, server, naps):
    server.play("p", accepted(), Break())
    server.play("p", *HELLO)
    stream = twin.stream("p", prompt_logprobs=0)
    await twin.read(stream)
    assert stream.result.text == "Hello world"
    second = generations(server)[1]
    assert (so_far(second), second.output.HasField("prompt_logprobs")) == ([], True)


async def test_log_probabilities_of_the_prompt_come_once(twin, server, naps):
    told = prompt_logprobs(0, generation_pb2.TokenLogprob(token_id=5, logprob=-0.5))
    server.play("p", accepted(), told, Break())
    server.play("p", accepted(), told, *BEGUN[1:], Break())
    server.play("p", *REST)
    stream = twin.stream("p", prompt_logprobs=0)
    await twin.read(stream)
    assert [each.token_id for each in stream.result.prompt_logprobs] == [5]
    # The frontend knows that they were sent before the first id.
    assert so_far(generations(server)[2]) == [([1, 2], False)]


async def test_each_sequence_goes_on_from_its_own_place(twin, server, naps):
    score = generation_pb2.TokenLogprob(token_id=1, logprob=-0.5)
    server.play(
        "p",
        accepted(),
        delta("ended", [5, 6], sequence=2, end=end("STOP", stop="x")),
        delta("a", [1], logprobs=[score]),
        Break(),
    )
    server.play(
        "p",
        accepted(),
        delta("b", [2], sequence=1, logprobs=[score], end=end()),
        delta("c", [3], 1, text_offset=1, logprobs=[score], end=end("LENGTH")),
        COMPLETED,
    )
    stream = twin.stream("p", n=3, logprobs=True)
    await twin.read(stream)
    first, second, third = stream.result.sequences
    assert (first.text, second.text, third.text, third.stop_match) == ("ac", "b", "ended", "x")
    assert (len(first.logprobs), len(second.logprobs)) == (2, 1)
    assert so_far(generations(server)[1]) == [([1], False), ([], False), ([5, 6], True)]


async def test_if_only_the_figures_are_missing_nobody_is_asked_again(twin, server, naps):
    server.play("p", *HELLO[:-1], Break())
    stream = twin.stream("p")
    await twin.read(stream)
    assert (stream.result.text, stream.result.usage.completion_tokens) == ("Hello world", 3)
    assert len(server.calls) == 1


async def test_text_that_comes_again_is_dropped(twin, server, naps):
    server.play("p", *BEGUN, Break())
    server.play("p", accepted(), delta("wo three", [3], 2, text_offset=5, end=end()), COMPLETED)
    stream = twin.stream("p")
    *_, last = await twin.read(stream)
    assert (last.text, last.text_offset, stream.result.text) == ("three", 8, "One two three")


@pytest.mark.parametrize(
    ("goes_on", "words"),
    [
        (delta("three", [3], 0, text_offset=8), "went on at token 0 after 2 tokens"),
        (delta("three", [3], 3, text_offset=8), "went on at token 3 after 2 tokens"),
        (delta("three", [3], 2, text_offset=9), "text went on at byte 9 after 8 bytes"),
        (delta("xx three", [3], 2, text_offset=5), "text that came again is not the same"),
    ],
)
async def test_a_frontend_that_goes_on_elsewhere_in_the_text_is_at_fault(
    twin, server, naps, goes_on, words
):
    server.play("p", *BEGUN, Break())
    server.play("p", accepted(), goes_on, Hold())
    with pytest.raises(InternalError, match=words) as caught:
        await twin.read(twin.stream("p"))
    assert caught.value.reason == "STREAM_GAP"


async def test_reasoning_and_calls_go_on_in_the_middle(twin, server, naps):
    server.play(
        "p",
        accepted(),
        delta(ids=[1], reasoning="let mé "),
        delta(
            ids=[2],
            offset=1,
            reasoning="see",
            reasoning_offset=8,
            tool_calls=[call_delta(id="c-0", name="add", arguments='{"b"')],
        ),
        Break(),
    )
    server.play(
        "p",
        accepted(),
        delta(
            ids=[3],
            offset=2,
            reasoning="see it",
            reasoning_offset=8,
            tool_calls=[
                call_delta(arguments=": 1}", arguments_offset=4),
                call_delta(1, "{}", id="c-1", name="now"),
            ],
            end=end("TOOL_CALLS"),
        ),
        COMPLETED,
    )
    stream = twin.stream("p", parse=True)
    await twin.read(stream)
    message = stream.message()
    assert message.reasoning == "let mé see it"
    assert [(each.id, each.name, each.arguments) for each in message.tool_calls] == [
        ("c-0", "add", '{"b": 1}'),
        ("c-1", "now", "{}"),
    ]


async def test_an_echoed_prompt_comes_once(twin, server, naps):
    server.play("p", accepted(), delta("The pro"), Break())
    server.play("p", accepted(), delta("The prompt: One ", [1]), Break())
    server.play(
        "p", accepted(), delta("two ", [2], 1, text_offset=4), delta("x", [3], 2, text_offset=8),
        Disconnect(),
    )  # fmt: skip
    server.play("p", accepted(), delta("y", [4], 3, text_offset=9, end=end()), COMPLETED)
    stream = twin.stream("p", echo=True)
    deltas = await twin.read(stream)
    assert [each.text for each in deltas] == ["The pro", "mpt: One ", "two ", "x", "y"]


async def test_the_time_budget_is_that_of_all_streams_together(twin, server, naps, monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr("tokenwire._course.monotonic", lambda: now_s[0])
    first, second = Hold(), Hold()
    server.play("p", *BEGUN, first, Break())
    server.play("p", accepted(), second, Break())
    stream = twin.stream("p", time_budget=10)
    await twin.read_one(stream)
    await twin.read_one(stream)
    reader = asyncio.create_task(twin.read(stream))
    now_s[0] += 4
    first.cancelled.set()
    assert await asyncio.to_thread(second.reached.wait, WAIT_S)
    assert generations(server)[1].time_budget.ToMilliseconds() == 6000
    now_s[0] += 6
    second.cancelled.set()
    (last,) = await reader
    assert (last.text, last.token_offset) == ("", 2)
    assert last.finish_reason is stream.result.finish_reason is FinishReason.TIME_BUDGET
    assert (stream.result.text, len(server.calls)) == ("One two ", 2)


async def test_too_little_time_to_go_on_ends_the_answer_with_what_came(twin, server, naps):
    short = status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "too short", reason("BUDGET_TOO_SHORT"), retry_after(1)
    )
    server.play("p", *BEGUN, Break())
    server.play("p", short)
    answer = await twin.call("generate", "p", time_budget=10)
    assert (answer.text, answer.finish_reason) == ("One two ", FinishReason.TIME_BUDGET)


async def test_with_text_alone_it_cannot_go_on_and_the_error_says_so(twin, server, naps):
    server.play("p", accepted(), delta("One ", offset=0), delta("two", offset=1, text_offset=4))
    server.play("p", accepted(), delta("One "), delta("two", offset=1, text_offset=5), Hold())
    with pytest.raises(InternalError, match='not continued: with content="text"') as caught:
        await twin.read(stream := twin.stream("p", content="text", max_delta_tokens=4))
    assert (stream.text, caught.value.reason) == ("One two", "STREAM_CUT")
    assert server.last.stream.content == options_pb2.STREAM_CONTENT_TEXT
    assert server.last.stream.max_tokens == 4
    with pytest.raises(InternalError, match="text went on at byte 5 after 4 bytes"):
        await twin.read(twin.stream("p", content="text"))


async def test_ids_alone_go_on(twin, server, naps):
    server.play("p", accepted(), delta(ids=[1, 2]), Break())
    server.play("p", accepted(), delta(ids=[3], offset=2, text_offset=8, end=end()), COMPLETED)
    stream = twin.stream("p", content="ids")
    await twin.read(stream)
    assert stream.result.token_ids == [1, 2, 3]


async def test_a_request_that_the_ids_make_too_long_is_at_fault(kind, server, naps):
    twin = kind(server.address, max_request_bytes=4096)
    server.play("p", accepted(), delta("x", range(3000)), Break())
    with pytest.raises(InvalidRequestError, match=r"generation\.output_so_far: too long"):
        await twin.read(stream := twin.stream("p"))
    with pytest.raises(InvalidRequestError):
        stream.result  # noqa: B018
    await twin.close()


async def test_the_workers_parts_are_told(twin, server):
    parts = [
        generation_pb2.Attempt(
            worker="w-0",
            mode=generation_pb2.ATTEMPT_MODE_NEW,
            left_because="WORKER_LOST",
        ),
        generation_pb2.Attempt(
            worker="w-1", token_offset=1, mode=generation_pb2.ATTEMPT_MODE_CARRIED
        ),
    ]
    completed = Event(completed=generation_pb2.Completed(timings=TIMINGS, attempts=parts))
    server.play("p", accepted(), delta("a", [1], end=end("INTERRUPTED")), completed)
    answer = await twin.call("generate", "p")
    assert answer.attempts == [
        Attempt("w-0", 0, 0, "new", "WORKER_LOST"),
        Attempt("w-1", 0, 1, "carried", ""),
    ]
    assert (answer.continued, answer.finish_reason) == (0, FinishReason.INTERRUPTED)


async def test_cancel_while_waiting_to_go_on_ends_it(server, monkeypatch):
    napping, wake = asyncio.Event(), asyncio.Event()

    async def nap(_):
        napping.set()
        await wake.wait()

    monkeypatch.setattr("tokenwire.streams.async_sleep", nap)
    server.play("p", *BEGUN, Break())
    async with AsyncClient(server.address) as client:
        stream = client.stream("p")
        await anext(stream)
        await anext(stream)
        reader = asyncio.create_task(anext(stream, None))
        await napping.wait()
        await stream.cancel()
        wake.set()
        assert await reader is None
    assert (stream.result.finish_reason, len(server.calls)) == (FinishReason.CANCELLED, 1)


@pytest.fixture
def other():
    running = ScriptedServer()
    yield running
    running.stop()


@pytest.fixture
def in_order(monkeypatch):
    """Clients try their frontends in the order in which they were given."""
    monkeypatch.setattr("tokenwire._frontends.shuffle", lambda _: None)


async def test_it_goes_on_at_another_frontend(kind, server, other, naps, in_order):
    twin = kind(f"{server.address},{other.address}")
    server.play("p", *BEGUN, Break())
    other.play("p", *REST)
    answer = await twin.call("generate", "p")
    assert (answer.text, answer.continued) == ("One two three", 1)
    assert (len(server.calls), len(other.calls)) == (1, 1)
    # What another frontend is there for is not waited for as long as one that was down.
    assert naps[0] <= RetryPolicy().first_delay_s
    await twin.call("generate", "hi")
    assert len(other.calls) == 2
    await twin.close()


async def test_a_frontend_that_is_gone_is_left_for_the_next(kind, server, naps, in_order):
    twin = kind(["127.0.0.1:1", server.address])
    assert (await twin.call("generate", "hi")).text == "Hello world"
    assert len(await twin.call("models")) == 1
    await twin.close()


async def test_several_frontends_are_tried_in_a_random_order():
    firsts = {Frontends(range(4)).pick() for _ in range(64)}
    assert len(firsts) > 1


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_a_frontend_that_failed_rests_for_longer_each_time_and_is_tried_again(in_order):
    clock = Clock()
    frontends = Frontends(["a", "b"], clock=clock, jitter=lambda: 1.0)
    broken = UnavailableError("")
    assert frontends.leave("a", broken) is True
    assert frontends.leave("a", broken) is True  # another call that broke with it
    assert frontends.pick() == "b"
    assert frontends.leave("b", broken) is False
    assert frontends.pick() == "a"
    clock.now_s += 1
    assert frontends.leave("a", broken) is True
    clock.now_s += 1
    assert (frontends.leave("b", broken), frontends.pick()) == (False, "a")
    clock.now_s += 1
    frontends.keep("a")
    assert (frontends.leave("b", broken), frontends.pick()) == (True, "a")


def test_what_says_nothing_of_the_frontend_leaves_it_the_first(in_order):
    frontends = Frontends(["a", "b"])
    assert frontends.leave("a", InternalError("a fault of one request")) is False
    assert frontends.pick() == "a"


@pytest.mark.parametrize(
    ("target", "each"),
    [
        ("a:1", ["a:1"]),
        ("a:1, b:2,a:1", ["a:1", "b:2"]),
        (["a:1", "dns:///b:2"], ["a:1", "dns:///b:2"]),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", ["ipv4:127.0.0.1:1,127.0.0.1:2"]),
    ],
)
def test_targets_are_a_list_or_stand_between_commas(target, each):
    assert checked_targets(target) == each


@pytest.mark.parametrize("target", ["a:1,", [], "a:1,b"])
def test_each_target_is_checked(target):
    with pytest.raises(ValueError, match=r"^target: "):
        checked_targets(target)
