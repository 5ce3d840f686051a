"""Idempotency keys: a repeated request is harmless."""

from __future__ import annotations

import uuid

import grpc

from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.reflected import needing
from tokenwire.conformance.refusal import refused
from tokenwire.conformance.rule import Rule, expect
from tokenwire.frontend.v1 import generation_pb2


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


RULES = needing(
    generation_pb2.Generation.DESCRIPTOR,
    "idempotency_key",
    Rule("I1", "the same request attaches", _attaches),
    Rule("I2", "another request is refused", _other_request),
)
