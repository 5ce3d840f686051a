"""What is tried again, and when."""

import asyncio
import socket
import threading

import grpc
import pytest
from tokenwire import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
    RetryPolicy,
    TokenwireError,
    UnavailableError,
    UnreachableError,
)
from tokenwire._retry import Attempts

from tests.client.scripted_server import (
    HELLO,
    OVERLOADED,
    WAIT_S,
    ScriptedServer,
    reason,
    retry_after,
    status,
)

DRAINING = status(grpc.StatusCode.UNAVAILABLE, "draining", reason("DRAINING"))


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def attempts(policy=RetryPolicy(), timeout_s=None, clock=None, jitter=1.0):  # noqa: B008
    return Attempts(policy, timeout_s, clock=clock or Clock(), jitter=lambda: jitter)


def test_delays_grow_to_a_bound_and_attempts_end():
    policy = RetryPolicy(attempts=6, first_delay_s=1, growth=3, longest_delay_s=10)
    tries = attempts(policy)
    assert [tries.delay_s(UnreachableError("")) for _ in range(6)] == [1, 3, 9, 10, 10, None]


def test_up_to_half_of_a_delay_is_left_out():
    policy = RetryPolicy(first_delay_s=1)
    assert attempts(policy, jitter=0.0).delay_s(UnreachableError("")) == 0.5
    assert attempts(policy, jitter=0.5).delay_s(UnreachableError("")) == 0.75


def overloaded(retry_after_s):
    error = OverloadedError("")
    error.retry_after_s = retry_after_s
    return error


def test_the_server_s_wait_is_honoured_and_clients_still_spread():
    policy = RetryPolicy(first_delay_s=0.2)
    assert attempts(policy).delay_s(overloaded(3.0)) == pytest.approx(3.2)
    assert attempts(policy, jitter=0.0).delay_s(overloaded(3.0)) == pytest.approx(3.1)


def test_a_wait_beyond_the_longest_is_the_caller_s_to_decide():
    assert attempts(RetryPolicy(longest_delay_s=10)).delay_s(overloaded(11.0)) is None


def test_only_what_may_pass_is_tried_again():
    assert attempts().delay_s(UnavailableError("")) is not None
    busy = TokenwireError("", code=grpc.StatusCode.ABORTED)
    assert attempts().delay_s(busy) is None
    busy.retry_after_s = 1.0
    assert attempts().delay_s(busy) is not None
    assert attempts().delay_s(overloaded(0.0)) is not None
    # gRPC's own RESOURCE_EXHAUSTED, such as for a message that is too large, says no time.
    assert attempts().delay_s(OverloadedError("")) is None
    assert attempts().delay_s(InvalidRequestError("")) is None
    assert attempts().delay_s(InternalError("")) is None
    assert attempts().delay_s(DeadlineExceededError("")) is None


def test_the_deadline_is_one_for_all_attempts():
    clock = Clock()
    tries = attempts(RetryPolicy(first_delay_s=1), 10, clock)
    assert tries.remaining_s() == 10
    clock.now += 4
    assert tries.remaining_s() == 6
    assert tries.delay_s(UnavailableError("")) == 1
    clock.now += 5
    assert tries.delay_s(UnavailableError("")) is None
    clock.now += 5
    assert tries.remaining_s() == 0


def test_without_a_deadline_an_attempt_may_take_any_time():
    assert attempts().remaining_s() is None
    assert attempts(timeout_s=float("inf")).remaining_s() is None


async def test_an_overloaded_server_is_asked_again_when_it_says(twin, server, naps):
    server.fail_next(OVERLOADED, DRAINING)
    assert (await twin.call("generate", "hi")).text == "Hello world"
    first, second = naps
    assert 1.6 <= first <= 1.7
    assert 0.2 <= second <= 0.4
    parents = {call.metadata["traceparent"] for call in server.calls}
    assert (len(server.calls), len(parents)) == (3, 1)


async def test_the_last_error_is_raised_when_attempts_end(kind, server, naps):
    twin = kind(server.address, retry=RetryPolicy(attempts=3))
    server.fail_next(DRAINING, DRAINING, OVERLOADED)
    with pytest.raises(OverloadedError) as caught:
        await twin.call("generate", "hi")
    await twin.close()
    assert (len(naps), len(server.calls)) == (2, 3)
    assert caught.value.retry_after_s == 1.5


async def test_a_refused_request_is_not_sent_again(twin, server, naps):
    server.fail_next(status(grpc.StatusCode.INVALID_ARGUMENT, "no"))
    with pytest.raises(InvalidRequestError):
        await twin.call("generate", "hi")
    assert (naps, len(server.calls)) == ([], 1)


async def test_a_call_that_another_cancelled_is_not_sent_again(twin, server, naps):
    cancelled = status(grpc.StatusCode.CANCELLED, "")
    server.fail_next(cancelled)
    with pytest.raises(RequestCancelledError):
        await twin.call("generate", "hi")
    server.play("hi", cancelled)
    with pytest.raises(RequestCancelledError):
        await twin.read(twin.stream("hi"))
    assert (naps, len(server.calls)) == ([], 2)


async def test_a_stream_starts_over_before_it_was_accepted(twin, server, naps):
    server.play("hi", OVERLOADED)
    server.play("hi", DRAINING)
    server.play("hi", *HELLO)
    stream = twin.stream("hi", timeout=30)
    assert len(await twin.read(stream)) == 2
    assert (len(naps), stream.result.text) == (2, "Hello world")
    assert server.calls[-1].time_remaining < 31


@pytest.fixture
def failed_twice(monkeypatch):
    """Set once two attempts of a client have failed."""
    delay_s, delays, failed = Attempts.delay_s, [], threading.Event()

    def note(attempts, error, **options):
        delays.append(delay_s(attempts, error, **options))
        if len(delays) == 2:
            failed.set()
        return delays[-1]

    monkeypatch.setattr(Attempts, "delay_s", note)
    return failed


@pytest.mark.parametrize("method", ["generate", "stream"])
async def test_a_server_that_comes_up_is_found(kind, failed_twice, method):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # About 5 s in all. A blocking channel that nobody watches would need longer to connect again.
    twin = kind(f"127.0.0.1:{port}", retry=RetryPolicy(attempts=16, longest_delay_s=0.4))
    if method == "generate":
        call = asyncio.create_task(twin.call("generate", "hi"))
    else:
        call = asyncio.create_task(twin.read(twin.stream("hi")))
    assert await asyncio.to_thread(failed_twice.wait, WAIT_S)
    late = ScriptedServer(port=port)
    assert await call
    await twin.close()
    late.stop()


async def test_a_wait_past_the_deadline_is_not_begun(twin, server, naps):
    server.fail_next(status(grpc.StatusCode.UNAVAILABLE, "later", retry_after(5)))
    with pytest.raises(UnavailableError, match="later"):
        await twin.call("generate", "hi", timeout=4)
    assert naps == []
