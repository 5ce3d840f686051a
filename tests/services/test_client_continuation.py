"""The Python client continues what a frontend had that was killed, or that drains."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tokenwire import Answer, AsyncClient, Client, FinishReason

GREEDY = {"temperature": 0, "ignore_eos": True, "max_tokens": 160}
CHAT = [{"role": "user", "content": "Tell me a story about a fox."}]
CASES = {
    "plain": {"prompt": "One, two,", **GREEDY},
    "echo": {"prompt": "Once upon a time", "echo": True, **GREEDY},
    "scored": {"prompt": [5, 6, 7, 8], "logprobs": True, **GREEDY},
    "two": {"prompt": "The owl said", "n": 2, **GREEDY},
    "chat": {"chat": CHAT, "stop": ["zzz", "the dog the"], "min_tokens": 90, **GREEDY},
    "reasons": {"chat": CHAT, "template_arguments": {"enable_thinking": True}, **GREEDY},
    "guided": {"chat": CHAT, "regex": "[a-z ]{200,300}", "temperature": 0, "max_tokens": 90},
}
READ = 4
"""Deltas that are read before the frontend is killed."""


@pytest.fixture(scope="module")
def started(lasting):
    """The frontends that run; tests end some of them."""
    return []


@pytest.fixture
def two(lasting, started, plain_worker, monkeypatch):
    """Two frontends of one worker, of which clients use the first first."""
    monkeypatch.setattr("tokenwire._frontends.shuffle", lambda _: None)
    started[:] = [each for each in started if each.process.poll() is None]
    while len(started) < 2:
        started.append(lasting.frontend(workers=[plain_worker]))
    for each in started:
        each.wait_for("worker", state="ready")
    return list(started)


@pytest.fixture(scope="module")
def expected(shared_frontend, services):
    """The answers without a fault."""
    with Client(shared_frontend.address) as client:
        return {name: client.generate(**case) for name, case in CASES.items()}


def same(answer: Answer, expected: Answer) -> None:
    for found, wanted in zip(answer.sequences, expected.sequences, strict=True):
        assert [(each.id[-3:], each.name) for each in found.tool_calls] == [
            (each.id[-3:], each.name) for each in wanted.tool_calls
        ]
        assert len(found.logprobs) == len(wanted.logprobs)
        assert replace(found, logprobs=[]) == replace(wanted, logprobs=[])
    assert answer.usage.completion_tokens == expected.usage.completion_tokens
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens


async def begun(stream):
    for _ in range(READ):
        await anext(stream)
    return stream


async def finished(stream) -> Answer:
    async for _ in stream:
        pass
    return stream.result


def addresses(frontends):
    return [each.address for each in frontends]


async def test_what_a_killed_frontend_had_is_continued(two, expected):
    async with AsyncClient(addresses(two)) as client, client.session() as session:
        opened = {name: session.open(**case) for name, case in CASES.items()}
        streams = {name: await begun(client.stream(**case)) for name, case in CASES.items()}
        whole = asyncio.create_task(client.generate(**CASES["plain"]))
        last = await begun(session.open(**CASES["plain"]))
        with Client(addresses(two)) as blocking:
            stream = blocking.stream(**CASES["plain"])
            await asyncio.to_thread(next, stream)
            two[0].kill()
            await asyncio.to_thread(list, stream)
        same(stream.result, expected["plain"])
        same(await finished(last), expected["plain"])
        assert (stream.continued, last.continued) == (1, 1)
        same(await whole, expected["plain"])
        for name, each in [*streams.items(), *opened.items()]:
            same(await finished(each), expected[name])


async def test_a_frontend_that_drains_is_left_and_one_that_is_back_continues(
    processes, plain_worker, two, expected
):
    async with AsyncClient(addresses(two)) as client, client.session() as session:
        long = await begun(session.open("One, two,", **{**GREEDY, "max_tokens": 1000}))
        two[0].terminate()
        await asyncio.to_thread(two[0].wait_for, "draining")
        same(await session.generate(**CASES["plain"]), expected["plain"])
        answer = await finished(long)
        assert (answer.finish_reason, long.continued) == (FinishReason.LENGTH, 0)
    address = two[1].address
    async with AsyncClient(address) as client:
        stream = await begun(client.stream(**CASES["plain"]))
        two[1].kill()
        reader = asyncio.create_task(finished(stream))
        processes.frontend("--listen", address, workers=[plain_worker])
        same(await reader, expected["plain"])
