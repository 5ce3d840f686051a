"""The processes that tokenise and render: what one of them meets harms no other text."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
import pytest_asyncio
import structlog
from tokenizers import normalizers
from tokenwire_frontend.core.model import ModelLimits
from tokenwire_frontend.core.request import ChatPrompt
from tokenwire_frontend.models import short_texts, tokenizer_pool
from tokenwire_frontend.models.fast_encoder import SHORT_CHARS
from tokenwire_frontend.models.files import ModelFilesError
from tokenwire_frontend.models.job_result import TooManyTokensError
from tokenwire_frontend.models.model import Model, build_model
from tokenwire_frontend.models.output_formats import ParserNames
from tokenwire_frontend.models.text_process import TextProcess, TimeLimit
from tokenwire_frontend.models.tokenizer_pool import TokenizerPool
from tokenwire_service.errors import Code, InvalidRequestError, ServiceError
from tokenwire_service.tasks import Supervisor

from tests.frontend.frontend_here import until
from tests.frontend.tokenizer_kinds import WholeTokenizer, byte_level

SOURCE = byte_level().to_str()
WHOLE = WholeTokenizer(SOURCE)
LIMITS = ModelLimits(2048, 2047, 400, 1, 0, (), frozenset(), frozenset())

NATIVE_RUNAWAY = (
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}"
)
"""Compares two lists for ever, in one operation, which no count of steps sees."""

TEMPLATE = (
    "{% if messages[0].content == 'runaway' %}{% for i in range(99999) %}"
    "{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{% elif messages[0].content == 'native' %}" + NATIVE_RUNAWAY + "{% elif "
    "messages[0].content == 'recursive' %}{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}{% else %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% endif %}"
)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def pool_of_two(*, fast_encoding: bool) -> AsyncIterator[TokenizerPool]:
    async with Supervisor() as supervisor:
        pool = TokenizerPool(
            supervisor, 2, waiting_limit=8, fast_encoding=fast_encoding, cache_bytes=2**20
        )
        yield pool
        await pool.close()
        assert pool.held == 0
        assert not pool._held_bytes


@pytest_asyncio.fixture(loop_scope="module")
async def own_pool() -> AsyncIterator[TokenizerPool]:
    """A pool of the test's own, where it counts or withholds processes."""
    async with pool_of_two(fast_encoding=True) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _pool() -> AsyncIterator[TokenizerPool]:
    """Long texts take their time in it."""
    async with pool_of_two(fast_encoding=False) as pool:
        yield pool


@pytest_asyncio.fixture(loop_scope="module")
async def pool(_pool: TokenizerPool) -> AsyncIterator[TokenizerPool]:
    """The pool of this file, which has nothing to do when a test begins and when it has ended."""
    yield _pool
    # What a caller has left may still be under way in a process.
    await until(lambda: not _pool.held and all(slot.process.idle for slot in _pool._slots))
    assert not _pool._held_bytes


async def built(pool: TokenizerPool, **files: bytes) -> Model:
    everything = {
        "tokenizer.json": SOURCE.encode(), "chat_template.jinja": TEMPLATE.encode(),
        **{name.replace("__", "."): data for name, data in files.items()},
    }  # fmt: skip
    fingerprint = sha256(everything["tokenizer.json"]).hexdigest()
    return await build_model(pool, "m", everything, LIMITS, fingerprint, ParserNames())


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def model(_pool: TokenizerPool) -> Model:
    return await built(_pool)


def chat(*contents: str) -> ChatPrompt:
    messages = [{"role": "user", "content": content} for content in contents]
    return ChatPrompt(messages, [], [], True, False, "")


def processes(pool: TokenizerPool) -> set[int]:
    return {each.pid for each in pool._processes if each.pid}


async def encoded(pool: TokenizerPool, model: Model, text: str) -> list[int]:
    [ids] = await pool.encode(model.key, text, add_special_tokens=True)
    return ids.tolist()


