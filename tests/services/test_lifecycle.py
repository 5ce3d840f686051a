"""Starting, being watched, being stopped: settings, health, reflection, drain, TLS."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tokenwire.frontend.v1 import generation_pb2
from tokenwire.worker.v1 import execution_pb2
from tokenwire_frontend.settings import FrontendSettings
from tokenwire_service.settings import parse

from tests.services.calls import (
    Frontend,
    Worker,
    endless,
    generation,
    read,
    read_to_first_token,
    refusal_of_status,
    refused,
)
from tests.services.processes import (
    MODEL,
    NOT_SERVING,
    SERVING,
    WAIT_S,
    Processes,
    free_address,
    wait_for_health,
)

EX_USAGE = 64

FRONTEND_SERVICES = [
    "tokenwire.frontend.v1.ActivityService",
    "tokenwire.frontend.v1.GenerationService",
    "tokenwire.frontend.v1.ModelService",
    "tokenwire.frontend.v1.TokenizationService",
]
WORKER_SERVICES = ["tokenwire.worker.v1.ExecutionService", "tokenwire.worker.v1.WorkerService"]


@pytest.fixture(scope="module")
def lasting():
    started = Processes()
    yield started
    started.end()


@pytest.fixture(scope="module")
def plain_worker(lasting):
    """A worker that the frontends of this file share; none of its tests harms it."""
    return lasting.worker()


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


def test_the_probe_tells_health_by_its_exit_code(own_frontend):
    started, _ = own_frontend
    for arguments, code in [
        ([started.address], 0),
        ([started.address, FRONTEND_SERVICES[0]], 0),
        ([started.address, "no.such.Service"], 1),
        (["127.0.0.1:1"], 1),
        ([], 64),
        (["127.0.0.1"], 64),
        ([started.address, "", "surplus"], 64),
        ([started.address, "--tls-ca", "/no/such/file"], 64),
        ([started.address, "--tls-key", "/no/such/file"], 64),
    ]:
        check_probe(arguments, code)


def check_probe(arguments: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tokenwire_service.probe", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == code, done
    assert len(done.stdout.splitlines()) <= 2
    assert "Traceback" not in done.stderr


# --- stopping ------------------------------------------------------------------------------------


def check_draining(refusal) -> None:
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.reason == "DRAINING"
    assert refusal.info.domain == "tokenwire"
    assert refusal.retry_after_s is not None


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


def test_an_idle_frontend_stops_at_once_and_well(own_frontend):
    started, _ = own_frontend
    started.terminate()
    assert started.wait() == 0
    assert "Traceback" not in started.output


def test_sigint_stops_it_as_well(own_frontend):
    started, _ = own_frontend
    started.process.send_signal(signal.SIGINT)
    assert started.wait() == 0
    assert "Traceback" not in started.output


def test_both_stop_when_they_are_told_at_once(processes):
    """As a machine that shuts down does; the worker's streams end while the frontends stop."""
    worker = processes.worker()
    frontends = [processes.frontend(workers=[worker]) for _ in range(3)]
    for each in frontends:
        each.wait_for("worker", state="ready")
    for each in (worker, *frontends):
        each.terminate()
    assert [each.wait() for each in (*frontends, worker)] == [0, 0, 0, 0]


def test_what_does_not_finish_within_the_grace_is_ended(processes, plain_worker):
    started = processes.frontend("--drain-grace-s", "0.5", workers=[plain_worker])
    with Frontend(started.address) as client, Worker(plain_worker.address) as worker:
        wait_for_health(client.raw, SERVING)
        with client.session() as session:
            session.open(1, endless())
            call = client.start(endless())
            read_to_first_token(call)
            session.read_until(lambda: bool(session[1].deltas))
            started.terminate()
            check_draining(refused(lambda: call))
            check_draining(refusal_of_status(session.finish(1)[0].error))
        assert started.wait() == 0
        worker.wait_until_idle()


def test_sigterm_lets_the_worker_finish_what_it_has(processes):
    started = processes.worker()
    with Worker(started.address) as worker:
        request = execution_pb2.ExecuteRequest(
            request={
                "prompt_token_ids": [5, 6],
                "stopping": {"max_tokens": 250, "ignore_eos": True},
            }
        )
        call = worker.execution.Execute(request, timeout=WAIT_S)
        next(call)
        wait_for_health(worker.raw, NOT_SERVING, while_waiting=started.terminate)
        check_draining(refused(lambda: worker.execution.Execute(request, timeout=WAIT_S)))
        events = list(call)
        assert sum(len(event.tokens.token_ids) for event in events) == 250
        assert events[-1].completed.completion_tokens == 250
    assert started.wait() == 0
    assert "Traceback" not in started.output


# --- settings ------------------------------------------------------------------------------------


