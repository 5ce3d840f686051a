"""The credential of calls: carried by each, and not over a network in plain text."""

import grpc
import pytest
from google.rpc import status_pb2
from tokenwire import (
    ApiKey,
    AsyncClient,
    Client,
    PermissionDeniedError,
    UnauthenticatedError,
)
from tokenwire.cli.main import main
from tokenwire.errors import from_status

KEY = "tw_key"
BEARER = f"Bearer {KEY}"


def carried(server) -> list[str]:
    """Returns the credential of each call that the server got."""
    # What comes within a session has no metadata of its own.
    return [call.metadata.get("authorization", "") for call in server.calls if call.metadata]


async def test_every_call_of_both_clients_carries_it(server):
    with Client(server.address, api_key=KEY) as client:
        client.models()
        client.generate("hi")
        with client.activity() as stream:
            next(stream)
    async with AsyncClient(server.address, api_key=KEY) as client:
        await client.models()
        async with client.stream("hi") as stream:
            assert [delta async for delta in stream]
        async with client.session() as session:
            await session.generate("hi")
    assert set(carried(server)) == {BEARER}


def test_a_function_is_asked_before_each_call(server):
    tokens = iter(["first", "second"])
    with Client(server.address, api_key=lambda: next(tokens)) as client:
        client.models()
        client.models()
    assert carried(server) == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("target", ["10.0.0.1:1", "dns:///a.test:1", ["127.0.0.1:1", "a.test:1"]])
def test_it_is_not_sent_to_other_hosts_in_plain_text(kind, target):
    with pytest.raises(ValueError, match="plain text") as refused:
        kind(target, api_key=KEY)
    assert KEY not in str(refused.value)
    kind(target, api_key=ApiKey(KEY, over_plain_text=True))


@pytest.mark.parametrize("target", ["localhost:1", "[::1]:1", "127.1.2.3:1", "unix:/run/a"])
def test_this_host_may_have_it(target):
    Client(target, api_key=KEY).close()


@pytest.mark.parametrize("bad", ["", "a b", "a\n", "é"])
def test_what_metadata_cannot_carry_is_refused(bad):
    with pytest.raises(ValueError, match="api_key"):
        Client("localhost:1", api_key=bad)


def test_a_key_does_not_show():
    assert KEY not in repr(ApiKey(KEY))


def test_the_command_line_takes_it_from_the_environment_or_a_file(
    server, monkeypatch, tmp_path, capsys
):
    file = tmp_path / "key"
    file.write_text("tw_of_the_file\n")
    monkeypatch.setenv("TOKENWIRE_API_KEY", KEY)
    assert main(["models", "--target", server.address]) == 0
    assert main(["models", "--target", server.address, "--api-key-file", str(file)]) == 0
    assert carried(server) == [BEARER, "Bearer tw_of_the_file"]
    capsys.readouterr()
    for words, said in [
        (["--target", "a.test:1"], "$TOKENWIRE_API_KEY: would be sent to a.test:1 in plain text"),
        (["--api-key-file", str(tmp_path / "none")], "No such file"),
    ]:
        assert main(["models", *words]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert KEY not in err


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDeniedError),
    ],
)
def test_its_refusal_is_an_error_of_its_own(code, kind):
    error = from_status(status_pb2.Status(code=code.value[0], message="no"), "")
    assert type(error) is kind