async def test_texts_and_chats_come_out_as_the_tokenizer_has_them(pool, model):
    text = "Hello, wörld! 😀\n"
    ids = WHOLE.encode_ids(text, add_special_tokens=True)
    assert await encoded(pool, model, text) == ids
    columns = await pool.encode(model.key, text, add_special_tokens=True, with_offsets=True)
    assert columns[0].tolist() == ids
    spans = list(zip(columns[1], columns[2], strict=True))
    assert {place for start, end in spans for place in range(start, end)} == set(range(len(text)))
    assert await pool.decode(model.key, columns[0], skip_special_tokens=False) == text
    assert model.tokenizer.decode(ids, skip_special_tokens=False) == text
    rendered = await pool.render(model.key, chat("a", "b"), "chat")
    assert rendered.text == "<user>a<user>b"
    assert rendered.ids.tolist() == WHOLE.encode_ids(rendered.text, add_special_tokens=False)
    assert rendered.began_s <= rendered.rendered_s <= rendered.ended_s <= time.monotonic()


async def test_a_chat_that_is_long_comes_out_as_a_short_one_does(pool, model):
    contents = ["word " * 20_000] * 20
    rendered = await pool.render(model.key, chat(*contents), "chat")
    assert rendered.text == "".join(f"<user>{content}" for content in contents)
    assert rendered.ids.tolist() == await encoded(pool, model, rendered.text)


async def test_so_does_one_with_escape_control_tokens(pool, model):
    for content in ("<|end|> x ", "<|end|> word " * 20_000):
        literal = replace(chat(content), escape_control_tokens=True)
        rendered = await pool.render(model.key, literal, "chat")
        assert rendered.text == f"<user>{content}"
        assert 0 not in rendered.ids  # the id of "<|end|>"
        assert WHOLE.decode(rendered.ids, skip_special_tokens=False) == rendered.text
        with pytest.raises(TooManyTokensError):
            await pool.render(model.key, literal, "chat", most_tokens=len(rendered.ids) - 1)


@pytest.mark.parametrize("content", ["runaway", "native", "recursive"])
async def test_a_template_that_runs_away_fails_within_a_second_and_leaves_nothing(
    pool, model, content
):
    await encoded(pool, model, "warm")
    began_s = time.monotonic()
    with pytest.raises(InvalidRequestError) as failed:
        await pool.render(model.key, chat(content), "prompt.chat")
    assert failed.value.reason == "CHAT_TEMPLATE_FAILED"
    assert [each.field for each in failed.value.violations] == ["prompt.chat"]
    # 0.6 s at most on an idle machine; where others compute, twice the longest time of a rendering.
    assert time.monotonic() - began_s < 2 * tokenizer_pool.RENDER_LIMIT.wall_s + 1
    await until(lambda: len(processes(pool)) == 2 and all(s.process.idle for s in pool._slots))
    assert await encoded(pool, model, "after") == WHOLE.encode_ids("after", add_special_tokens=True)


async def test_short_texts_go_on_while_a_template_runs_away(pool, model):
    runaway = asyncio.gather(
        *(pool.render(model.key, chat("runaway"), "chat") for _ in range(2)), return_exceptions=True
    )
    while not runaway.done():
        async with asyncio.timeout(5):
            await encoded(pool, model, "short")
        await asyncio.sleep(0.01)
    assert all(isinstance(each, InvalidRequestError) for each in runaway.result())


async def test_a_short_text_passes_long_ones(pool, model):
    done: list[str] = []

    async def tokenise(name: str, text: str) -> None:
        await encoded(pool, model, text)
        done.append(name)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(tokenise(f"long {number}", "many words " * 40_000))
        group.create_task(tokenise("short", "few words"))
    assert done[0] == "short"


async def test_what_a_caller_has_left_is_not_worked_for(pool, model):
    long = asyncio.create_task(encoded(pool, model, "many words " * 40_000))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(encoded(pool, model, "other words " * 40_000))
    await until(lambda: pool.held == 2)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert pool.held == 1
    assert pool._lanes.take(long=True, long_first=True) is None
    await long


async def test_the_bounds_refuse_the_next_text_and_let_go_of_the_others(pool, model, monkeypatch):
    tasks = [asyncio.create_task(encoded(pool, model, "words " * 20_000)) for _ in range(8)]
    await until(lambda: pool.held == 8)
    with pytest.raises(ServiceError) as busy:
        await encoded(pool, model, "one more")
    assert (busy.value.code, busy.value.reason) == (Code.RESOURCE_EXHAUSTED, "TOKENIZER_BUSY")
    assert busy.value.quota is not None
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    monkeypatch.setattr(tokenizer_pool, "HELD_BYTES_LIMIT", 1000)
    with pytest.raises(ServiceError) as busy:
        await encoded(pool, model, "x" * 1000)
    assert busy.value.reason == "TOKENIZER_BUSY"
    assert await encoded(pool, model, "short")


