"""Many generations on one stream."""

import asyncio
import threading

import grpc
import pytest
from tokenwire import (
    AsyncClient,
    FinishReason,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    RetryPolicy,
    UnavailableError,
    UnreachableError,
    session,
)
from tokenwire.frontend.v1 import generation_pb2

from tests.client.scripted_server import (
    COMPLETED,
    HELLO,
    OVERLOADED,
    WAIT_S,
    Disconnect,
    Hold,
    accepted,
    delta,
    end,
    prompt_logprobs,
    reason,
    status,
)

REFUSED = status(grpc.StatusCode.INVALID_ARGUMENT, "no", reason("INVALID_FIELD"))


async def reached(event):
    assert await asyncio.to_thread(event.wait, WAIT_S)


async def read(generation):
    return [delta.text async for delta in generation]


@pytest.fixture
async def client(server):
    async with AsyncClient(server.address) as made:
        yield made


def opened(server):
    return [
        call.request.open for call in server.calls if call.request and call.request.HasField("open")
    ]


async def test_generations_share_one_stream_and_keep_their_deltas_apart(client, server):
    for i in range(40):
        text = [delta(f"{i}", [i]), delta(f".{i}", [i], 1, end=end())]
        server.play(f"p{i}", accepted(f"r-{i}"), *text, COMPLETED)
    async with client.session() as session:
        generations = [session.open(f"p{i}", max_tokens=i + 1) for i in range(40)]
        texts = await asyncio.gather(*(read(each) for each in generations))
        assert texts == [[f"{i}", f".{i}"] for i in range(40)]
        assert [each.result.text for each in generations] == [f"{i}.{i}" for i in range(40)]
        assert [each.accepted.request_id for each in generations] == [f"r-{i}" for i in range(40)]
    assert [each.generation.stop.max_tokens for each in opened(server)] == list(range(1, 41))
    assert [call.method for call in server.calls if call.metadata] == ["Session"]
    await reached(server.sessions_ended)


async def test_generate_returns_whole_answers(client, server):
    async with client.session() as session:
        answers = await asyncio.gather(*(session.generate("hi") for _ in range(3)))
    assert [answer.text for answer in answers] == ["Hello world"] * 3
    assert answers[0].timings.worker == "w-1"


async def test_log_probabilities_of_the_prompt_come_and_a_gap_in_them_is_an_error(client, server):
    tokens = [generation_pb2.TokenLogprob(token_id=each, logprob=-0.5) for each in (5, 6)]
    told = prompt_logprobs(0, *tokens)
    server.play("p", accepted(), told, delta("a", [9], end=end()), COMPLETED)
    server.play("gap", accepted(), told, told, COMPLETED)
    async with client.session() as session:
        answer = await session.generate("p", prompt_logprobs=0)
        assert [each.token_id for each in answer.prompt_logprobs] == [5, 6]
        with pytest.raises(InternalError, match="the prompt went on at token 0 after 2"):
            await session.generate("gap", prompt_logprobs=0)
        assert (await session.generate("hi")).text == "Hello world"


async def test_a_generation_that_nobody_reads_holds_up_no_other(client, server):
    server.play("idle", accepted(), *(delta("x", [i], i) for i in range(500)), Hold())
    async with client.session() as session:
        idle = session.open("idle")
        assert await read(session.open("hi")) == ["Hello", " world"]
        assert (await anext(idle)).token_offset == 0


async def test_cancel_ends_one_generation_with_what_had_come(client, server):
    hold = Hold()
    server.play("long", accepted(), delta("On", [1]), hold)
    async with client.session() as session:
        generation, other = session.open("long"), session.open("hi")
        await generation.cancel()
        assert hold.cancelled.is_set()
        assert await read(generation) == ["On", ""]
        assert generation.result.finish_reason is FinishReason.CANCELLED
        assert generation.result.timings.worker == "w-1"
        assert await read(other) == ["Hello", " world"]
        await generation.cancel()


async def test_leaving_a_generation_s_block_cancels_it(client, server):
    hold = Hold()
    server.play("long", accepted(), delta("On", [1]), hold)
    async with client.session() as session:
        async with session.open("long") as generation:
            await anext(generation)
        await reached(hold.cancelled)
        assert await session.generate("hi")
        assert generation.result.finish_reason is FinishReason.CANCELLED


async def test_an_error_ends_the_generation_that_it_belongs_to_and_no_other(client, server):
    server.play("bad", REFUSED)
    failure = status(grpc.StatusCode.INTERNAL, "engine fault", reason("ENGINE_FAULT"))
    server.play("worse", accepted(), delta("a", [1]), failure)
    async with client.session() as session:
        bad, worse, good = (session.open(each) for each in ("bad", "worse", "hi"))
        with pytest.raises(InvalidRequestError, match="no"):
            await anext(bad)
        assert (await anext(worse)).text == "a"
        with pytest.raises(InternalError, match="engine fault"):
            await anext(worse)
        with pytest.raises(InternalError, match="engine fault"):
            worse.result  # noqa: B018
        assert await read(good) == ["Hello", " world"]


