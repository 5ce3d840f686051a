"""Being watched and being stopped: health, reflection, drain."""

from __future__ import annotations

import signal

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tokenwire.frontend.v1 import generation_pb2
from tokenwire_service import probe

from tests.services.calls import (
    Frontend,
    check_draining,
    endless,
    generation,
    read_to_first_token,
    refusal_of_status,
    refused,
)
from tests.services.processes import (
    NOT_SERVING,
    SERVING,
    WAIT_S,
    check_probe,
    wait_for_health,
)

FRONTEND_SERVICES = [
    "tokenwire.frontend.v1.ActivityService",
    "tokenwire.frontend.v1.GenerationService",
    "tokenwire.frontend.v1.ModelService",
    "tokenwire.frontend.v1.TokenizationService",
]
WORKER_SERVICES = [
    "tokenwire.worker.v1.AdminService",
    "tokenwire.worker.v1.ExecutionService",
    "tokenwire.worker.v1.WorkerService",
]


@pytest.fixture
def own_frontend(processes, plain_worker):
    """A frontend of the test's own, serving: (process, client)."""
    started = processes.frontend(workers=[plain_worker])
    with Frontend(started.address) as client:
        wait_for_health(client.raw, SERVING)
        yield started, client


# --- health and reflection -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "names"), [("frontend", FRONTEND_SERVICES), ("worker", WORKER_SERVICES)]
)
def test_health_is_told_by_service_and_for_all(which, names, frontend, worker):
    client = {"frontend": frontend, "worker": worker}[which]
    stub = health_pb2_grpc.HealthStub(client.raw)
    for service in ("", *names):
        request = health_pb2.HealthCheckRequest(service=service)
        assert stub.Check(request, timeout=WAIT_S).status == SERVING
        watch = stub.Watch(request, timeout=WAIT_S)
        assert next(watch).status == SERVING
        watch.cancel()
    unknown = health_pb2.HealthCheckRequest(service="no.such.Service")
    with pytest.raises(grpc.RpcError) as failure:
        stub.Check(unknown, timeout=WAIT_S)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("which", "names"), [("frontend", FRONTEND_SERVICES), ("worker", WORKER_SERVICES)]
)
@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_and_describes_the_services(which, names, version, frontend, worker):
    client = {"frontend": frontend, "worker": worker}[which]
    # The messages of both versions are the same on the wire.
    call = client.raw.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")] + [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=service) for service in names
    ]
    listing, *described = call(iter(requests), timeout=WAIT_S)
    listed = {each.name for each in listing.list_services_response.service}
    own = {"grpc.health.v1.Health", f"grpc.reflection.{version}.ServerReflection"}
    assert listed >= {*names, *own}
    for service, answer in zip(names, described, strict=True):
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(each)
            for each in answer.file_descriptor_response.file_descriptor_proto
        ]
        assert service in {f"{file.package}.{each.name}" for file in files for each in file.service}


def test_the_probe_tells_health_by_its_exit_code(frontend):
    for arguments, code in [
        ([frontend.address], 0),
        ([frontend.address, FRONTEND_SERVICES[0]], 0),
        ([frontend.address, "no.such.Service"], 1),
        (["127.0.0.1:1"], 1),
        ([], 64),
        (["127.0.0.1"], 64),
        ([frontend.address, "", "surplus"], 64),
        ([frontend.address, "--tls-ca", "/no/such/file"], 64),
        ([frontend.address, "--tls-key", "/no/such/file"], 64),
    ]:
        check_probe(arguments, code)


def test_the_probe_says_how_long_it_waited_for_nobody(monkeypatch, capsys):
    monkeypatch.setattr(probe, "TIMEOUT_S", 0.1)
    assert probe.main(["127.0.0.1:1"]) == 1
    assert capsys.readouterr().err == "127.0.0.1:1: no answer within 0.1 s\n"


# --- stopping ------------------------------------------------------------------------------------


def test_sigterm_lets_the_frontend_finish_what_it_has(own_frontend):
    started, client = own_frontend
    with client.session() as session:
        streamed = client.start(generation("One, two,", 250))
        whole = client.generations.Generate.future(
            generation_pb2.GenerateRequest(generation=generation("Three, four,", 250))
        )
        session.open(1, generation("Five, six,", 250))
        begun = read_to_first_token(streamed)
        session.read_until(lambda: bool(session[1].deltas))
        wait_for_health(client.raw, NOT_SERVING, while_waiting=started.terminate)
        # What is new is refused, by every entry point, the open session too.
        check_draining(refused(lambda: client.generate(generation())))
        check_draining(refused(lambda: client.stream(generation())))
        session.open(2, generation())
        check_draining(refusal_of_status(session.finish(2)[0].error))
        for service in FRONTEND_SERVICES:
            wait_for_health(client.raw, NOT_SERVING, service)
        for event in streamed:
            begun.take(event)
        assert len(begun.ids()) == 250
        assert len(whole.result().sequences[0].token_ids) == 250
        assert len(session.finish(1)[0].ids()) == 250
        session.close_sending()
    assert started.wait() == 0


def test_ctrl_c_stops_it_as_well(own_frontend):
    started, frontend = own_frontend
    streamed = frontend.start(generation("One day", 250))
    begun = read_to_first_token(streamed)
    started.process.send_signal(signal.SIGINT)
    for event in streamed:
        begun.take(event)
    assert len(begun.ids()) == 250, "what is in flight finishes"
    assert started.wait() == 0
    assert "Traceback" not in started.output


def test_nohup_keeps_it_running(processes, plain_worker):
    """As nohup does, SIGHUP is ignored before the service starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        started = processes.frontend(workers=[plain_worker])
        with Frontend(started.address) as client:
            wait_for_health(client.raw, SERVING)
            started.process.send_signal(signal.SIGHUP)
            assert len(client.stream(generation("One day", 5)).ids()) == 5
    finally:
        signal.signal(signal.SIGHUP, before)
    assert started.events(event="draining") == []


def test_both_stop_when_they_are_told_at_once(processes):
    """As a machine that shuts down does; the worker's streams end while the frontends stop."""
    worker = processes.simulated()
    frontends = [processes.frontend(workers=[worker]) for _ in range(2)]
    for each in frontends:
        each.wait_for("worker", state="ready")
    for each in (worker, *frontends):
        each.terminate()
    assert [each.wait() for each in (*frontends, worker)] == [0, 0, 0]
    assert not any("Traceback" in each.output for each in (*frontends, worker))


def test_a_second_ctrl_c_waits_for_nothing(own_frontend):
    started, client = own_frontend
    call = client.start(endless())
    read_to_first_token(call)
    started.process.send_signal(signal.SIGINT)
    started.wait_for("draining")
    started.process.send_signal(signal.SIGINT)
    assert started.wait() == -signal.SIGINT
    with pytest.raises(grpc.RpcError):
        list(call)