async def test_a_process_that_is_lost_is_started_anew(pool, model):
    task = asyncio.create_task(encoded(pool, model, "many words " * 100_000))
    await until(lambda: any(not slot.process.idle for slot in pool._slots))
    before = processes(pool)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(ServiceError) as lost:
        await task
    assert (lost.value.code, lost.value.reason) == (Code.UNAVAILABLE, "TOKENIZER_LOST")
    await until(lambda: len(processes(pool) - before) == len(processes(pool)) == 2)
    assert await encoded(pool, model, "after") == WHOLE.encode_ids("after", add_special_tokens=True)


async def test_processes_that_are_lost_are_started_anew_while_another_model_is_built(
    own_pool, monkeypatch
):
    """And the model that was being built is there once it is, in the processes of then."""
    pool, model = own_pool, await built(own_pool)
    run, building, go_on = TextProcess.run, asyncio.Event(), asyncio.Event()

    def slow(process: TextProcess, job: bytes, limit: TimeLimit) -> asyncio.Future[Any]:
        if b"a slow model" not in job or go_on.is_set():
            return run(process, job, limit)

        async def later() -> Any:
            building.set()
            await go_on.wait()
            return await run(process, job, limit)

        return asyncio.ensure_future(later())

    monkeypatch.setattr(TextProcess, "run", slow)
    build = asyncio.create_task(built(pool, chat_template__jinja=b"a slow model"))
    await building.wait()
    for slot in pool._slots:
        os.kill(slot.process.pid, signal.SIGKILL)
    await until(lambda: all(slot.lost.is_set() for slot in pool._slots))
    assert await encoded(pool, model, "after") == WHOLE.encode_ids("after", add_special_tokens=True)
    assert not build.done()
    await until(lambda: pool._slots[0].process.pid and not pool._slots[0].lost.is_set())
    # One more that is lost shortly before the model is there: what is started for it lacks that.
    os.kill(pool._slots[0].process.pid, signal.SIGKILL)
    await until(pool._slots[0].lost.is_set)
    go_on.set()
    other = await build
    await until(lambda: all(slot.process.idle for slot in pool._slots))
    for _ in range(4):
        assert (await pool.render(other.key, chat("a"), "chat")).text == "a slow model"
    assert await encoded(pool, model, "then")
    await until(lambda: len(processes(pool)) == 2)


async def test_a_text_that_takes_too_long_costs_its_process_alone(pool, model, monkeypatch):
    monkeypatch.setattr(tokenizer_pool, "TOKENIZE_LIMIT", TimeLimit(cpu_s=0.001, wall_s=9.0))
    with pytest.raises(ServiceError) as late:
        await encoded(pool, model, "many words " * 100_000)
    assert (late.value.code, late.value.reason) == (Code.UNAVAILABLE, "TOKENIZER_LOST")
    monkeypatch.undo()
    assert await encoded(pool, model, "after")


async def test_more_tokens_than_were_asked_for_are_counted_and_not_sent(pool, model):
    with pytest.raises(TooManyTokensError) as many:
        await pool.encode(model.key, "a b c d", add_special_tokens=True, most_tokens=3)
    assert many.value.count == len(WHOLE.encode_ids("a b c d", add_special_tokens=True))
    with pytest.raises(TooManyTokensError) as many:
        await pool.render(model.key, chat("word " * 100), "chat", most_tokens=10)
    assert many.value.told.startswith("at least ")
    assert (
        10
        < many.value.count
        <= len(WHOLE.encode_ids("<user>" + "word " * 100, add_special_tokens=False))
    )


async def test_files_that_were_refused_are_not_built_again_until_they_change(own_pool, monkeypatch):
    started = 0
    start = tokenizer_pool.TextProcess.start

    async def counting(self) -> None:
        nonlocal started
        started += 1
        await start(self)

    monkeypatch.setattr(tokenizer_pool.TextProcess, "start", counting)
    reasons = set()
    for _ in range(3):
        with pytest.raises(ModelFilesError) as refused:
            await built(own_pool, tokenizer_config__json=b"[]")
        reasons.add(str(refused.value))
    assert len(reasons) == 1
    assert started == 2
    await until(lambda: processes(own_pool) == set())
    model = await built(own_pool, tokenizer_config__json=b"{}")
    assert await encoded(own_pool, model, "mended")


