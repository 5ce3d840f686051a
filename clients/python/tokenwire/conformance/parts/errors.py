"""Errors: what a refusal says, and in which status."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc

from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.parts.services import PACKAGE, asking_for
from tokenwire.conformance.refusal import Refusal, refused
from tokenwire.conformance.rule import Rule, Skipped, expect, unseen
from tokenwire.frontend.v1 import activity_pb2, generation_pb2

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND

_GENERATION_SERVICE = f"/{PACKAGE}.GenerationService"
_NO_MESSAGE = b"\xff\xff\xff\xff"
_REQUEST_BYTES = 4 * 1024 * 1024
_TRAILER_BYTES = 4 * 1024
_STRANGE = "conformance.unknown"


def _invalid(deployment: Deployment) -> generation_pb2.Generation:
    return deployment.generation(sampling={"temperature": -1.0})


def _get_record(deployment: Deployment) -> Refusal:
    request = activity_pb2.GetRecordRequest(request_id=_STRANGE)
    return refused(lambda: deployment.activity.GetRecord(request, timeout=deployment.left_s))


def _unknown_model(deployment: Deployment) -> Refusal:
    return refused(lambda: deployment.stream(deployment.generation(model=_STRANGE)))


def _malformed(deployment: Deployment) -> Iterator[tuple[str, Refusal]]:
    """Yields how each shape of call refuses bytes that are no message."""
    for name in ("Generate", "StreamGenerate", "Session"):
        call: Any = deployment.channel.stream_stream(f"{_GENERATION_SERVICE}/{name}")
        yield name, refused(partial(call, iter([_NO_MESSAGE]), timeout=deployment.left_s))


def _refusals(deployment: Deployment) -> Iterator[tuple[Refusal, grpc.StatusCode, str]]:
    """Yields refusals of several kinds, with the status and reason that each must have."""
    what = _invalid(deployment)
    yield refused(lambda: deployment.stream(what)), INVALID_ARGUMENT, "INVALID_FIELD"
    yield refused(lambda: deployment.generate(what)), INVALID_ARGUMENT, "INVALID_FIELD"
    with deployment.session() as session:
        session.open(1, what)
        yield session.failure(1), INVALID_ARGUMENT, "INVALID_FIELD"
    yield _unknown_model(deployment), NOT_FOUND, "UNKNOWN_MODEL"
    yield _get_record(deployment), NOT_FOUND, "UNKNOWN_REQUEST"
    for _, refusal in _malformed(deployment):
        yield refusal, INVALID_ARGUMENT, "MALFORMED_MESSAGE"


def _error_info(deployment: Deployment) -> None:
    for refusal, _, _ in _refusals(deployment):
        seen = f"{refusal.code.name}: {refusal.message}"
        expect(refusal.domain == "tokenwire", f"ErrorInfo's domain is {refusal.domain!r} in {seen}")
        expect(bool(refusal.reason), f"no reason in {seen}")


def _reasons(deployment: Deployment) -> None:
    for refusal, code, reason in _refusals(deployment):
        refusal.expect(code, reason)


def _fields(deployment: Deployment) -> None:
    what = deployment.generation(sampling={"temperature": -1.0, "top_p": 2.0})
    makes: tuple[Callable[[], object], ...] = (
        lambda: deployment.stream(what),
        lambda: deployment.generate(what),
    )
    for make in makes:
        refusal = refused(make)
        for name in ("temperature", "top_p"):
            refusal.expect_field(f"generation.sampling.{name}")


def _fields_in_a_session(deployment: Deployment) -> None:
    with deployment.session() as session:
        session.open(1, _invalid(deployment))
        session.failure(1).expect_field("open.generation.sampling.temperature")
        session.forget(2)
        opened = generation_pb2.Open(id=2, generation=_invalid(deployment))
        session.send(opens=[opened])
        session.failure(2).expect_field("open.generation.sampling.temperature")


def _not_supported(deployment: Deployment) -> None:
    missing = [each for each in asking_for(deployment) if not deployment.can(each[0])]
    if not missing:
        raise Skipped(f"{deployment.model.name} has every capability")
    for _, field, what in missing:
        refusal = refused(partial(deployment.stream, what))
        refusal.expect_field(f"generation.{field}")


def _unknown_names(deployment: Deployment) -> None:
    _unknown_model(deployment).expect(NOT_FOUND, "UNKNOWN_MODEL")
    _get_record(deployment).expect(NOT_FOUND, "UNKNOWN_REQUEST")


def _no_message(deployment: Deployment) -> None:
    for name, refusal in _malformed(deployment):
        seen = f"{name} ended with {refusal.code.name} {refusal.reason}: {refusal.message}"
        expect((refusal.code, refusal.reason) == (INVALID_ARGUMENT, "MALFORMED_MESSAGE"), seen)


def _too_large(deployment: Deployment) -> None:
    what = deployment.generation("x " * (_REQUEST_BYTES // 2), 1)
    refusal = refused(lambda: deployment.stream(what))
    if refusal.reason == "PROMPT_TOO_LONG":
        raise Skipped("the deployment has set a larger bound")
    expect(
        refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"a request of more than 4 MiB ended with {refusal.code.name}: {refusal.message}",
    )


def _trailers(deployment: Deployment) -> None:
    many = {"stop": [""] * 16, "stop_token_ids": [deployment.model.vocabulary_size] * 64}
    for what in (deployment.generation(model="m" * 50_000), deployment.generation(stop=many)):
        refusal = refused(partial(deployment.stream, what))
        size = refusal.trailer_bytes
        expect(0 < size < _TRAILER_BYTES, f"the trailers of a refusal have {size} bytes")


def _not_served(deployment: Deployment) -> None:
    for method in (
        f"{_GENERATION_SERVICE}/NoSuchMethod",
        "/tokenwire.worker.v1.ExecutionService/Execute",
    ):
        call: Any = deployment.channel.unary_unary(method)
        refusal = refused(partial(call, b"", timeout=deployment.left_s))
        expect(
            refusal.code is grpc.StatusCode.UNIMPLEMENTED,
            f"{method} ended with {refusal.code.name}: {refusal.message}",
        )


def _no_credential(deployment: Deployment) -> None:
    bare = deployment.bare_channel
    if bare is None:
        raise Skipped("no API key was given, or a certificate as well")
    metadata = {"no credential": (), "an unknown one": (("authorization", f"Bearer {_STRANGE}"),)}
    for method in ("GenerationService/Generate", "ModelService/ListModels"):
        for kind, told in metadata.items():
            call: Any = bare.unary_unary(f"/{PACKAGE}.{method}")
            refusal = refused(partial(call, b"", timeout=deployment.left_s, metadata=told))
            expect(
                refusal.code is grpc.StatusCode.UNAUTHENTICATED,
                f"{method} with {kind} ended with {refusal.code.name}: {refusal.message}",
            )


RULES = (
    Rule("E1", "ErrorInfo in every error", _error_info),
    Rule("E2", "status and reason", _reasons),
    Rule("E3", "each invalid field is named", _fields),
    Rule("E4", "paths in a session", _fields_in_a_session),
    Rule("E5", "what is not supported is refused", _not_supported),
    Rule("E6", "unknown names", _unknown_names),
    unseen("E7", "RESOURCE_EXHAUSTED says when", "the deployment would have to be at a bound"),
    unseen("E8", "UNAVAILABLE says when", "the deployment would have to stop or lose its workers"),
    unseen("E9", "INTERNAL has the trace id", "the deployment would have to have a fault"),
    Rule("E10", "bytes that are no message", _no_message),
    Rule("E11", "a request that is too large", _too_large),
    Rule("E12", "trailers below 4 KiB", _trailers),
    Rule("E13", "methods that are not served", _not_served),
    Rule("E14", "calls without a credential", _no_credential),
)
