"""TLS, with certificates made for the occasion."""

import shutil
import subprocess

import grpc
import pytest
from tokenwire import AsyncClient, Client, RetryPolicy, Tls, UnreachableError
from tokenwire.cli.main import main

from tests.client.bench.server import BenchServer
from tests.client.scripted_server import ScriptedServer

OPENSSL = shutil.which("openssl")
ONCE = RetryPolicy(attempts=1)

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client"):
        arguments = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name}".split()
        paths = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"]
        names = ["-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([OPENSSL, *arguments, *paths, *names], check=True, capture_output=True)
    return folder


def credentials(files, mutual):
    pair = [((files / "server.key").read_bytes(), (files / "server.pem").read_bytes())]
    authorities = (files / "client.pem").read_bytes() if mutual else None
    return grpc.ssl_server_credentials(pair, authorities, mutual)


def test_load_processes_speak_tls(files, tmp_path):
    server = BenchServer(credentials=credentials(files, mutual=True))
    own = ["--tls-certificate", str(files / "client.pem"), "--tls-key", str(files / "client.key")]
    tls = ["--target", server.address, "--tls-ca", str(files / "server.pem"), *own]
    short = ["--duration", "0.2", "--warmup", "0", "--call", "stream", "--concurrency", "1"]
    try:
        assert main(["bench", "wire", *short, *tls, "--out", str(tmp_path / "bench")]) == 0
    finally:
        server.stop()


@pytest.fixture(params=[False, True], ids=["tls", "mutual"])
def mutual(request):
    return request.param


@pytest.fixture
def secure_server(files, mutual):
    running = ScriptedServer(credentials(files, mutual))
    yield running
    running.stop()


@pytest.fixture
def tls(files, mutual):
    own = (files / "client.pem", files / "client.key") if mutual else (None, None)
    return Tls(files / "server.pem", *own)


async def test_both_clients_speak_tls(secure_server, tls):
    with Client(secure_server.address, tls=tls) as client:
        assert client.model().name == "demo"
    async with AsyncClient(secure_server.address, tls=tls) as client:
        assert (await client.model()).name == "demo"


def test_the_command_line_speaks_tls(secure_server, files, mutual, capsys):
    own = ["--tls-certificate", str(files / "client.pem"), "--tls-key", str(files / "client.key")]
    tls = ["--tls-ca", str(files / "server.pem"), *(own if mutual else [])]
    assert main(["models", "--target", secure_server.address, *tls]) == 0
    assert "demo" in capsys.readouterr().out


def test_a_certificate_of_someone_else_is_not_trusted(secure_server, files):
    other = Tls(files / "client.pem")
    client = Client(secure_server.address, tls=other, retry=ONCE)
    with client, pytest.raises(UnreachableError):
        client.models()


def test_the_command_line_says_in_one_line_why_there_is_no_tls(secure_server, files, capsys):
    tls = ["--tls-ca", str(files / "client.pem")]
    assert main(["models", "--target", secure_server.address, *tls]) == 69
    assert capsys.readouterr().err == (
        f"tokenwire: no connection to {secure_server.address}: "
        "its certificate is not trusted: self signed certificate\n"
    )


def test_the_command_line_asks_for_tls_where_a_server_closes_plain_connections(
    secure_server, capsys
):
    assert main(["models", "--target", secure_server.address]) == 69
    said = capsys.readouterr().err
    assert said.endswith("Socket closed; a server with TLS requires --tls or --tls-ca\n")


def test_the_key_has_to_be_that_of_the_certificate(files, capsys):
    pair = ["--tls-certificate", str(files / "client.pem")]
    for name in ("server.key", "client.pem"):
        key = str(files / name)
        assert main(["models", *pair, "--tls-key", key]) == 2
        line = f"tokenwire: --tls-key: {key} is not the private key of the certificate (PEM)\n"
        assert capsys.readouterr().err == line


def test_plain_text_does_not_reach_a_secure_server(secure_server):
    with Client(secure_server.address, retry=ONCE) as client, pytest.raises(UnreachableError):
        client.models()


def test_a_certificate_needs_its_key(files):
    with pytest.raises(ValueError, match="go together"):
        Tls(files / "server.pem", certificate=files / "client.pem")


def test_a_missing_file_is_named(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"none\.pem"):
        Client("127.0.0.1:1", tls=Tls(tmp_path / "none.pem"))
    assert main(["models", "--tls-ca", str(tmp_path / "none.pem")]) == 2
    assert "none.pem" in capsys.readouterr().err
