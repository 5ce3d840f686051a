"""Generations that outlive their call, and what else a request says of its place in the world."""

import asyncio

import grpc
import pytest
from tokenwire import (
    AsyncClient,
    ConversationPrompt,
    FinishReason,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from tokenwire.frontend.v1 import generation_pb2, options_pb2

from tests.client.scripted_server import (
    COMPLETED,
    HELLO,
    Break,
    Disconnect,
    Event,
    Hold,
    delta,
    end,
    ms,
    reason,
    retry_after,
    status,
)

GONE = status(grpc.StatusCode.NOT_FOUND, "gone", reason("UNKNOWN_GENERATION"))


def kept(token="t-1", **more):
    told = {"request_id": "r-1", "resume_token": token, "detach_ttl": ms(500)}
    return Event(accepted=generation_pb2.Accepted(**told, **more))


BEGUN = [kept(), delta("One ", [1]), delta("two ", [2], 1, text_offset=4)]
REST = [kept(), delta("three", [3], 2, text_offset=8, end=end()), COMPLETED]


async def test_what_a_request_says_of_its_caller_is_sent(twin, server):
    conversation = generation_pb2.ConversationPrompt(messages=2, kept_tokens=9, encoded_tokens=4)
    server.play("p", kept(attached=True, conversation=conversation), *REST[1:])
    server.play("p", *REST)
    stream = twin.stream(
        "p",
        on_disconnect="detach",
        detach_ttl=2.5,
        idempotency_key="k-1",
        conversation={"id": "c-1", "messages": 2},
        max_delta_tokens=3,
        content="text_and_ids",
    )
    with pytest.raises(Exception, match="went on at token 2"):
        await twin.read(stream)
    request = server.last
    sent = request.generation
    assert sent.on_disconnect == generation_pb2.ON_DISCONNECT_DETACH
    assert (sent.detach_ttl.ToMilliseconds(), sent.idempotency_key) == (2500, "k-1")
    assert (sent.conversation.id, sent.conversation.messages) == ("c-1", 2)
    assert request.stream.content == options_pb2.STREAM_CONTENT_TEXT_AND_IDS
    assert request.stream.max_tokens == 3
    told = stream.accepted
    assert (told.resume_token, told.detach_ttl_s, told.attached) == ("t-1", 0.5, True)
    assert told.conversation == ConversationPrompt(2, 9, 4)


@pytest.mark.parametrize(
    ("options", "fault", "words"),
    [
        ({"on_disconnect": "stay"}, ValueError, "on_disconnect: 'stay' is none of cancel, detach"),
        ({"content": "all"}, ValueError, "content: 'all' is none of text_and_ids, text, ids"),
        ({"conversation": {"name": "c"}}, ValueError, "^conversation=.* no .name. field"),
        ({"max_delta_tokens": -1}, ValueError, "max_tokens=-1"),
    ],
)
async def test_what_no_request_can_carry_is_refused_by_name(twin, options, fault, words):
    with pytest.raises(fault, match=words):
        twin.stream("p", **options)


async def test_attach_goes_on_from_what_the_caller_has_and_attaches_again(twin, server, naps):
    server.play("t-1", kept(), delta("two ", [2], 1, text_offset=4), Break())
    # The text of the last delta may come again.
    server.play("t-1", kept(), delta("two three", [3], 2, text_offset=4, end=end()), COMPLETED)
    stream = twin.attach("t-1", token_offsets=[1], max_delta_tokens=8)
    deltas = await twin.read(stream)
    assert [(each.text, each.token_offset) for each in deltas] == [("two ", 1), ("three", 2)]
    assert (stream.result.token_ids, stream.continued) == ([2, 3], 1)
    first, second = (call.request for call in server.calls)
    assert (list(first.token_offsets), list(second.token_offsets)) == ([1], [2])
    assert first.stream.max_tokens == second.stream.max_tokens == 8


async def test_an_unknown_generation_is_not_found(twin, server, naps):
    server.play("t-9", GONE)
    with pytest.raises(NotFoundError, match="gone"):
        await twin.read(twin.attach("t-9"))
    assert naps == []


async def test_a_detached_generation_that_broke_off_is_attached(twin, server, naps):
    server.play("p", *BEGUN, Break())
    server.play("t-1", *REST)
    stream = twin.stream("p", on_disconnect="detach")
    await twin.read(stream)
    assert (stream.result.text, stream.continued) == ("One two three", 1)
    assert [call.method for call in server.calls] == ["StreamGenerate", "Attach"]
    assert list(server.last.token_offsets) == [2]


async def test_where_it_is_gone_it_is_generated_on(twin, server, naps):
    server.play("p", *BEGUN, Break())
    server.play("t-1", GONE)
    server.play("p", *REST)
    stream = twin.stream("p", on_disconnect="detach")
    await twin.read(stream)
    assert (stream.result.text, stream.continued) == ("One two three", 1)
    assert [call.method for call in server.calls] == ["StreamGenerate", "Attach", "StreamGenerate"]
    (sent,) = server.last.generation.output_so_far
    assert list(sent.token_ids) == [1, 2]


async def test_a_generation_is_cancelled_by_its_token(twin, server, naps):
    server.fail_next(status(grpc.StatusCode.UNAVAILABLE, "later", retry_after(0)))
    await twin.call("cancel_generation", "t-1")
    assert [call.request.resume_token for call in server.calls] == ["t-1", "t-1"]
    server.fail_next(GONE)
    with pytest.raises(NotFoundError):
        await twin.call("cancel_generation", "t-1")


async def test_what_runs_under_a_request_id_is_cancelled(twin, server, run):
    assert await twin.call("cancel_request", "r-1") == 1
    assert server.last.request_id == "r-1"
    code, said, _ = await asyncio.to_thread(run, "cancel", "r-2")
    assert (code, said, server.last.request_id) == (0, "cancelled 1 generation\n", "r-2")


async def test_a_key_that_another_request_has_is_the_request_s_fault(twin, server):
    conflict = status(grpc.StatusCode.ALREADY_EXISTS, "other", reason("IDEMPOTENCY_CONFLICT"))
    server.play("p", conflict)
    with pytest.raises(InvalidRequestError) as caught:
        await twin.call("generate", "p", idempotency_key="k")
    assert caught.value.reason == "IDEMPOTENCY_CONFLICT"


async def test_a_key_that_another_client_goes_on_with_is_given_up(twin, server, naps):
    """Where both had lost the frontend: the rest comes, from the ids alone."""
    conflict = status(grpc.StatusCode.ALREADY_EXISTS, "less", reason("IDEMPOTENCY_CONFLICT"))
    server.play("p", *BEGUN, Break())
    server.play("t-1", GONE)
    server.play("p", conflict)
    server.play("p", *REST)
    stream = twin.stream("p", idempotency_key="k", detach_ttl=9)
    await twin.read(stream)
    assert (stream.result.text, stream.continued) == ("One two three", 1)
    sent = [call.request.generation for call in server.calls if call.method == "StreamGenerate"]
    assert [each.idempotency_key for each in sent] == ["k", "k", ""]
    assert [each.HasField("detach_ttl") for each in sent] == [True, True, False]
    assert [len(each.output_so_far) for each in sent] == [0, 1, 1]


async def test_a_cancel_between_two_streams_reaches_what_is_detached(server, monkeypatch):
    napping, go_on = asyncio.Event(), asyncio.Event()

    async def nap(_):
        napping.set()
        await go_on.wait()

    monkeypatch.setattr("tokenwire.session.sleep", nap)
    hold = Hold()
    server.play("p", *BEGUN, Hold())
    server.play("die", Disconnect())
    server.play("die", *HELLO)
    server.play("t-1", kept(), delta("three", [3], 2, text_offset=8), hold)
    async with AsyncClient(server.address) as client, client.session() as session:
        generation = session.open("p", on_disconnect="detach")
        await anext(generation)
        session.open("die")
        await napping.wait()
        cancelling = asyncio.create_task(generation.cancel())
        await asyncio.sleep(0)
        go_on.set()
        await cancelling
        assert generation.result.finish_reason is FinishReason.CANCELLED
    assert hold.cancelled.is_set()


async def test_a_session_that_ends_between_two_streams_ends_what_is_detached(server, monkeypatch):
    napping = asyncio.Event()

    async def nap(_):
        napping.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("tokenwire.session.sleep", nap)
    server.play("p", *BEGUN, Hold())
    server.play("die", Disconnect())
    async with AsyncClient(server.address) as client:
        async with client.session() as session:
            generation = session.open("p", on_disconnect="detach")
            assert (await anext(generation)).text == "One "
            session.open("die")
            await napping.wait()
        with pytest.raises(UnavailableError, match="the session has ended"):
            [each async for each in generation]


async def test_a_session_attaches_and_leaves_what_is_detached_alone(server):
    server.play("t-1", kept(), delta("two ", [2], 1, text_offset=4), *REST[1:])
    hold = Hold()
    server.play("p", *BEGUN, hold)
    async with AsyncClient(server.address) as client, client.session() as session:
        attached = session.attach("t-1", token_offsets=[1])
        assert [each.text async for each in attached] == ["two ", "three"]
        async with session.open("p", on_disconnect="detach") as generation:
            await anext(generation)
    commands = [call.request for call in server.calls if call.request]
    assert not any(each.HasField("cancel") for each in commands)
    assert commands[0].attaches[0].generation.resume_token == "t-1"
