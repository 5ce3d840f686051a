"""Random messages and random bytes against every RPC of both services.

Whatever comes, the answer is OK or a status that says what is wrong, never a fault of the service;
and afterwards both still serve, and nothing runs that nobody waits for.
"""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenwire_frontend.edge.kserve.inputs import INPUTS
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2

from tests.services.calls import generation
from tests.services.fields import is_map, is_repeated, methods, path_of
from tests.table import table

FAULTS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    # Both services serve all the while, and one call at a time is no overload; an error that does
    # not fit into its trailing metadata would read so.
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

CALL_TIMEOUT_S = 1.5
"""A random request may well be a good one that would run for long; its deadline ends it."""

BOUNDED = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    # A failing example is reported as it was found; to shrink it would take minutes of calls.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)

METHODS = [
    pytest.param(service, method, id=f"{service}-{method.name}")
    for service in ("frontend", "worker")
    for method in methods(service)
]

# --- random values -------------------------------------------------------------------------------

UINT32 = st.sampled_from([0, 1, 2, 5, 31, 4095, 4096, 2**31, 2**32 - 1]) | st.integers(0, 4095)
NUMBERS = {
    FieldDescriptor.TYPE_UINT32: UINT32,
    FieldDescriptor.TYPE_UINT64: st.sampled_from([0, 1, 2**63, 2**64 - 1]),
    FieldDescriptor.TYPE_INT32: st.sampled_from([0, 1, -1, 100, -101, 2**31 - 1, -(2**31)]),
    FieldDescriptor.TYPE_INT64: st.sampled_from([0, 1, -1, 3, 10**11, 2**63 - 1, -(2**63)]),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
}
FLOATS = st.sampled_from(
    [0.0, -0.0, 1.0, 0.5, 2.0, -1.0, 1e-45, 3.4e38, math.nan, math.inf, -math.inf]
)
TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        *("", "demo", "\x00", "\ufeff", "\u202e", "🙂" * 50, "<|end|><|begin|>", "a" * 50_000),
        *(
            '{"type": "object"}',
            '{"a": NaN}',
            "[" * 9_000,
            "(" * 300,
            "[a-z]+",
            'root ::= "a"',
            "00-" + "1" * 32 + "-x-01",
        ),
    ]
)
BYTES = st.binary(max_size=40)


