"""A session goes on when its stream breaks or its frontend drains."""

import asyncio

import grpc
import pytest
from google.protobuf import duration_pb2
from tokenwire import AsyncClient, FinishReason, InvalidRequestError, UnavailableError
from tokenwire.frontend.v1 import generation_pb2, options_pb2

from tests.client.scripted_server import (
    COMPLETED,
    HELLO,
    WAIT_S,
    Disconnect,
    Hold,
    ScriptedServer,
    accepted,
    delta,
    end,
    reason,
    status,
)

DRAINING = generation_pb2.Draining(grace=duration_pb2.Duration(seconds=30))
REFUSED_DRAINING = status(grpc.StatusCode.UNAVAILABLE, "draining", reason("DRAINING"))
BEGUN = [accepted(), delta("One ", [1])]
REST = [accepted(), delta("two", [2], 1, text_offset=4, end=end()), COMPLETED]


@pytest.fixture
def other():
    running = ScriptedServer()
    yield running
    running.stop()


@pytest.fixture
async def client(server, other, monkeypatch):
    monkeypatch.setattr("tokenwire._frontends.shuffle", lambda _: None)
    async with AsyncClient([server.address, other.address]) as made:
        yield made


async def reached(event):
    assert await asyncio.to_thread(event.wait, WAIT_S)


async def read(generation):
    return [delta.text async for delta in generation]


def opened(server):
    return [
        call.request.open for call in server.calls if call.request and call.request.HasField("open")
    ]


async def test_what_is_open_goes_on_at_another_frontend_when_the_stream_breaks(
    client, server, other, naps
):
    for number in range(20):
        server.play(f"p{number}", accepted(f"r-{number}"), delta("One ", [number]), Hold())
        other.play(f"p{number}", *REST)
    server.play("die", Disconnect())
    other.play("die", *HELLO)
    async with client.session() as session:
        generations = [session.open(f"p{number}", max_tokens=9) for number in range(20)]
        assert [(await anext(each)).text for each in generations] == ["One "] * 20
        dying = session.open("die")
        # Those that nobody reads go on, too.
        assert await read(dying) == ["Hello", " world"]
        assert [await read(each) for each in generations] == [["two"]] * 20
        assert {each.result.text for each in generations} == {"One two"}
        assert {each.continued for each in generations} == {1}
        assert dying.continued == 0
        again = {each.generation.request_id: each.generation for each in opened(other)[:-1]}
        for number in range(20):
            generation = again[f"r-{number}"]
            assert [list(each.token_ids) for each in generation.output_so_far] == [[number]]
            assert generation.stop.max_tokens == 9
        assert await session.generate("hi")
    assert [call.method for call in other.calls if call.metadata] == ["Session"]


async def test_a_frontend_is_used_again_after_a_session_that_was_closed(client, server, other):
    for _ in range(2):
        async with client.session() as session:
            await session.generate("hi")
    await client.generate("hi")
    assert [call.method for call in server.calls if call.metadata].count("Session") == 2
    assert not other.calls


async def test_a_frontend_that_drains_keeps_what_is_open_and_gets_no_more(
    client, server, other, naps
):
    hold = Hold()
    server.play("long", *BEGUN, hold)
    server.play("drain", DRAINING, *HELLO)
    async with client.session() as session:
        long = session.open("long")
        await anext(long)
        assert await read(session.open("drain")) == ["Hello", " world"]
        assert (await session.generate("hi")).text == "Hello world"
        assert [each.generation.prompt.text for each in opened(other)] == ["hi"]
        assert not server.sessions_ended.is_set()
        await long.cancel()
        assert (long.text, long.result.finish_reason) == ("One ", FinishReason.CANCELLED)
        await reached(server.sessions_ended)