def test_the_environment_sets_what_the_command_line_does_not(processes, plain_worker):
    address = free_address()
    started = processes.run(
        "tokenwire_frontend",
        ["--log-format", "json"],
        {
            "TOKENWIRE_FRONTEND_WORKERS": f'["{plain_worker.address}"]',
            "TOKENWIRE_FRONTEND_LISTEN": address,
            "TOKENWIRE_FRONTEND_GENERATIONS_LIMIT": "1",
            "TOKENWIRE_FRONTEND_LOG_FORMAT": "text",
        },
    )
    assert started.address == address
    with Frontend(started.address) as client:
        wait_for_health(client.raw, SERVING)
        running = client.start(endless())
        read_to_first_token(running)
        assert refused(lambda: client.stream(generation())).reason == "TOO_MANY_GENERATIONS"
        running.cancel()


@pytest.fixture(scope="module")
def taken():
    """An address that something else listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def check_refused(process, setting: str) -> None:
    """Checks that the process ends with 64 and one readable line that names the setting."""
    assert process.wait() == EX_USAGE, process.output
    assert setting in process.output
    assert "Traceback" not in process.output
    assert process.output.strip()


ONE = ["--worker", "127.0.0.1:50061"]


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        ([], "--worker"),
        ([*ONE, "--no-such-setting", "1"], "--no-such-setting"),
        (["--worker", "no-port"], "--worker"),
        (["--worker", ""], "--worker"),
        ([*ONE, "--listen", "no.such.host.invalid:0"], "--listen"),
        ([*ONE, "--generations-limit", "0"], "--generations-limit"),
        ([*ONE, "--tls.ca", "/no/such/file"], "--tls"),
        ([*ONE, "--tls.certificate", "/no/file", "--tls.key", "/no/file"], "--tls.key"),
        ([*ONE, "--tls.key", "/no/such/file"], "--tls.certificate"),
        ([*ONE, "--worker-tls.ca", "/no/such/file"], "--worker-tls.ca"),
        ([*ONE, "--worker-tls.key", "/no/such/file"], "--worker-tls"),
    ],
)
def test_a_frontend_started_wrongly_ends_with_64_and_the_setting(processes, arguments, setting):
    arguments = ["--listen", "127.0.0.1:0", *arguments]
    check_refused(processes.run("tokenwire_frontend", arguments), setting)


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (["surplus"], "surplus"),
        (["--worker", "host:port"], "--worker"),
        (["--worker", "127.0.0.1:99999"], "--worker"),
        (["--listen", "127.0.0.1"], "--listen"),
        (["--listen", "127.0.0.1:70000"], "--listen"),
        (["--generations-limit", "many"], "--generations-limit"),
        (["--tokenizer-threads", "0"], "--tokenizer-threads"),
        (["--tokenizer-waiting-limit", "0"], "--tokenizer-waiting-limit"),
        (["--drain-grace-s", "-1"], "--drain-grace-s"),
        (["--drain-grace-s", "nan"], "--drain-grace-s"),
        (["--log-level", "loud"], "--log-level"),
        (["--log-format", "xml"], "--log-format"),
    ],
)
def test_a_bad_value_of_each_setting_is_refused_by_its_name(arguments, setting, capsys):
    """The parser that the processes above run, without the processes."""
    with pytest.raises(SystemExit) as exit_:
        parse(FrontendSettings, "tokenwire-frontend", [*ONE, *arguments])
    assert exit_.value.code == EX_USAGE
    assert setting in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("TOKENWIRE_FRONTEND_LISTEN", "nowhere", "listen"),
        ("TOKENWIRE_FRONTEND_GENERATIONS_LIMIT", "-3", "generations"),
        ("TOKENWIRE_FRONTEND_WORKERS", "not json", "TOKENWIRE_FRONTEND_WORKERS"),
    ],
)
def test_a_bad_variable_ends_with_64_and_its_name(processes, name, value, setting):
    arguments = [] if name.endswith("WORKERS") else ONE
    check_refused(processes.run("tokenwire_frontend", arguments, {name: value}), setting)


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        ([], "--model"),
        (["--model", "/no/such/folder"], "--model"),
        (["--model", str(Path(__file__).parent)], "--model"),
        (["--model", str(MODEL), "--listen", "nowhere"], "--listen"),
        (["--model", str(MODEL), "--engine", "steam"], "--engine"),
        (["--model", str(MODEL), "--no-such-setting", "1"], "--no-such-setting"),
        (["--model", str(MODEL), "--max-waiting-requests", "-1"], "--max-waiting-requests"),
        (
            ["--model", str(MODEL), "--openvino.max-sequences", "0"],
            "--openvino.max-sequences",
        ),
        (["--model", str(MODEL), "--tls.key", "/no/such/file"], "--tls"),
    ],
)
def test_a_worker_started_wrongly_ends_with_64_and_the_setting(processes, arguments, setting):
    check_refused(processes.run("tokenwire_worker", arguments), setting)


@pytest.mark.parametrize("module", ["tokenwire_frontend", "tokenwire_worker"])
def test_a_port_that_is_taken_ends_with_64(processes, taken, module):
    own = ONE if module.endswith("frontend") else ["--model", str(MODEL)]
    check_refused(processes.run(module, [*own, "--listen", taken]), "--listen")


@pytest.mark.parametrize("module", ["tokenwire_frontend", "tokenwire_worker"])
def test_help_is_no_error(processes, module):
    assert processes.run(module, ["--help"]).wait() == 0


# --- TLS -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pki:
    """An authority, and a certificate of it for 127.0.0.1; `other` is one of another authority."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def settings(self, side: str, *, ca: bool = True) -> list[str]:
        """Returns the settings `--SIDE.certificate` and so on."""
        own = [f"--{side}.certificate", self.path("own.pem"), f"--{side}.key", self.path("own.key")]
        return [*own, *((f"--{side}.ca", self.path("ca.pem")) if ca else ())]

    def credentials(self, *, own: str = "", ca: str = "ca.pem") -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            self.read(ca),
            self.read(f"{own}.key") if own else None,
            self.read(f"{own}.pem") if own else None,
        )


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")

    def path(name: str) -> str:
        return str(folder / name)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for authority, name in (("ca", "own"), ("other-ca", "other")):
        openssl(
            *("req", "-x509", *new_key, "-days", "2", "-subj", f"/CN={authority}"),
            *("-keyout", path(f"{authority}.key"), "-out", path(f"{authority}.pem")),
        )
        openssl(
            *("req", *new_key, "-subj", f"/CN={name}"),
            *("-keyout", path(f"{name}.key"), "-out", path(f"{name}.csr")),
        )
        openssl(
            *("x509", "-req", "-days", "2", "-in", path(f"{name}.csr")),
            *("-CA", path(f"{authority}.pem"), "-CAkey", path(f"{authority}.key")),
            *("-CAcreateserial", "-extfile", path("names"), "-out", path(f"{name}.pem")),
        )
    return Pki(folder)


