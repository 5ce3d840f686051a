"""A link meets its worker: what of a worker is refused, and by which name."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import tokenization_pb2
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.core.model import common_limits
from tokenwire_frontend.workers import remote

from tests.frontend.frontend_here import frontend_of, until
from tests.frontend.scripted_worker import ScriptedWorker
from tests.frontend.text_here import TextHere
from tests.services.calls import generation

READY, REFUSED = LinkState.READY, LinkState.REFUSED


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("tokenizer_config.json", b"[]", "not an object"),
        ("tokenizer_config.json", b'{"chat_template": [1]}', "chat_template[0]"),
        ("tokenizer_config.json", b"\xff", "not UTF-8"),
        ("tokenizer_config.json", b"Infinity", "not an object"),
        ("generation_config.json", b'{"top_k": Infinity}', "top_k"),
        ("generation_config.json", b"", "not JSON"),
        ("generation_config.json", b"[1]", "not an object"),
        ("tokenizer.json", b"{}", "tokenizer.json"),
        ("tokenizer.json", b"", "tokenizer.json"),
        ("chat_template.jinja", b"\xff", "not UTF-8"),
        ("chat_template.jinja", b"{% if %}", "its chat template"),
    ],
)
async def test_odd_text_files_are_told_and_the_worker_is_back_once_mended(
    worker, at_once, monkeypatch, file, content, reason
):
    built = []
    start = TextHere.start

    async def counted(self: TextHere) -> None:
        built.append(self)
        await start(self)

    monkeypatch.setattr(TextHere, "start", counted)
    good = dict(worker.files)
    if b"chat_template" in content:
        del worker.files["chat_template.jinja"]  # which goes before it
    worker.files[file] = content
    async with frontend_of(worker) as frontend:
        link = await frontend.wait_for(worker, REFUSED, reason)
        # A template that is none may be either file's.
        assert file in link.state_reason or "its chat template" in link.state_reason
        assert (await frontend.listed(worker)).state_reason == link.state_reason
        await until(lambda: worker.asked >= 3)
        assert link.state is REFUSED
        assert len(built) == 2, "what was refused was built again"
        worker.files = good
        await frontend.wait_for(worker, READY)
        text = tokenization_pb2.TokenizeRequest(text="mended")
        assert (await frontend.tokenization.Tokenize(text)).token_ids


async def test_workers_with_one_tokenizer_that_come_together_bring_it_once(
    worker, other, monkeypatch
):
    built = []
    start = TextHere.start

    async def counted(self: TextHere) -> None:
        built.append(self)
        await start(self)

    monkeypatch.setattr(TextHere, "start", counted)
    async with ScriptedWorker() as third, frontend_of(worker, other, third) as frontend:
        for each in (worker, other, third):
            await frontend.wait_for(each, READY)
    assert len(built) == 2, "its two processes, once"


async def abort(request: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED)


async def garbage(request: Any, context: Any) -> bytes:
    return b"\xff"


async def garbage_stream(request: Any, context: Any) -> None:
    await context.write(b"\xff")


@pytest.mark.parametrize(
    ("method", "handler", "reason"),
    [
        ("GetWorkerInfo", abort, "no worker"),
        ("GetWorkerInfo", garbage, "can't be parsed"),
        ("GetTokenizer", garbage_stream, "can't be parsed"),
        ("WatchLoad", abort, "does not implement WatchLoad"),
        ("Exchange", abort, "does not implement Exchange"),
    ],
)
async def test_a_worker_that_answers_oddly_is_refused_and_back_once_mended(
    worker, at_once, method, handler, reason
):
    worker.overrides[method] = handler
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, REFUSED, reason)
        del worker.overrides[method]
        await frontend.wait_for(worker, READY)


async def test_a_description_that_lacks_what_is_needed_is_refused_by_name(worker, at_once):
    worker.info.limits.vocabulary_size = 0
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, REFUSED, "limits.vocabulary_size is 0")
        worker.info.limits.vocabulary_size = 4096
        worker.info.model = ""
        await frontend.wait_for(worker, REFUSED, "model is empty")


LARGE = {
    "model": "m" * 257,
    "worker_name": "n" * 257,
    "engine_version": "v" * 257,
    "eos_token_ids": range(257),
    "lora_adapters": map(str, range(4097)),
    "capabilities": [999] * 257,
}


@pytest.mark.parametrize("field", LARGE)
async def test_a_description_that_is_too_large_is_refused_by_name(worker, at_once, field):
    worker.info.MergeFrom(type(worker.info)(**{field: LARGE[field]}))
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, REFUSED, f"{field} has more than")
        worker.info.ClearField(field)
        worker.info.model = "mended"
        await frontend.wait_for(worker, READY)


async def test_long_lists_of_adapters_hold_up_nobody(worker):
    """Each look through one costs a thirtieth of a second where they are compared name by name."""
    worker.info.lora_adapters.extend(f"adapter-{number}" for number in range(4096))
    async with frontend_of(worker) as frontend:
        link = await frontend.wait_for(worker, READY)
        limits = [link.info.limits] * 64
        began_s = time.thread_time()
        assert common_limits(limits).lora_adapters == link.info.limits.lora_adapters
        assert time.thread_time() - began_s < 0.5


async def test_text_files_with_names_without_end_are_refused(worker, monkeypatch):
    monkeypatch.setattr(remote, "FILES_BYTES_LIMIT", 2**16)
    worker.files = {"n" * 2**10 + str(number): b"" for number in range(100)} | worker.files
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, REFUSED, "its text files have more than")


async def test_text_files_without_end_are_refused(worker, monkeypatch):
    monkeypatch.setattr(remote, "FILES_BYTES_LIMIT", 2**16)
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, REFUSED, "its text files have more than")


async def test_an_exception_in_meeting_is_told_and_met_again(worker, monkeypatch, lines):
    async with frontend_of(worker) as frontend:
        monkeypatch.setattr(frontend.link(worker), "_meet", None)
        await frontend.wait_for(worker, REFUSED, "TypeError")
    assert [line["address"] for line in lines if line["event"] == "worker_fault"]


async def test_a_greedy_request_does_not_ask_for_the_models_min_p(worker):
    """An engine without min_p would refuse what the caller never asked for."""
    worker.files["generation_config.json"] = b'{"temperature": 0.7, "min_p": 0.1}'
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, READY)
        stream = await worker.stream()
        asked = []
        for sampling in ({}, {"temperature": 0.0}):
            asked_for = generation([7, 8], 1, sampling=sampling)
            call = frontend.generations.Generate(fg.GenerateRequest(generation=asked_for))
            submit = await stream.submit()
            asked.append(submit.request.sampling.min_p)
            stream.generate(submit.handle, 5)
            await call
    assert asked == pytest.approx([0.1, 0.0])
