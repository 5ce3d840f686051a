"""Generations that outlive their calls: detached, attached again, and cancelled."""

from __future__ import annotations

import time
import uuid
from functools import partial
from typing import Any

import grpc
from google.protobuf import duration_pb2

from tokenwire.conformance.answer import RULES_OF_A_STREAM, Answer
from tokenwire.conformance.deployment import ANSWER_TOKENS, Deployment
from tokenwire.conformance.reflected import needing
from tokenwire.conformance.refusal import of_error, refused
from tokenwire.conformance.rule import Broken, Rule, Skipped, expect
from tokenwire.frontend.v1 import generation_pb2

_DETACH = generation_pb2.ON_DISCONNECT_DETACH
_SHORT_TTL_S = 0.1
_LOOKS_S = (0.2, 1.0)
"""Before each look whether a generation is still kept, which keeps it once more."""


def _detached(deployment: Deployment, **fields: Any) -> generation_pb2.Generation:
    return deployment.generation(on_disconnect=_DETACH, **fields)


def _left(deployment: Deployment, what: generation_pb2.Generation) -> str:
    """Begins a generation, leaves it, and returns its token."""
    call = deployment.start(what)
    accepted = next(call).accepted
    call.cancel()
    if not accepted.resume_token:
        raise Broken("accepted has no resume_token with ON_DISCONNECT_DETACH")
    return str(accepted.resume_token)


def _request(token: str, *offsets: int) -> generation_pb2.AttachRequest:
    return generation_pb2.AttachRequest(resume_token=token, token_offsets=offsets)


def _start(deployment: Deployment, token: str, *offsets: int) -> Any:
    return deployment.generations.Attach(_request(token, *offsets), timeout=deployment.left_s)


def _attach(deployment: Deployment, token: str, *offsets: int) -> Answer:
    return Answer(list(_start(deployment, token, *offsets)))


def _expect_whole(found: Answer) -> None:
    for holds in RULES_OF_A_STREAM:
        holds(found)
    count = len(found.ids())
    expect(count == ANSWER_TOKENS, f"{count} ids came of {ANSWER_TOKENS}")


def _cancel(deployment: Deployment, token: str) -> None:
    request = generation_pb2.CancelGenerationRequest(resume_token=token)
    deployment.generations.CancelGeneration(request, timeout=deployment.left_s)


def _expect_cancelled(found: Answer) -> None:
    if found.end().reason == generation_pb2.FINISH_REASON_LENGTH:
        raise Skipped("the model had filled its context before the cancel")
    found.expect_reason(generation_pb2.FINISH_REASON_CANCELLED)


def _token(deployment: Deployment) -> None:
    with_token = deployment.stream(_detached(deployment)).accepted
    expect(bool(with_token.resume_token), "accepted has no resume_token")
    expect(with_token.HasField("detach_ttl"), "accepted has no detach_ttl")
    keyed = deployment.generation(idempotency_key=f"conformance-{uuid.uuid4().hex}")
    expect(bool(deployment.stream(keyed).accepted.resume_token), "a key brings no resume_token")
    without = deployment.stream().accepted
    expect(not without.resume_token, "accepted has a resume_token without being asked for one")


def _goes_on(deployment: Deployment) -> None:
    _expect_whole(_attach(deployment, _left(deployment, _detached(deployment))))


def _from_an_offset(deployment: Deployment) -> None:
    token = _left(deployment, _detached(deployment))
    whole = _attach(deployment, token)
    for offset in (1, ANSWER_TOKENS - 1):
        rest = _attach(deployment, token, offset)
        first = rest.deltas[0].token_offset
        expect(first == offset, f"the first delta's token_offset is {first}; not {offset}")
        wanted = whole.ids()[offset:]
        expect(rest.ids() == wanted, f"{rest.ids()} followed; not {wanted}")
        text = whole.text().encode()[rest.deltas[0].text_offset :].decode(errors="replace")
        expect(rest.text() == text, f"the text that followed is {rest.text()!r}; not {text!r}")


def _several_callers(deployment: Deployment) -> None:
    token = _left(deployment, _detached(deployment))
    calls = [_start(deployment, token) for _ in range(2)]
    for call in calls:
        _expect_whole(Answer(list(call)))


def _left_again(deployment: Deployment) -> None:
    token = _left(deployment, _detached(deployment))
    call = _start(deployment, token)
    next(call)
    call.cancel()
    _expect_whole(_attach(deployment, token))


def _cancelled(deployment: Deployment) -> None:
    token = _left(deployment, _detached(deployment, max_tokens=None))
    _cancel(deployment, token)
    _expect_cancelled(_attach(deployment, token))


def _deadline(deployment: Deployment) -> None:
    call = deployment.start(_detached(deployment, max_tokens=None), timeout_s=0.3)
    token = next(call).accepted.resume_token
    refusal = refused(lambda: call)
    if refusal.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
        raise Broken(f"the call ended with {refusal.code.name}: {refusal.message}")
    attached = _start(deployment, token)
    next(attached)
    _cancel(deployment, token)
    attached.cancel()


def _in_a_session(deployment: Deployment) -> None:
    token = _left(deployment, _detached(deployment))
    attach = generation_pb2.Attach
    with deployment.session() as session:
        session.send(attaches=[attach(id=1, generation=_request(token))])
        _expect_whole(session.finish(1))
        endless = _left(deployment, _detached(deployment, max_tokens=None))
        session.send(attaches=[attach(id=2, generation=_request(endless))])
        session.read_to_first_token(2)
        session.cancel(2)
        _expect_cancelled(session.finish(2))


def _not_issued(deployment: Deployment) -> None:
    request = _request("conformance")
    attach = partial(deployment.generations.Attach, request, timeout=deployment.left_s)
    refused(attach).expect_field("resume_token")


def _expired(deployment: Deployment) -> None:
    ttl = duration_pb2.Duration(nanos=round(_SHORT_TTL_S * 1e9))
    token = _left(deployment, _detached(deployment, max_tokens=1, detach_ttl=ttl))
    for wait_s in _LOOKS_S:
        time.sleep(wait_s)
        try:
            _attach(deployment, token)
        except grpc.RpcError as error:
            of_error(error).expect(grpc.StatusCode.NOT_FOUND, "EXPIRED")
            return
    raise Broken(f"it was kept for longer than its detach_ttl of {_SHORT_TTL_S} s")


def _beyond(deployment: Deployment) -> None:
    token = _left(deployment, _detached(deployment))
    refusal = refused(lambda: _start(deployment, token, ANSWER_TOKENS + 1))
    refusal.expect(grpc.StatusCode.OUT_OF_RANGE, "OFFSET_BEYOND")


RULES = needing(
    generation_pb2.Generation.DESCRIPTOR,
    "on_disconnect",
    Rule("A1", "a resume token", _token),
    Rule("A2", "it goes on without a caller", _goes_on),
    Rule("A3", "attached after an id", _from_an_offset),
    Rule("A4", "several callers", _several_callers),
    Rule("A5", "leaving does not end it", _left_again),
    Rule("A6", "CancelGeneration", _cancelled),
    Rule("A7", "a deadline detaches", _deadline),
    Rule("A8", "attached in a session", _in_a_session),
    Rule("A9", "a token that was not issued", _not_issued),
    Rule("A10", "dropped after detach_ttl", _expired),
    Rule("A11", "an offset beyond the output", _beyond),
)
