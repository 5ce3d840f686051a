import asyncio
import io

import pytest
from tokenwire import AsyncClient, Client
from tokenwire.cli.main import main

from tests.client.scripted_server import ScriptedServer


@pytest.fixture
def server():
    running = ScriptedServer()
    yield running
    running.stop()


class Blocking:
    """The blocking client behind the asynchronous one's interface, so that one test serves both."""

    def __init__(self, *arguments, **options):
        self.client = Client(*arguments, **options)

    async def call(self, method, *arguments, **options):
        return await asyncio.to_thread(getattr(self.client, method), *arguments, **options)

    def stream(self, *arguments, **options):
        return self.client.stream(*arguments, **options)

    def attach(self, *arguments, **options):
        return self.client.attach(*arguments, **options)

    def activity(self, **options):
        return self.client.activity(**options)

    async def read(self, stream):
        return await asyncio.to_thread(list, stream)

    async def read_one(self, stream):
        return await asyncio.to_thread(next, stream)

    async def cancel(self, stream):
        stream.cancel()

    async def close(self):
        self.client.close()


class Asynchronous:
    def __init__(self, *arguments, **options):
        self.client = AsyncClient(*arguments, **options)

    async def call(self, method, *arguments, **options):
        return await getattr(self.client, method)(*arguments, **options)

    def stream(self, *arguments, **options):
        return self.client.stream(*arguments, **options)

    def attach(self, *arguments, **options):
        return self.client.attach(*arguments, **options)

    def activity(self, **options):
        return self.client.activity(**options)

    async def read(self, stream):
        return [delta async for delta in stream]

    async def read_one(self, stream):
        return await anext(stream)

    async def cancel(self, stream):
        await stream.cancel()

    async def close(self):
        await self.client.close()


@pytest.fixture(params=[Blocking, Asynchronous], ids=["blocking", "asynchronous"])
def kind(request):
    return request.param


@pytest.fixture
async def twin(kind, server):
    made = kind(server.address)
    yield made
    await made.close()


@pytest.fixture
def naps(monkeypatch):
    """The waits before retries, which take no time."""
    waits = []

    async def nap(seconds):
        waits.append(seconds)

    monkeypatch.setattr("tokenwire._frontends.sleep", waits.append)
    monkeypatch.setattr("tokenwire.async_client.sleep", nap)
    monkeypatch.setattr("tokenwire.streams.sleep", waits.append)
    monkeypatch.setattr("tokenwire.streams.async_sleep", nap)
    monkeypatch.setattr("tokenwire.session.sleep", nap)
    monkeypatch.setattr("tokenwire.activity.sleep", nap)
    return waits


@pytest.fixture
def run(server, capsys):
    """Runs the command against the server: its exit code, standard output and standard error."""

    def run(*arguments):
        code = main([*arguments, "--target", server.address])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def printed(server, monkeypatch):
    """Runs the command where standard output has an encoding: what it prints there."""

    def printed(encoding, *arguments):
        output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdout", output)
            assert main([*arguments, "--target", server.address]) == 0
        return output.buffer.getvalue().decode(encoding)

    return printed


@pytest.fixture
def stdin(monkeypatch):
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))