def messages(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Returns a strategy of messages with a random part of their fields set at random."""

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        message = message_factory.GetMessageClass(descriptor)()
        for field in descriptor.fields:
            # Deeper messages are sparser, so that a message stays of a size.
            if depth < 7 and draw(st.integers(0, 1 + depth // 2)) == 0:
                fill(message, field, draw, depth)
        return message

    return build()


def fill(message: Message, field: FieldDescriptor, draw: st.DrawFn, depth: int) -> None:
    """Sets one field; of the fields of a oneof the last one set stays."""
    if field.message_type is not None:
        strategy = messages(field.message_type, depth + 1)
        if is_map(field):
            for entry in draw(st.lists(strategy, max_size=3)):
                getattr(message, field.name)[entry.key].CopyFrom(entry.value)
        elif is_repeated(field):
            getattr(message, field.name).extend(draw(st.lists(strategy, max_size=3)))
        else:
            getattr(message, field.name).CopyFrom(draw(strategy))
    elif is_repeated(field):
        getattr(message, field.name).extend(draw(st.lists(scalar(field), max_size=40)))
    else:
        setattr(message, field.name, draw(scalar(field)))


def scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from([*known, *known, 99, -1, 2**31 - 1])
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return FLOATS
    return {
        **NUMBERS,
        FieldDescriptor.TYPE_STRING: TEXTS,
        FieldDescriptor.TYPE_BYTES: BYTES,
    }[field.type]


# --- nearly good messages ------------------------------------------------------------------------


def mend(message: Message, draw: st.DrawFn) -> None:
    """Makes a generation in the message likely to be taken, but for what is left random."""
    names = message.DESCRIPTOR.fields_by_name
    if message.DESCRIPTOR.name == "Generation":
        message.model = ""
        message.prompt.text = draw(st.sampled_from(["Hello", "1 + 1 =", "🙂"]))
        message.prompt.ClearField("add_special_tokens")
        message.stop.max_tokens = draw(st.integers(1, 8))
    elif message.DESCRIPTOR.name == "ModelInferRequest":
        message.CopyFrom(inference_of(draw))
    elif message.DESCRIPTOR.full_name == "tokenwire.worker.v1.Request":
        message.prompt_token_ids[:] = [5, 6, 7]
        message.stopping.max_tokens = draw(st.integers(1, 8))
    else:
        for name in ("generation", "request", "open", "submit"):
            if name in names and draw(st.integers(0, 3)):
                mend(getattr(message, name), draw)
        return
    # Of its other parts most are left out, so that what stays is met alone.
    for name in ("sampling", "guided", "guide", "output", "sequence_count", "lora_adapter"):
        if name in names and draw(st.integers(0, 2)):
            message.ClearField(name)
    for name in ("cache_salt", "priority", "request_id", "time_budget", "top_logprobs"):
        if name in names and draw(st.integers(0, 2)):
            message.ClearField(name)


def inference_of(draw: st.DrawFn) -> Message:
    """Returns an inference request whose tensors may be good, each under a name that there is."""
    request = grpc_service_pb2.ModelInferRequest()
    for name in ("text_input", "max_tokens", *draw(st.lists(st.sampled_from(sorted(INPUTS))))):
        if draw(st.integers(0, 3)):
            given = request.inputs.add(name=name, datatype=INPUTS[name].datatype, shape=[1])
            given.contents.bytes_contents[:] = draw(st.lists(BYTES, max_size=2))
            given.contents.int_contents[:] = [draw(st.integers(-1, 8))]
            given.contents.uint64_contents[:] = [draw(st.integers(0, 8))]
            given.contents.fp32_contents[:] = [draw(FLOATS)]
            given.contents.bool_contents[:] = [draw(st.booleans())]
    return request


@st.composite
def requests_of(draw: st.DrawFn, method: MethodDescriptor) -> bytes:
    message = draw(messages(method.input_type))
    if draw(st.booleans()):
        mend(message, draw)
    return message.SerializeToString()


# --- the calls -----------------------------------------------------------------------------------


def status_of(raw: grpc.Channel, method: MethodDescriptor, requests: list[bytes]) -> Any:
    """Sends bytes to an RPC, reads what comes to its end, and returns the status."""
    path = path_of(method)
    streams_in, streams_out = method.client_streaming, method.server_streaming
    if streams_in:
        call = raw.stream_stream(path)(iter(requests), timeout=CALL_TIMEOUT_S)
    elif streams_out:
        call = raw.unary_stream(path)(requests[0], timeout=CALL_TIMEOUT_S)
    else:
        call = raw.unary_unary(path).future(requests[0], timeout=CALL_TIMEOUT_S)
    response = message_factory.GetMessageClass(method.output_type)
    try:
        for answer in call if streams_out else [call.result()]:
            response.FromString(answer)
            if method.name in ("WatchLoad", "WatchActivity"):
                call.cancel()  # it would go on until the deadline
    except grpc.RpcError as error:
        return error.code()
    return call.code()


def check(service: str, method: MethodDescriptor, requests: list[bytes], both: Any) -> None:
    assert status_of(client_of(service, both), method, requests) not in FAULTS


def client_of(service: str, both: Any) -> grpc.Channel:
    worker, frontend = both
    return {"frontend": frontend, "worker": worker}[service].raw


def check_alive(both: Any) -> None:
    """Checks that both services serve, and that nothing runs that nobody waits for."""
    worker, frontend = both
    worker.wait_until_idle()
    assert len(frontend.stream(generation(max_tokens=3)).ids()) == 3
    frontend.wait_for_no_work()


@pytest.mark.parametrize(("service", "method"), METHODS)
def test_random_messages_are_answered(service, method, services):
    @BOUNDED
    @given(st.lists(requests_of(method), min_size=1, max_size=3))
    def fuzz(requests: list[bytes]) -> None:
        check(service, method, requests, services)

    fuzz()
    check_alive(services)


@pytest.mark.parametrize(("service", "method"), METHODS)
def test_random_bytes_are_answered(service, method, services):
    @BOUNDED
    @given(st.lists(BYTES, min_size=1, max_size=3))
    def fuzz(requests: list[bytes]) -> None:
        check(service, method, requests, services)

    fuzz()
    check_alive(services)


NO_MESSAGES = [b"\x0a\xff", b"\xff" * 9, b"\x0a\x02\xc3\x28"]
"""A length beyond the end, a tag without end, and a string that is no UTF-8 (if field 1 is one)."""


def is_message(method: MethodDescriptor, request: bytes) -> bool:
    try:
        message_factory.GetMessageClass(method.input_type).FromString(request)
    except DecodeError:
        return False
    return True


@pytest.mark.parametrize(("service", "method"), METHODS)
def test_bytes_that_are_no_message_are_refused(service, method, services):
    with table() as row:
        for request in NO_MESSAGES:
            if not is_message(method, request):
                with row(request.hex()):
                    status = status_of(client_of(service, services), method, [request])
                    assert status is grpc.StatusCode.INVALID_ARGUMENT


def varint(number: int) -> bytes:
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(high) if high else bytes([low])


@pytest.mark.parametrize(("service", "method"), METHODS)
def test_a_message_that_is_too_large_is_refused(service, method, services):
    size = 17 * 1024 * 1024
    unknown_field = varint(999 << 3 | 2) + varint(size) + b"x" * size
    assert is_message(method, unknown_field)
    status = status_of(client_of(service, services), method, [unknown_field])
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_after_all_of_it_both_services_serve(services):
    check_alive(services)