async def test_a_request_larger_than_a_message_leaves_the_session_alone(client):
    async with client.session() as session:
        with pytest.raises(InvalidRequestError, match=r"generation\.prompt: too long"):
            session.open("x" * 2**24)
        assert (await session.generate("hi")).text == "Hello world"


async def test_a_gap_is_an_error_of_its_generation_and_cancels_it(client, server):
    hold = Hold()
    server.play("gap", accepted(), delta("a", [1]), delta("c", [3], 2), delta("d", [4], 3), hold)
    async with client.session() as session:
        gap = session.open("gap")
        assert (await anext(gap)).text == "a"
        with pytest.raises(InternalError, match="went on at token 2"):
            await anext(gap)
        await reached(hold.cancelled)
        assert await session.generate("hi")


async def test_numbers_ascend_and_pass_over_what_is_open(client, server, monkeypatch):
    monkeypatch.setattr("tokenwire._link._LARGEST_ID", 3)
    server.play("long", accepted(), Hold())
    async with client.session() as session_:
        session_.open("long")
        for _ in range(4):
            await session_.generate("hi")
    assert [each.id for each in opened(server)] == [1, 2, 3, 2, 3]


async def test_a_refused_generation_is_opened_again_when_the_server_says(client, server, naps):
    server.play("busy", OVERLOADED)
    server.play("busy", *HELLO)
    async with client.session() as session:
        generation = session.open("busy")
        assert await read(generation) == ["Hello", " world"]
        assert generation.result.text == "Hello world"
    assert 1.6 <= naps[0] <= 1.7
    assert [each.id for each in opened(server)] == [1, 2]


async def test_a_refusal_that_lasts_is_raised(server, naps):
    server.play("busy", OVERLOADED)
    async with (
        AsyncClient(server.address, retry=RetryPolicy(attempts=2)) as client,
        client.session() as session,
    ):
        with pytest.raises(OverloadedError):
            await session.generate("busy")
    assert len(naps) == 1


async def test_cancel_while_waiting_to_try_again_ends_the_generation(client, server, monkeypatch):
    napping, wake = asyncio.Event(), asyncio.Event()

    async def nap(_):
        napping.set()
        await wake.wait()

    monkeypatch.setattr("tokenwire.session.sleep", nap)
    server.play("busy", OVERLOADED)
    async with client.session() as session:
        generation = session.open("busy")
        reader = asyncio.create_task(read(generation))
        await napping.wait()
        await generation.cancel()
        wake.set()
        assert await reader == []
        assert generation.result.finish_reason is FinishReason.CANCELLED
    assert len(opened(server)) == 1


async def test_a_broken_stream_fails_what_is_open_if_nothing_is_to_be_continued(server):
    server.play("long", accepted(), delta("On", [1]), Hold())
    server.play("die", Disconnect())
    policy = RetryPolicy(attempts=1, continuations=0)
    async with AsyncClient(server.address, retry=policy) as client, client.session() as session:
        generation = session.open("long")
        await anext(generation)
        dying = session.open("die")
        for each in (generation, dying):
            with pytest.raises(UnavailableError, match="going away"):
                await anext(each)
        assert await read(session.open("hi")) == ["Hello", " world"]


async def test_nobody_there_fails_the_generation(naps):
    async with AsyncClient("127.0.0.1:1") as client, client.session() as session:
        with pytest.raises(UnreachableError):
            await session.generate("hi")


async def test_leaving_the_session_cancels_what_is_open(client, server):
    hold = Hold()
    server.play("long", accepted(), delta("On", [1]), hold)
    async with client.session() as session:
        generation = session.open("long")
        await anext(generation)
    assert hold.cancelled.is_set()
    assert generation.result.finish_reason is FinishReason.CANCELLED
    with pytest.raises(UnavailableError, match="the session has ended"):
        session.open("hi")


async def test_a_server_that_does_not_end_the_stream_is_cut_off(client, server, monkeypatch):
    reading = threading.Event()
    monkeypatch.setattr(session, "_CLOSE_GRACE_S", 0.05)
    monkeypatch.setattr("tests.client.scripted_server._Session.read", lambda *_: reading.set())
    async with client.session() as session_:
        generation = session_.open("hi")
        await reached(reading)
    await reached(server.sessions_ended)
    assert generation.result.text == ""


async def test_a_session_must_be_entered(client):
    with pytest.raises(RuntimeError, match="async with"):
        client.session().open("hi")
    await client.session().close()


async def test_a_cancelled_task_cancels_its_generation(client, server):
    hold = Hold()
    server.play("long", accepted(), hold)
    async with client.session() as session:
        task = asyncio.create_task(session.generate("long"))
        await reached(hold.reached)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await reached(hold.cancelled)
        assert await session.generate("hi")
