"""Commands of one Exchange stream: what is sent to a worker, and how much."""

from __future__ import annotations

import pytest
from tokenwire.channel_arguments import REQUEST_BYTES
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.call_order import HANDLES
from tokenwire_frontend.workers import outgoing
from tokenwire_service.errors import ServiceError
from tokenwire_service.limits import MESSAGE_COMMANDS

from tests.frontend.exchange_here import (
    Receiver,
    deliver,
    done,
    ending,
    exchange,
    request,
    sent,
    started,
)


async def test_what_waits_goes_in_one_message():
    stream = exchange()
    handles = [stream.submit(request(), Receiver()) for _ in range(5)]
    stream.cancel(handles[0])
    stream.cancel(handles[1], 0)
    [message] = await sent(stream)
    assert [submit.handle for submit in message.submits] == handles
    assert [(each.handle, list(each.sequences)) for each in message.cancels] == [
        (handles[0], []),
        (handles[1], [0]),
    ]
    assert message.WhichOneof("command") is None


async def test_a_worker_of_revision_1_gets_one_command_a_message():
    stream = exchange(revision=1)
    handle = stream.submit(request(), Receiver())
    stream.cancel(handle)
    first, second = await sent(stream)
    assert first.submit.handle == second.cancel.handle == handle
    assert [len(first.submits), len(second.cancels)] == [0, 0]


async def test_messages_stay_within_what_a_worker_reads():
    stream = exchange()
    third = request(prompt_token_ids=[300] * (REQUEST_BYTES // 6))
    for _ in range(4):
        stream.submit(third, Receiver())
    messages = await sent(stream)
    assert [len(message.submits) for message in messages] == [2, 2]
    assert all(message.ByteSize() <= REQUEST_BYTES for message in messages)


async def test_no_message_has_more_commands_than_one_may():
    stream = exchange()
    handles = [stream.submit(request(), Receiver()) for _ in range(10)]
    deliver(stream, pb.ExchangeResponse(accepted=handles))
    for sequence in range(MESSAGE_COMMANDS):
        stream.cancel(handles[0], sequence)
    messages = await sent(stream)
    assert [len(message.submits) + len(message.cancels) for message in messages] == [
        MESSAGE_COMMANDS, 10,
    ]  # fmt: skip


async def test_a_request_that_is_too_large_is_refused_by_name():
    stream = exchange()
    with pytest.raises(ServiceError) as refusal:
        stream.submit(request(prompt_token_ids=[300] * (REQUEST_BYTES // 2)), Receiver())
    assert refusal.value.reason == "REQUEST_TOO_LARGE"
    assert [each.field for each in refusal.value.violations] == ["prompt"]
    assert len(stream) == 0
    assert await sent(stream) == []


async def test_a_worker_that_does_not_read_gets_no_more(monkeypatch):
    monkeypatch.setattr(outgoing, "WAITING_BYTES", 10_000)
    stream = exchange()
    large = request(prompt_token_ids=[300] * 3000)
    stream.submit(large, Receiver())
    with pytest.raises(ServiceError) as refusal:
        stream.submit(large, Receiver())
    assert refusal.value.reason == "WORKER_BEHIND"
    await sent(stream)
    stream.submit(request(), Receiver())


async def test_a_cancel_is_sent_once():
    stream = exchange()
    handle, _ = started(stream, sequence_count=2)
    for _ in range(9):
        stream.cancel(handle, 1)
    for _ in range(9):
        stream.cancel(handle)
    stream.cancel(handle, 0)
    stream.cancel(77)
    cancels = [each for message in await sent(stream) for each in message.cancels]
    assert [list(each.sequences) for each in cancels] == [[1], []]


async def test_who_is_detached_hears_nothing_more():
    stream = exchange()
    handle, receiver = started(stream)
    stream.detach(handle)
    deliver(
        stream,
        pb.ExchangeResponse(
            handles=[handle],
            token_ids=[5],
            endings=[ending(handle)],
            completions=[done(handle)],
        ),
    )
    assert receiver.names == ["accepted"]
    assert len(stream) == 0


def test_handles_of_live_generations_are_not_given_again():
    stream = exchange(last_handle=HANDLES - 1)
    receivers = [Receiver() for _ in range(3)]
    handles = [stream.submit(request(), each) for each in receivers]
    assert handles == [HANDLES, 1, 2]
    deliver(stream, pb.ExchangeResponse(accepted=handles, handles=[HANDLES], token_ids=[5]))
    assert [each.names for each in receivers] == [["accepted", "tokens"], *[["accepted"]] * 2]
