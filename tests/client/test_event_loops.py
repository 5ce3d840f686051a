"""An AsyncClient in an event loop that is not its own."""

import asyncio

import pytest
from tokenwire import AsyncClient

from tests.client.scripted_server import HELLO


async def _enter(client):
    async with client:
        raise AssertionError("it was entered")


async def _stream(client):
    return [delta async for delta in client.stream("")]


async def _session(client):
    async with client.session() as session:
        return await session.generate("")


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.models(),
        lambda client: client.generate(""),
        lambda client: client.close(),
        lambda client: anext(aiter(client.activity())),
        _enter,
        _stream,
        _session,
    ],
)
def test_a_second_event_loop_is_told_in_one_line(server, use):
    server.play("", *HELLO)
    client = AsyncClient(server.address)

    async def told():
        with pytest.raises(RuntimeError) as raised:
            await use(client)
        return raised.value

    with asyncio.Runner() as first:
        first.run(client.models())
        with asyncio.Runner() as second:
            error = second.run(told())
        # It is as good as before in its own.
        first.run(client.models())
        first.run(client.close())
    assert "belongs to another event loop" in str(error)
    assert "\n" not in str(error)


def test_without_an_event_loop_it_says_so(server):
    with pytest.raises(RuntimeError, match="only be used while an event loop runs"):
        AsyncClient(server.address).stream("")


def test_it_may_be_made_before_its_event_loop(server):
    server.play("", *HELLO)
    client = AsyncClient(server.address)

    async def text():
        async with client:
            return (await client.generate("")).text

    assert asyncio.run(text()) == "Hello world"
