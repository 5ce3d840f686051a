"""The command line's way with generations that outlive their call."""

from __future__ import annotations

import grpc
from tokenwire.frontend.v1 import generation_pb2, options_pb2

from tests.client.scripted_server import COMPLETED, Event, delta, end, ms, reason, status


def kept(token: str = "t-1") -> Event:
    told = {"request_id": "r-1", "resume_token": token, "detach_ttl": ms(500)}
    return Event(accepted=generation_pb2.Accepted(**told))


def test_a_detached_generation_tells_its_token_before_its_text(run, server):
    server.play("p", kept(), delta("One", [1], end=end()), COMPLETED)
    options = ("--detach", "--detach-ttl", "2.5", "--idempotency-key", "k-1", "--content", "text")
    assert run("generate", "p", *options) == (0, "One\n", "tokenwire: resume token t-1\n")
    sent = server.last.generation
    assert sent.on_disconnect == generation_pb2.ON_DISCONNECT_DETACH
    assert (sent.detach_ttl.ToMilliseconds(), sent.idempotency_key) == (2500, "k-1")
    assert server.last.stream.content == options_pb2.STREAM_CONTENT_TEXT


def test_attach_goes_on_after_the_tokens_that_are_known(run, server):
    server.play("t-1", kept(), delta("two", [2], 1, text_offset=4, end=end()), COMPLETED)
    assert run("attach", "t-1", "--token-offset", "1") == (0, "two\n", "")
    assert list(server.last.token_offsets) == [1]


def test_cancel_ends_it_by_its_token(run, server):
    assert run("cancel", "--resume-token", "t-1") == (0, "", "")
    assert server.last.resume_token == "t-1"
    gone = status(grpc.StatusCode.NOT_FOUND, "gone", reason("UNKNOWN_GENERATION"))
    server.fail_next(gone)
    assert run("cancel", "--resume-token", "t-1") == (1, "", "tokenwire: gone\n")