def check_unreachable(address: str, credentials: grpc.ChannelCredentials | None) -> None:
    with Frontend(address, credentials) as client, pytest.raises(grpc.RpcError) as failure:
        client.model()
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_on_both_hops(processes, pki):
    worker = processes.worker(*pki.settings("tls", ca=False))
    started = processes.frontend(
        *pki.settings("tls", ca=False), "--worker-tls.ca", pki.path("ca.pem"), workers=[worker]
    )
    with Frontend(started.address, pki.credentials()) as client:
        wait_for_health(client.raw, SERVING)
        assert len(client.stream(generation(max_tokens=5)).ids()) == 5
    check_unreachable(started.address, None)
    check_unreachable(started.address, pki.credentials(ca="other-ca.pem"))
    # A frontend that is told nothing of TLS does not reach the worker.
    plain = processes.frontend(workers=[worker])
    plain.wait_for("worker", state="connecting")
    with Frontend(plain.address) as client:
        assert refused(client.model).reason == "NO_WORKER"


def test_mutual_tls_on_both_hops(processes, pki):
    worker = processes.worker(*pki.settings("tls"))
    started = processes.frontend(
        *pki.settings("tls"), *pki.settings("worker-tls"), workers=[worker]
    )
    with Frontend(started.address, pki.credentials(own="own")) as client:
        wait_for_health(client.raw, SERVING)
        assert len(client.stream(generation(max_tokens=5)).ids()) == 5
    check_unreachable(started.address, pki.credentials())
    check_unreachable(started.address, pki.credentials(own="other"))
    authority = ["--tls-ca", pki.path("ca.pem")]
    own = ["--tls-certificate", pki.path("own.pem"), "--tls-key", pki.path("own.key")]
    check_probe([started.address, *authority, *own], 0)
    check_probe([started.address, *authority], 1)
    check_probe([started.address], 1)
    # A frontend that shows the worker no certificate does not reach it.
    bare = processes.frontend("--worker-tls.ca", pki.path("ca.pem"), workers=[worker])
    bare.wait_for("worker", state="connecting")
    with Frontend(bare.address) as client:
        assert refused(client.model).reason == "NO_WORKER"


@pytest.mark.parametrize(
    ("side", "name"),
    [("tls", "certificate"), ("tls", "key"), ("tls", "ca"), ("worker-tls", "ca")],
)
def test_a_file_that_is_no_certificate_ends_with_64(processes, pki, side, name):
    broken = pki.folder / "broken.pem"
    broken.write_text("-----BEGIN NOTHING-----\n")
    settings = [*pki.settings(side), f"--{side}.{name}", str(broken)]
    check_refused(
        processes.run("tokenwire_frontend", [*ONE, "--listen", "127.0.0.1:0", *settings]),
        f"--{side}",
    )


def test_a_key_of_another_certificate_ends_with_64(processes, pki):
    settings = ["--tls.certificate", pki.path("own.pem"), "--tls.key", pki.path("other.key")]
    check_refused(
        processes.run("tokenwire_frontend", [*ONE, "--listen", "127.0.0.1:0", *settings]), "--tls"
    )


def test_the_same_stream_reads_the_same_over_tls(processes, pki, frontend, plain_worker):
    started = processes.frontend(*pki.settings("tls", ca=False), workers=[plain_worker])
    with Frontend(started.address, pki.credentials()) as client:
        wait_for_health(client.raw, SERVING)
        call = client.start(generation("One, two,", 30))
        assert read(call).text() == frontend.stream(generation("One, two,", 30)).text()
