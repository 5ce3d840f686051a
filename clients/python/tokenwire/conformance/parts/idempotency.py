"""Idempotency keys: a repeated request is harmless."""

from __future__ import annotations

import uuid

import grpc

from tokenwire.conformance.deployment import ANSWER_TOKENS, Deployment
from tokenwire.conformance.reflected import needing
from tokenwire.conformance.refusal import refused
from tokenwire.conformance.rule import Rule, expect
from tokenwire.frontend.v1 import generation_pb2

_HALF = ANSWER_TOKENS // 2


def _key() -> str:
    return f"conformance-{uuid.uuid4().hex}"


def _attaches(deployment: Deployment) -> None:
    key = _key()
    first = deployment.stream(deployment.generation(idempotency_key=key))
    expect(not first.accepted.attached, "the first request of a key was attached")
    second = deployment.stream(deployment.generation(idempotency_key=key))
    expect(second.accepted.attached, "accepted.attached is false of a repeated request")
    expect(second.ids() == first.ids(), f"{second.ids()} came; not {first.ids()}")
    same = second.accepted.request_id == first.accepted.request_id
    expect(same, f"{second.accepted.request_id} is attached to; not {first.accepted.request_id}")


def _other_request(deployment: Deployment) -> None:
    key = _key()
    deployment.stream(deployment.generation(idempotency_key=key))
    other = deployment.generation("Hello", idempotency_key=key)
    refusal = refused(lambda: deployment.stream(other))
    refusal.expect(grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_CONFLICT")


def _goes_on(deployment: Deployment) -> None:
    key = _key()
    first = deployment.stream(deployment.generation(idempotency_key=key))
    so_far = [{"token_ids": first.ids()[:_HALF]}]
    repeated = deployment.generation(idempotency_key=key, output_so_far=so_far)
    again = deployment.stream(repeated)
    offset = again.deltas[0].token_offset
    expect(offset == _HALF, f"the answer began after {offset} ids; {_HALF} were there")
    expect(again.ids() == first.ids()[_HALF:], "other ids came after those")


def _free_again(deployment: Deployment) -> None:
    key = _key()
    invalid = deployment.generation(idempotency_key=key, sampling={"temperature": -1.0})
    path = "generation.sampling.temperature"
    refused(lambda: deployment.start(invalid)).expect_field(path)
    found = deployment.stream(deployment.generation(idempotency_key=key))
    expect(not found.accepted.attached, "a request was attached to one that was refused")


RULES = needing(
    generation_pb2.Generation.DESCRIPTOR,
    "idempotency_key",
    Rule("I1", "the same request attaches", _attaches),
    Rule("I2", "another request is refused", _other_request),
    Rule("I3", "begins after the output so far", _goes_on),
    Rule("I4", "a refusal frees the key", _free_again),
)