async def test_a_model_that_is_refused_leaves_the_others_alone(pool, model):
    before = processes(pool)
    with pytest.raises(ModelFilesError, match="not a Jinja template"):
        await built(pool, chat_template__jinja=b"{% if %}")
    with pytest.raises(ModelFilesError, match="fingerprint"):
        await build_model(
            pool, "m", {"tokenizer.json": SOURCE.encode()}, LIMITS, "0" * 64, ParserNames()
        )
    await until(lambda: processes(pool) == before)
    assert await encoded(pool, model, "as before")


async def test_a_second_model_comes_and_the_first_goes(pool, model):
    tasks = [asyncio.create_task(encoded(pool, model, "words " * 1000)) for _ in range(6)]
    other = await built(pool, chat_template__jinja=b"other")
    assert (await pool.render(other.key, chat("a"), "chat")).text == "other"
    assert (await pool.render(model.key, chat("a"), "chat")).text == "<user>a"
    assert await asyncio.gather(*tasks)
    await until(lambda: len(processes(pool)) == 2)
    key = other.key
    del other
    gc.collect()
    assert key not in pool._sources
    assert model.key in pool._sources


async def test_what_encoding_remembers_is_counted_also_when_a_process_has_ended(own_pool):
    model = await built(own_pool)
    before = own_pool.cache_counts
    text = "<|end|>".join(f"number {number}" for number in range(500))
    ids = WHOLE.encode_ids(text, add_special_tokens=True)
    for _ in range(2):
        assert await encoded(own_pool, model, text) == ids
    after = own_pool.cache_counts
    assert after.misses - before.misses == 500
    assert after.hits - before.hits == 500
    assert after.hit_bytes - before.hit_bytes == len(text) - 499 * len("<|end|>")
    assert 0 < after.held_bytes <= 2 * 2**20
    lost = processes(own_pool)
    for pid in lost:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: len(processes(own_pool) - lost) == len(processes(own_pool)) == 2)
    assert not own_pool.cache_counts.held_bytes
    assert own_pool.cache_counts.hits == after.hits
    assert await encoded(own_pool, model, text) == ids


async def test_a_short_text_needs_no_process(own_pool):
    model = await built(own_pool)
    await until(lambda: own_pool._short_texts.has(model.key))
    short, long = "wörd <|end|>\n" * 300, "x" * (SHORT_CHARS + 1)
    ids = WHOLE.encode_ids(short, add_special_tokens=True)
    for pid in processes(own_pool):
        os.kill(pid, signal.SIGSTOP)
    assert await encoded(own_pool, model, short) == ids
    with pytest.raises(TooManyTokensError) as refused:
        await own_pool.encode(model.key, short, add_special_tokens=True, most_tokens=9)
    assert (refused.value.count, refused.value.told) == (len(ids), f"{len(ids)} tokens")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await encoded(own_pool, model, long)
    for pid in processes(own_pool):
        os.kill(pid, signal.SIGCONT)
    assert await encoded(own_pool, model, long) == WHOLE.encode_ids(long, add_special_tokens=True)


async def test_a_large_tokenizer_is_not_parsed_here_beside_another_model(own_pool, monkeypatch):
    monkeypatch.setattr(short_texts, "PARSED_AT_ANY_TIME_CHARS", 0)
    first = await built(own_pool)
    key = first.key
    await until(lambda: own_pool._short_texts.has(key))
    second = await built(own_pool, chat_template__jinja=b"other")
    assert second.key not in own_pool._short_texts._encoders
    assert await encoded(own_pool, second, "a") == WHOLE.encode_ids("a", add_special_tokens=True)
    del first
    gc.collect()
    assert not own_pool._short_texts.has(key)


async def test_a_tokenizer_that_fastokens_refuses_is_told_once(own_pool):
    refused = byte_level()
    refused.normalizer = normalizers.NFKD()
    for fast, told in ((True, 1), (False, 0)):
        own_pool._fast_encoding = fast
        with structlog.testing.capture_logs() as lines:
            await own_pool.load({"tokenizer.json": refused.to_str().encode()})
        found = [line for line in lines if line["event"] == "fast_encoding_refused"]
        assert len(found) == told
        assert all("NFKD" in line["reason"] for line in found)


async def test_processes_end_with_their_pool():
    async with Supervisor() as supervisor:
        pool = TokenizerPool(supervisor, processes=2, waiting_limit=8)
        await built(pool)
        pids = processes(pool)
        await pool.close()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
