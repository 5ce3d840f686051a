"""google.rpc details to errors."""

import pickle
import re

import grpc
import pytest
import tokenwire
from google.protobuf import any_pb2
from google.rpc import error_details_pb2
from tokenwire import errors

from tests.client.scripted_server import reason, retry_after, status


def test_all_details_are_read():
    quota = error_details_pb2.QuotaFailure()
    quota.violations.add(subject="frontend/generations", description="at most 64 at once")
    made = status(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "full",
        reason("TOO_MANY_GENERATIONS", held="64"),
        retry_after(1.5),
        quota,
    )
    error = errors.from_status(made, "ab" * 16)
    assert isinstance(error, tokenwire.OverloadedError)
    assert (str(error), error.reason, error.retry_after_s) == ("full", "TOO_MANY_GENERATIONS", 1.5)
    assert error.metadata == {"held": "64"}
    assert error.quotas == (tokenwire.Quota("frontend/generations", "at most 64 at once"),)
    assert error.trace_id == "ab" * 16


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", tokenwire.InvalidRequestError),
        ("OUT_OF_RANGE", tokenwire.InvalidRequestError),
        ("NOT_FOUND", tokenwire.NotFoundError),
        ("RESOURCE_EXHAUSTED", tokenwire.OverloadedError),
        ("UNAVAILABLE", tokenwire.UnavailableError),
        ("DEADLINE_EXCEEDED", tokenwire.DeadlineExceededError),
        ("CANCELLED", tokenwire.RequestCancelledError),
        ("UNIMPLEMENTED", tokenwire.UnsupportedError),
        ("FAILED_PRECONDITION", tokenwire.UnsupportedError),
        ("INTERNAL", tokenwire.InternalError),
        ("UNKNOWN", tokenwire.InternalError),
        ("DATA_LOSS", tokenwire.InternalError),
        ("UNAUTHENTICATED", tokenwire.UnauthenticatedError),
        ("PERMISSION_DENIED", tokenwire.PermissionDeniedError),
        ("ABORTED", tokenwire.TokenwireError),
    ],
)
def test_each_code_has_its_error(code, kind):
    made = status(grpc.StatusCode[code], "words")
    error = errors.from_status(made, "")
    assert type(error) is kind
    assert (error.code, error.reason) == (grpc.StatusCode[code], code)


def test_a_code_that_gRPC_does_not_know_and_unknown_details_do_no_harm():
    made = status(grpc.StatusCode.INTERNAL, "words")
    made.code = 99
    made.details.append(any_pb2.Any(type_url="type.googleapis.com/new.Detail", value=b"x"))
    error = errors.from_status(made, "")
    assert error.code is grpc.StatusCode.UNKNOWN


async def test_nobody_there_is_unreachable_and_not_the_service_s_word(kind):
    twin = kind("127.0.0.1:1", retry=tokenwire.RetryPolicy(attempts=1))
    with pytest.raises(tokenwire.UnreachableError) as caught:
        await twin.call("models")
    await twin.close()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert len(caught.value.trace_id) == 32


def test_an_error_travels_between_processes():
    error = errors.from_status(status(grpc.StatusCode.NOT_FOUND, "gone", reason("X")), "ab")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.reason) == (type(error), "gone", "X")


def test_the_tree_in_the_docstring_shows_every_error():
    tree = errors.__doc__.split("\n\n")[1]
    kinds = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.TokenwireError)
    ]
    assert sorted(kinds) == sorted(re.findall(r"\w+Error\b", tree))