async def test_what_a_draining_frontend_refuses_or_ends_goes_on_elsewhere(
    client, server, other, naps
):
    server.play("late", REFUSED_DRAINING)
    server.play("cut", *BEGUN, REFUSED_DRAINING)
    other.play("cut", *REST)
    async with client.session() as session:
        late, cut = session.open("late"), session.open("cut")
        assert await read(late) == ["Hello", " world"]
        assert await read(cut) == ["One ", "two"]
    await reached(server.sessions_ended)


async def test_cancel_between_two_streams_ends_the_generation(client, server, other, monkeypatch):
    napping = asyncio.Event()

    async def nap(_):
        napping.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("tokenwire.session.sleep", nap)
    server.play("p", *BEGUN, Hold())
    server.play("die", Disconnect())
    async with client.session() as session:
        generation = session.open("p")
        await anext(generation)
        left = session.open("die")
        await napping.wait()
        await generation.cancel()
        assert generation.result.finish_reason is FinishReason.CANCELLED
    # And so does the end of the session.
    assert left.result.finish_reason is FinishReason.CANCELLED
    assert opened(other) == []


async def test_a_refused_continuation_is_the_generation_s_error(client, server, other, naps):
    server.play("p", *BEGUN, Disconnect())
    invalid = status(grpc.StatusCode.INVALID_ARGUMENT, "no", reason("INVALID_FIELD"))
    other.play("p", invalid)
    async with client.session() as session:
        with pytest.raises(InvalidRequestError, match="no"):
            await session.generate("p")


async def test_credit_is_granted_and_goes_on_where_it_stood(client, server, other, naps):
    server.play("p", accepted(), delta("One ", [1]), delta("two ", [2], 1, text_offset=4), Hold())
    server.play("die", Disconnect())
    rest = delta("three", [3], 2, text_offset=8, end=end())
    other.play("p", accepted(), rest, COMPLETED)
    other.play("q", accepted(), Hold())
    async with client.session() as session:
        generation = session.open("p", credit_tokens=3)
        await anext(generation)
        await anext(generation)
        generation.grant(5)
        await session.generate("die")
        assert await read(generation) == ["three"]
        assert (opened(server)[0].credit_tokens, opened(other)[0].credit_tokens) == (3, 6)
        commands = [call.request for call in server.calls if call.request]
        (granted,) = [each.credits for each in commands if each.credits]
        assert [(each.id, each.amount) for each in granted] == [(1, 5)]
        assert session.open("q", credit_messages=0)
        with pytest.raises(ValueError, match="without credit"):
            session.open("q").grant(1)
        with pytest.raises(ValueError, match="amount=0"):
            generation.grant(0)
        with pytest.raises(TypeError, match="one is allowed"):
            session.open("q", credit_messages=0, credit_tokens=1)


async def test_credit_goes_on_where_it_is_attached_again(client, server, other, naps):
    told = generation_pb2.Accepted(request_id="r", resume_token="t")
    kept = generation_pb2.StreamGenerateResponse(accepted=told)
    server.play("p", kept, delta("One ", [1]), Hold())
    server.play("die", Disconnect())
    other.play("t", kept, *REST[1:])
    async with client.session() as session:
        generation = session.open("p", credit_messages=3, on_disconnect="detach")
        await anext(generation)
        await session.generate("die")
        assert await read(generation) == ["two"]
    [attach] = [each for call in other.calls if call.request for each in call.request.attaches]
    assert attach.credit_messages == 2


async def test_how_deltas_come_is_the_caller_s(client, server):
    async with client.session() as session:
        await read(session.open("hi", max_delta_tokens=4, content="ids", max_delay=0.5))
    (opening,) = opened(server)
    assert opening.stream.content == options_pb2.STREAM_CONTENT_IDS
    assert (opening.stream.max_tokens, opening.stream.max_delay.ToMilliseconds()) == (4, 500)


async def test_a_session_that_has_ended_opens_nothing(client):
    async with client.session() as session:
        pass
    with pytest.raises(UnavailableError, match="the session has ended"):
        session.open("hi")
