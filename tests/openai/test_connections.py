"""Clients that leave, that read slowly, that say little; and a frontend that stops."""

from __future__ import annotations

import asyncio
import json
import re
import socket

import openai
import pytest
from structlog.testing import capture_logs
from tokenwire_frontend.edge.openai import body, server
from tokenwire_frontend.edge.openai.chat import ChatChunks

from tests.frontend.frontend_here import until
from tests.openai.deployment import deployed, until_idle
from tests.services.processes import WAIT_S
from tests.table import table

ASKED = [{"role": "user", "content": "2+2?"}]
CHAT = {"model": "demo", "messages": ASKED}


async def test_a_stream_that_is_closed_is_cancelled(deployment):
    deployment.waits()
    stream = await deployment.client.chat.completions.create(**CHAT, stream=True)
    worker = deployment.worker.streams[-1]
    assert deployment.frontend.generator.admission.held == 1
    await stream.close()
    await worker.cancel()
    await until_idle(deployment)


async def test_who_leaves_while_a_chunk_is_written_is_no_fault(deployment, monkeypatch):
    """The write meets the closed connection before the connection's own end is told."""
    deployment.waits()
    written = ChatChunks.opening

    def leaves(self):
        [connection] = deployment.frontend.openai._connections.connections
        connection.transport.close()
        return written(self)

    monkeypatch.setattr(ChatChunks, "opening", leaves)

    async def read() -> None:
        async for _ in await deployment.client.chat.completions.create(**CHAT, stream=True):
            pass

    with capture_logs() as lines, pytest.raises(openai.OpenAIError):
        await read()
    await deployment.worker.streams[-1].cancel()
    await until_idle(deployment)
    assert not [each for each in lines if each["log_level"] == "error"]


async def test_an_answer_that_nobody_waits_for_is_cancelled(deployment):
    deployment.waits()
    worker = deployment.worker.streams[-1]
    asking = asyncio.ensure_future(deployment.client.chat.completions.create(**CHAT))
    await until(lambda: deployment.asked)
    asking.cancel()
    await worker.cancel()
    await until_idle(deployment)


def request(body: dict, path: str = "/v1/chat/completions") -> bytes:
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


async def connected(deployment, **options) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = deployment.address.rpartition(":")
    return await asyncio.open_connection(host, int(port), **options)


async def test_who_reads_slowly_gets_all_and_nothing_piles_up(deployment):
    """What waits stays in the generation's log, and no write of it in memory."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    host, _, port = deployment.address.rpartition(":")
    await asyncio.get_running_loop().sock_connect(slow, (host, int(port)))
    incoming, outgoing = await asyncio.open_connection(sock=slow, limit=2048)
    deployment.says("word " * 4000, each=50)
    scored = {"logprobs": True, "top_logprobs": 20, "stream": True}
    outgoing.write(request({**CHAT, **scored}))
    generator = deployment.frontend.generator
    await until(lambda: any(each.done for each in generator.live(None)))
    connections = deployment.frontend.openai._connections._connections
    waiting = [each.get_write_buffer_size() for each in connections.values()]
    assert 0 < max(waiting) < 2 * 2**20
    async with asyncio.timeout(WAIT_S):
        raw = b""
        while not raw.endswith(b"0\r\n\r\n"):
            raw += await incoming.read(2**16)
    assert raw.count(b'"top_logprobs":') >= 4000
    outgoing.close()


async def test_a_silent_or_slow_connection_is_closed(monkeypatch):
    monkeypatch.setattr(server, "IDLE_S", 0.2)
    monkeypatch.setattr(body, "BODY_S", 0.2)
    async with deployed() as deployment:
        silent = await connected(deployment)
        slow = await connected(deployment)
        slow[1].write(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-Slow")
        halved = await connected(deployment)
        halved[1].write(request(CHAT)[:-5])
        async with asyncio.timeout(WAIT_S):
            assert await silent[0].read() == b""
            assert await slow[0].read() == b""
            assert (await halved[0].readline()).split()[1] == b"408"
        for _, writer in (silent, slow, halved):
            writer.close()


HOST = b"GET /health HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\n"

NO_REQUESTS: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"secret\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "no URL": (b"GET http://[secret HTTP/1.1\r\n\r\n", 400),
    "a header without a colon": (HOST + b"secret\r\n\r\n", 400),
    "a long header": (HOST + b"a: " + b"secret" * 3000 + b"\r\n\r\n", 431),
    "a long line": (b"GET /" + b"secret" * 3000 + b" HTTP/1.1\r\n\r\n", 431),
    "many headers": (HOST + b"a: b\r\n" * 150 + b"\r\n", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "no chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n", 400),
}


async def test_what_is_no_request_is_refused_in_the_same_form(deployment):
    """And nothing of it is told, for a header may be a credential."""
    with table() as row:
        for name, (sent, status) in NO_REQUESTS.items():
            with row(name):
                incoming, outgoing = await connected(deployment)
                outgoing.write(sent)
                async with asyncio.timeout(WAIT_S):
                    raw = await incoming.read()
                head, _, told = raw.partition(b"\r\n\r\n")
                assert int(head.split()[1]) == status
                assert b"Server: tokenwire" in head
                error = json.loads(told)["error"]
                assert error["type"] == "invalid_request_error"
                assert error["message"]
                assert b"secret" not in told
                outgoing.close()


async def test_a_body_in_pieces(deployment):
    deployment.says("Yes.")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    for expects, pieces, statuses in (
        (b"", b'10\r\n{"prompt":"Hello\r\n2\r\n"}\r\n0\r\n\r\n', [b"200"]),
        (b"Expect: 100-continue\r\n", b'12\r\n{"prompt":"Hello"}\r\n0\r\n\r\n', [b"100", b"200"]),
        (b"", b"no chunk\r\n", [b"400"]),
    ):
        incoming, outgoing = await connected(deployment)
        outgoing.write(head + expects + b"Connection: close\r\n\r\n" + pieces)
        async with asyncio.timeout(WAIT_S):
            raw = await incoming.read()
        assert re.findall(rb"HTTP/1.\d (\d+)", raw) == statuses, raw
        outgoing.close()


async def test_more_connections_than_there_may_be_are_closed(monkeypatch):
    monkeypatch.setattr(server, "CONNECTIONS_LIMIT", 1)
    async with deployed() as deployment:
        kept = await connected(deployment)
        turned_away = await connected(deployment)
        async with asyncio.timeout(WAIT_S):
            assert await turned_away[0].read() == b""
        kept[1].write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            assert (await kept[0].readline()).split()[1] == b"200"
        for _, writer in (kept, turned_away):
            writer.close()


async def test_a_drain_ends_what_runs_and_takes_nothing_new():
    async with deployed() as deployment:
        deployment.waits()
        stream = await deployment.client.chat.completions.create(**CHAT, stream=True)
        worker = deployment.worker.streams[-1]
        submit = await worker.submit()
        stopping = asyncio.ensure_future(deployment.frontend.stop(WAIT_S))
        await deployment.frontend.generator.admission.closing.wait()
        with pytest.raises(openai.InternalServerError) as refused:
            await deployment.client.chat.completions.create(**CHAT)
        assert (refused.value.status_code, refused.value.code) == (503, "draining")
        assert refused.value.response.headers["connection"] == "close"
        worker.tokens(submit.handle, 300)
        worker.end(submit.handle)
        worker.complete(submit.handle)
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "length"
        await stopping
        with pytest.raises(openai.APIConnectionError):
            await deployment.client.chat.completions.create(**CHAT)
