"""What one call may carry: bytes of a request, of metadata, and of an error."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenwire import channel_arguments
from tokenwire.frontend.v1 import generation_pb2, model_pb2, tokenization_pb2
from tokenwire.worker.v1 import execution_pb2, worker_pb2
from tokenwire_service.errors import Code, InvalidRequestError, Quota, ServiceError
from tokenwire_service.errors import FieldViolation as Violation
from tokenwire_service.status import TRAILER_BYTES, from_status, to_status

from tests.frontend.frontend_here import frontend_of
from tests.services.calls import Frontend, generation, refusal_of
from tests.services.processes import MODEL_NAME, SERVING, WAIT_S, free_address, wait_for_health

# --- an error ------------------------------------------------------------------------------------

LETTERS = {
    "ASCII": "x",
    "percent": "%",
    "control": "\0",
    "two bytes": "\u00e9",
    "three bytes": "\u65e5",
    "four bytes": "\U0001f600",
    "no character": "\ud800",
}


def trailer_bytes(error: ServiceError) -> int:
    """Returns what the error takes in trailing metadata, as HTTP/2 counts it."""
    status = to_status(error)
    entries = {
        "grpc-status": "13",
        # Percent-encoded, but for printable ASCII.
        "grpc-message": "".join(
            chr(byte) if 0x20 <= byte < 0x7F and byte != ord("%") else f"%{byte:02X}"
            for byte in status.message.encode()
        ),
        "grpc-status-details-bin": "x" * -(-len(status.SerializeToString()) * 4 // 3),
    }
    return sum(len(key) + len(value) + 32 for key, value in entries.items())


@pytest.mark.parametrize("letter", LETTERS.values(), ids=LETTERS)
@pytest.mark.parametrize("length", [1, 100, 600, 5000, 200_000])
def test_an_error_fits_into_4_kib_of_trailers(letter, length):
    text = letter * length
    quota = Quota(text, text)
    metadata = {"a": text, "b": text, **{f"key-{number}": text for number in range(100)}}
    for error in (
        ServiceError(Code.INTERNAL, "X", text, retry_after_s=1.0, quota=quota, metadata=metadata),
        InvalidRequestError([Violation(text, text)] * 1000, metadata=metadata),
        InvalidRequestError([Violation(f"fields[{n}]", text) for n in range(5000)]),
    ):
        assert trailer_bytes(error) < TRAILER_BYTES
        again = from_status(to_status(error))
        assert again.code == error.code
        assert again.metadata.keys() <= metadata.keys()


def test_what_is_short_is_told_in_full():
    violations = [Violation("sampling.top_p", "is 2; at most 1"), Violation("n", "is 0")]
    error = InvalidRequestError(violations, metadata={"model": "demo"})
    told = from_status(to_status(error))
    assert list(told.violations) == violations
    assert told.message == "sampling.top_p: is 2; at most 1; n: is 0"
    assert told.metadata == {"model": "demo"}


def test_an_error_keeps_nothing_of_a_request_of_megabytes():
    text = "x" * 4_000_000
    error = InvalidRequestError([Violation("prompt", text)] * 1000, metadata={"model": text})
    kept = [error.message, *error.args, *error.metadata.values()]
    kept += [each.description for each in error.violations]
    assert sum(map(len, kept)) < 100_000


# --- a request -----------------------------------------------------------------------------------

LIMIT = channel_arguments.REQUEST_BYTES

UNLIMITED = [("grpc.max_send_message_length", -1)]


def text_of(size: int) -> generation_pb2.StreamGenerateRequest:
    """Returns a request of exactly so many bytes, which names no model that there is."""
    request = generation_pb2.StreamGenerateRequest(generation=generation("", model="none"))
    request.generation.prompt.text = "x" * (size - 64)
    request.generation.prompt.text += "x" * (size - request.ByteSize())
    assert request.ByteSize() == size
    return request


def test_a_request_of_the_limit_reaches_the_service_and_a_larger_one_names_it(frontend):
    with grpc.insecure_channel(frontend.address, UNLIMITED) as channel:
        method = channel.unary_stream("/tokenwire.frontend.v1.GenerationService/StreamGenerate")
        with pytest.raises(grpc.RpcError) as error:
            next(method(text_of(LIMIT).SerializeToString(), timeout=WAIT_S))
        assert refusal_of(error.value).reason == "UNKNOWN_MODEL"
        with pytest.raises(grpc.RpcError) as error:
            next(method(text_of(LIMIT + 1).SerializeToString(), timeout=WAIT_S))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"{LIMIT + 1} vs. {LIMIT}" in error.value.details()


STREAMS = [
    "tokenwire.frontend.v1.GenerationService/Session",
    "tokenwire.frontend.v1.TokenizationService/StreamTokenize",
    "tokenwire.frontend.v1.TokenizationService/StreamDetokenize",
    "tokenwire.worker.v1.ExecutionService/Exchange",
]


@pytest.mark.parametrize("method", STREAMS)
@pytest.mark.parametrize("hold", [False, True], ids=["closed", "held"])
async def test_a_message_beyond_the_limit_ends_a_stream(services, worker, method, hold):
    service = services[0] if ".worker." in method else services[1]
    size = LIMIT + channel_arguments.HOP_EXTRA_BYTES + 1
    async with grpc.aio.insecure_channel(service.address, UNLIMITED) as channel:
        call = channel.stream_stream(f"/{method}")(timeout=WAIT_S)
        await call.write(b"\0" * size)
        if not hold:
            await call.done_writing()
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"{size} vs." in await call.details()


async def test_the_limit_is_a_setting():
    async with frontend_of(free_address(), max_request_bytes=65536) as frontend:
        for size, code in [
            (65536, grpc.StatusCode.UNAVAILABLE),
            (65537, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ]:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await frontend.generations.StreamGenerate(text_of(size), timeout=WAIT_S).read()
            assert error.value.code() is code


def test_a_worker_takes_what_a_frontend_makes_of_the_largest_request(worker, frontend):
    """A frontend adds to what it passes on, and its hop carries everybody's."""
    ids = generation([300] * ((LIMIT - 64) // 2))
    request = generation_pb2.StreamGenerateRequest(generation=ids)
    assert LIMIT - 128 < request.ByteSize() <= LIMIT
    passed_on = execution_pb2.ExecuteRequest(
        request={"prompt_token_ids": ids.prompt.token_ids.ids, "request_id": "x" * 60_000}
    )
    assert passed_on.ByteSize() > LIMIT
    with pytest.raises(grpc.RpcError) as error:
        next(worker.execution.Execute(passed_on, timeout=WAIT_S))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# --- metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [1, 64])
def test_64_kib_of_metadata_are_taken_by_every_service(services, worker, entries):
    """Between its soft and its hard limit gRPC refuses at random: one call would show nothing."""
    value = "x" * (64 * 1024 // entries - len("authorization-00"))
    metadata = [(f"authorization-{number:02}", value) for number in range(entries)]
    worker_client, frontend_client = services
    for client in (worker_client, frontend_client):
        health = health_pb2_grpc.HealthStub(client.raw)
        for _ in range(40):
            health.Check(health_pb2.HealthCheckRequest(), metadata=metadata, timeout=WAIT_S)
    frontend_client.models.ListModels(
        model_pb2.ListModelsRequest(), metadata=metadata, timeout=WAIT_S
    )
    request = tokenization_pb2.TokenizeRequest(model=MODEL_NAME, text="Hello")
    frontend_client.tokenization.Tokenize(request, metadata=metadata, timeout=WAIT_S)
    worker_client.service.GetWorkerInfo(
        worker_pb2.GetWorkerInfoRequest(), metadata=metadata, timeout=WAIT_S
    )


def test_a_client_takes_64_kib_of_trailers():
    def handler(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata([("notes", "x" * (64 * 1024 - 5))])
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    methods = {"Method": grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tests.Service", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        options = channel_arguments.client(f"127.0.0.1:{port}")
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            for _ in range(40):
                channel.unary_unary("/tests.Service/Method")(b"", timeout=WAIT_S)
    finally:
        server.stop(None)


def test_details_are_what_google_says():
    error = ServiceError(Code.UNAVAILABLE, "DRAINING", "soon", retry_after_s=1.5)
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    first, second = to_status(error).details
    assert first.Unpack(info)
    assert second.Unpack(retry)
    assert (info.domain, info.reason) == ("tokenwire", "DRAINING")
    assert retry.retry_delay.ToMilliseconds() == 1500


# --- a proxy of the environment's ----------------------------------------------------------------


def test_a_proxy_stands_neither_between_a_frontend_and_its_workers_nor_on_loopback(processes):
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "grpc_proxy")
    nobody = {name: f"http://{free_address()}" for name in names}
    environment = {**nobody, "no_proxy": "", "NO_PROXY": ""}
    worker = processes.simulated(environment=environment)
    frontend = processes.frontend(workers=[worker], environment=environment)
    with Frontend(frontend.address) as client:
        wait_for_health(client.raw, SERVING)
    command = [sys.executable, "-m", "tokenwire_service.probe", frontend.address]
    done = subprocess.run(
        command, env={**os.environ, **environment}, check=False, capture_output=True, timeout=WAIT_S
    )
    assert done.returncode == 0, done


def test_a_reason_is_a_name_whatever_the_peer_says():
    """It is a metric's attribute and a span's, where a peer's invention would be kept."""
    for reason in ("x" * 1_000_000, "lower", "", "A" * 64, "NEW\nLINE"):
        status = to_status(ServiceError(Code.UNAVAILABLE, "DRAINING", "soon"))
        info = error_details_pb2.ErrorInfo(reason=reason, domain="tokenwire")
        status.details[0].Pack(info)
        assert from_status(status).reason == "UNKNOWN"
