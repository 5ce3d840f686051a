"""TLS and mutual TLS on both hops."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
from tokenwire.cli.main import main
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import generation_pb2_grpc, model_pb2
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.workers import link as link_module
from tokenwire_service import watching
from tokenwire_service.settings import ServerTlsSettings, TlsSettings

from tests.frontend.frontend_here import FrontendHere, frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.services.calls import Frontend, generation, refusal_of, status_of_empty
from tests.services.fields import methods, path_of
from tests.services.processes import (
    SERVING,
    WAIT_S,
    check_probe,
    free_address,
    wait_for_health,
)
from tests.table import table

START = ["--worker", "127.0.0.1:50061", "--listen", "127.0.0.1:0"]


@dataclass(frozen=True)
class Pki:
    """An authority, and certificates of it for 127.0.0.1; `other` is one of another authority."""

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
    for authority in ("ca", "other-ca"):
        openssl(
            *("req", "-x509", *new_key, "-days", "2", "-subj", f"/CN={authority}"),
            *("-keyout", path(f"{authority}.key"), "-out", path(f"{authority}.pem")),
        )
    for authority, name in (("ca", "own"), ("ca", "second"), ("other-ca", "other")):
        uri = f"URI:spiffe://test/{name}"
        (folder / "names").write_text(f"subjectAltName=IP:127.0.0.1,DNS:localhost,{uri}\n")
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


async def check_out_of_reach(worker: str, **settings: Any) -> None:
    """Checks that a frontend of these settings does not reach the worker, and tells so."""
    async with frontend_of(worker, **settings) as frontend:
        await until(lambda: frontend.link(worker).state_reason)
        assert frontend.link(worker).state is LinkState.CONNECTING
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await frontend.models.GetModel(model_pb2.GetModelRequest())
        assert refusal_of(failure.value).reason == "NO_WORKER"


def test_tls_on_both_hops(processes, pki, frontend):
    worker = processes.worker(*pki.settings("tls", ca=False))
    started = processes.frontend(
        *pki.settings("tls", ca=False), "--worker-tls.ca", pki.path("ca.pem"), workers=[worker]
    )
    with Frontend(started.address, pki.credentials()) as client:
        wait_for_health(client.raw, SERVING)
        # The same stream reads the same.
        told = client.stream(generation("One, two,", 30))
        assert told.text() == frontend.stream(generation("One, two,", 30)).text()
    check_unreachable(started.address, None)
    check_unreachable(started.address, pki.credentials(ca="other-ca.pem"))
    asyncio.run(check_out_of_reach(worker.address))


def test_mutual_tls_on_both_hops(processes, pki):
    worker = processes.simulated(*pki.settings("tls"))
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
    bare = TlsSettings(ca=Path(pki.path("ca.pem")))
    asyncio.run(check_out_of_reach(worker.address, worker_tls=bare))


@pytest.mark.parametrize(
    ("side", "name"),
    [("tls", "certificate"), ("tls", "key"), ("tls", "ca"), ("worker-tls", "ca")],
)
def test_a_file_that_is_no_certificate_ends_with_64(main_here, pki, side, name):
    broken = pki.folder / "broken.pem"
    broken.write_text("-----BEGIN NOTHING-----\n")
    settings = [*pki.settings(side), f"--{side}.{name}", str(broken)]
    main_here("tokenwire_frontend", *START, *settings).check_refused(f"--{side}")


def test_a_key_of_another_certificate_ends_with_64(main_here, pki):
    settings = ["--tls.certificate", pki.path("own.pem"), "--tls.key", pki.path("other.key")]
    main_here("tokenwire_frontend", *START, *settings).check_refused("--tls")


@dataclass(frozen=True)
class ChannelFiles:
    """The files of a channel's TLS, as somebody renews them."""

    folder: Path

    def settings(self) -> TlsSettings:
        return TlsSettings(
            certificate=self.folder / "own.pem",
            key=self.folder / "own.key",
            ca=self.folder / "ca.pem",
        )

    def put(self, pki: Pki, *, own: str, ca: str) -> None:
        for name, source in (("own.pem", f"{own}.pem"), ("own.key", f"{own}.key"), ("ca.pem", ca)):
            shutil.copy(pki.path(source), self.folder / name)


async def test_a_frontend_reaches_its_workers_with_renewed_files(
    lasting, pki, tmp_path, monkeypatch
):
    """The next connection has them; with those of another authority none comes about."""
    monkeypatch.setattr(link_module, "RECONNECT_FIRST_S", 0.0)
    worker = lasting.simulated(*pki.settings("tls")).address
    files = ChannelFiles(tmp_path)
    files.put(pki, own="own", ca="other-ca.pem")
    async with frontend_of(worker, worker_tls=files.settings()) as frontend:
        link = frontend.link(worker)
        await until(lambda: link.state_reason)
        for own, ca, state in (
            ("other", "ca.pem", LinkState.CONNECTING),
            ("own", "ca.pem", LinkState.READY),
        ):
            files.put(pki, own=own, ca=ca)
            before = link.state_reason
            frontend._files.reload()
            await until(lambda: link.state_reason != before)  # noqa: B023 - called at once
            await frontend.wait_for(worker, state)


async def test_a_call_is_forwarded_over_mutual_tls(pki, tmp_path):
    """With the files as they are then; one whose peers are not to be trusted reaches none."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    tls = {
        "certificate": pki.path("own.pem"),
        "key": pki.path("own.key"),
        "ca": pki.path("ca.pem"),
    }
    owner_at, other_at = free_address(), free_address()
    fleet = {"tls": ServerTlsSettings(**tls), "fleet_key": key}
    files = ChannelFiles(tmp_path)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        worker = await enter(ScriptedWorker())
        worker.script = lambda stream, submit: stream.generate(submit.handle, 300, 301)
        owner = await enter(
            frontend_of(worker, listen=owner_at, advertise_address=owner_at, **fleet)
        )
        await owner.wait_for(worker, LinkState.READY)

        async def stub(address: str) -> Any:
            credentials = pki.credentials(own="own")
            channel = await enter(grpc.aio.secure_channel(address, credentials))
            return generation_pb2_grpc.GenerationServiceStub(channel)

        what = generation([7, 8], 2, on_disconnect=fg.ON_DISCONNECT_DETACH)
        call = (await stub(owner_at)).StreamGenerate(fg.StreamGenerateRequest(generation=what))
        asked = fg.AttachRequest(resume_token=(await call.read()).accepted.resume_token)
        peers = {"advertise_address": other_at, "peer": [owner_at], **fleet}

        async def attached(frontend: FrontendHere) -> list[str] | str:
            """Returns the events of a call that is forwarded, or why it is refused."""
            call = (await stub(frontend.server.address)).Attach(asked, timeout=WAIT_S)
            try:
                return [event.WhichOneof("event") async for event in call]
            except grpc.aio.AioRpcError as error:
                return refusal_of(error).reason

        files.put(pki, own="own", ca="other-ca.pem")
        trusting = await enter(
            frontend_of(worker, listen=other_at, peer_tls=files.settings(), **peers)
        )
        assert await attached(trusting) == "OWNER_UNREACHABLE"
        connections = trusting.relay._connections
        [first] = connections.values()
        for own, expected in (
            ("other", "OWNER_UNREACHABLE"),
            ("own", ["accepted", "delta", "completed"]),
        ):
            files.put(pki, own=own, ca="ca.pem")
            before = trusting.relay._credentials()
            trusting._files.reload()
            await until(lambda: trusting.relay._credentials() is not before)  # noqa: B023
            assert await attached(trusting) == expected
        assert first not in connections.values()
        assert first.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        assert [each.calls for each in connections.values()] == [0]
        plain = await enter(frontend_of(worker, **peers))
        assert await attached(plain) == "OWNER_UNREACHABLE"


# --- who may call --------------------------------------------------------------------------------


def test_no_rpc_of_a_worker_lets_in_another_certificate(lasting, pki):
    names = (
        *("--tls.client-names", "spiffe://test/frontend", "--tls.client-names", "frontend.test"),
        *("--tls.admin-names", "spiffe://test/second"),
    )
    worker = lasting.simulated(*pki.settings("tls"), *names)
    paths = [*map(path_of, methods("worker"))]
    paths.append("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    unreachable = grpc.StatusCode.UNAVAILABLE, ""
    denied = grpc.StatusCode.PERMISSION_DENIED, "CLIENT_NOT_ALLOWED"
    with table() as row:
        for name, credentials, expected in [
            ("plain text", None, unreachable),
            ("no certificate", pki.credentials(), unreachable),
            ("another authority's", pki.credentials(own="other"), unreachable),
            ("another name", pki.credentials(own="own"), denied),
            ("an administrator's name", pki.credentials(own="second"), denied),
        ]:
            with Frontend(worker.address, credentials) as client:
                for path in paths:
                    admitted = "administrator" in name and "AdminService" in path
                    with row(f"{path} with {name}"):
                        assert (status_of_empty(client.raw, path) == expected) != admitted
    with Frontend(worker.address, pki.credentials(own="own")) as client:
        wait_for_health(client.raw, SERVING)  # which anybody with a certificate may ask


def test_nobody_administers_a_worker_that_knows_its_callers_and_no_administrator(
    lasting, pki, capsys
):
    worker = lasting.simulated(*pki.settings("tls"))
    own = ("--tls-ca", pki.path("ca.pem"), "--tls-certificate", pki.path("own.pem"))
    listed = ["lora", "list", "--target", worker.address, *own, "--tls-key", pki.path("own.key")]
    assert main(listed) == 1
    assert "has none of the names of --tls.admin-names" in capsys.readouterr().err


async def test_a_frontend_knows_callers_by_their_certificates(pki):
    """One whose name is not among the accepted is refused, and the others are tenants."""
    tls = ServerTlsSettings(
        certificate=Path(pki.path("own.pem")),
        key=Path(pki.path("own.key")),
        ca=Path(pki.path("ca.pem")),
        client_names=["spiffe://test/second"],
    )
    async with (
        ScriptedWorker() as worker,
        frontend_of(worker, tls=tls, openai_listen="127.0.0.1:0") as frontend,
    ):
        await frontend.wait_for(worker, LinkState.READY)
        worker.script = lambda stream, submit: stream.generate(submit.handle, 300)

        async def answer(own: str) -> Any:
            credentials = pki.credentials(own=own)
            async with grpc.aio.secure_channel(frontend.server.address, credentials) as channel:
                stub = generation_pb2_grpc.GenerationServiceStub(channel)
                request = fg.GenerateRequest(generation=generation([7], 1, request_id=own))
                return await stub.Generate(request, timeout=WAIT_S)

        await answer("second")
        [record] = frontend.generator._recorder.activity.latest(9)
        assert record.tenant == "spiffe://test/second"
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await answer("own")
        assert refusal_of(failure.value).reason == "CLIENT_NOT_ALLOWED"

        async def asked_over_http(own: str) -> httpx2.Response:
            context = ssl.create_default_context(cafile=pki.path("ca.pem"))
            if own:
                context.load_cert_chain(pki.path(f"{own}.pem"), pki.path(f"{own}.key"))
            url = f"https://{frontend.openai.address}/v1/completions"
            async with httpx2.AsyncClient(verify=context, timeout=WAIT_S) as client:
                return await client.post(url, json={"prompt": [7], "max_tokens": 1})

        assert (await asked_over_http("second")).status_code == 200
        assert frontend.generator._recorder.activity.latest(9)[-1].tenant == record.tenant
        assert (await asked_over_http("own")).json()["error"]["code"] == "client_not_allowed"
        for stranger in ("", "other"):
            with pytest.raises(httpx2.TransportError):
                await asked_over_http(stranger)


async def test_certificates_are_renewed_without_a_restart(pki, tmp_path, monkeypatch):
    """New connections show and use the new ones; those that exist stay."""
    monkeypatch.setattr(watching, "POLL_S", 0.01)
    monkeypatch.setattr(link_module, "RECONNECT_FIRST_S", 0.0)
    files = {"certificate": tmp_path / "own.pem", "key": tmp_path / "own.key"}

    def put(name: str) -> None:
        for setting, path in files.items():
            shutil.copy(pki.path(f"{name}.{'pem' if setting == 'certificate' else 'key'}"), path)

    def shown(address: str) -> str:
        """Returns whose certificate a new connection is shown."""
        context = ssl.create_default_context(cafile=pki.path("ca.pem"))
        host, _, port = address.rpartition(":")
        with (
            socket.create_connection((host, int(port))) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            told = wrapped.getpeercert()
            assert told is not None
            return next(name for kind, name in told["subjectAltName"] if kind == "URI")

    async def until_shown(address: str, name: str) -> None:
        while await asyncio.to_thread(shown, address) != f"spiffe://test/{name}":
            pass

    put("own")
    async with (
        ScriptedWorker() as worker,
        frontend_of(
            worker, tls=ServerTlsSettings(**files), openai_listen="127.0.0.1:0"
        ) as frontend,
        grpc.aio.secure_channel(frontend.server.address, pki.credentials()) as channel,
    ):
        session = generation_pb2_grpc.GenerationServiceStub(channel).Session(timeout=WAIT_S)

        async def is_served() -> bool:
            await session.write(fg.SessionRequest())
            return (await session.read()).events[0].HasField("error")

        assert await is_served()
        await until_shown(frontend.server.address, "own")
        files["certificate"].write_text("half a cert")
        await until_shown(frontend.server.address, "own")
        put("second")
        await until_shown(frontend.server.address, "second")
        await until_shown(frontend.openai.address, "second")
        assert await is_served(), "the connection stays"
        session.cancel()
