"""Rules of what the demo model's engine does not have pass where an engine has it.

`tests/services/test_conformance.py` has the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest_asyncio
from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.rule import Finding, Outcome
from tokenwire.conformance.rules import selected
from tokenwire.conformance.runner import check
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.core.link_state import LinkState

from tests.frontend.frontend_here import FrontendHere, frontend_of
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.processes import WAIT_S

SMALL_CONTEXT = 1024
CAPABILITIES = (
    worker_pb2.CAPABILITY_LOGPROBS,
    worker_pb2.CAPABILITY_TOP_LOGPROBS,
    worker_pb2.CAPABILITY_LOGIT_BIAS,
    worker_pb2.CAPABILITY_BANNED_SEQUENCES,
    worker_pb2.CAPABILITY_PROMPT_LOGPROBS,
)


def answer(stream: Stream, submit: pb.Submit) -> None:
    """Does for a request what an engine with every capability does."""
    request, handle = submit.request, submit.handle
    stream.accept(handle)
    if request.HasField("prompt_logprobs"):
        for start in range(0, len(request.prompt_token_ids), 500):
            ids = request.prompt_token_ids[start : start + 500]
            scores = [scored(each, request.prompt_logprobs) for each in ids]
            if start == 0:
                scores[0].logprob = 0
            told = pb.PromptLogprobs(handle=handle, token_offset=start, tokens=scores)
            stream.send(prompt_logprobs=[told])
    room = SMALL_CONTEXT - len(request.prompt_token_ids)
    out: list[int] = []
    for _ in range(request.stopping.max_tokens or room):
        out.append(next_id(request, out))
        logprobs = []
        if request.logprobs:
            score = scored(out[-1], request.top_logprobs)
            logprobs = [pb.EntryLogprobs(entry=0, tokens=[score])]
        stream.tokens(handle, out[-1], logprobs=logprobs)
    stream.end(handle)
    stream.complete(handle)


def next_id(request: pb.Request, out: list[int]) -> int:
    """Returns the likeliest id: of a story of words, unless biases or bans say otherwise."""
    logits = {1000 + len(out): 2.0, 1500 + len(out): 1.0}
    for each in request.sampling.logit_bias:
        logits[each.token_id] = logits.get(each.token_id, 0.0) + each.bias
    for banned in request.sampling.banned_sequences:
        if out[len(out) + 1 - len(banned.ids) :] == list(banned.ids[:-1]):
            logits.pop(banned.ids[-1], None)
    return max(logits, key=logits.__getitem__)


def scored(token: int, alternatives: int) -> pb.TokenLogprob:
    others = [
        pb.Alternative(token_id=2000 + rank, logprob=-1.0 - rank) for rank in range(alternatives)
    ]
    return pb.TokenLogprob(token_id=token, logprob=-0.5, alternatives=others)


@pytest_asyncio.fixture
async def frontend() -> AsyncIterator[FrontendHere]:
    """A frontend of two models; the second is small, and has no chat template."""
    async with ScriptedWorker() as large, ScriptedWorker() as small:
        large.script = small.script = answer
        large.info.capabilities.extend(CAPABILITIES)
        small.info.model = "small"
        small.info.limits.context_tokens = SMALL_CONTEXT
        small.info.limits.prompt_tokens = SMALL_CONTEXT - 1
        del small.files["chat_template.jinja"], small.files["tokenizer_config.json"]
        async with frontend_of(large, small) as started:
            for worker in (large, small):
                await started.wait_for(worker, LinkState.READY)
            yield started


async def found(frontend: FrontendHere, model: str, *numbers: str) -> dict[str, Finding]:
    """Checks rules as the command does, beside the event loop that the frontend runs in."""

    def run() -> dict[str, Finding]:
        with grpc.insecure_channel(frontend.server.address) as channel:
            findings = check(Deployment(channel, model), selected(numbers), WAIT_S)
            return {each.rule.number: each for each in findings}

    return await asyncio.to_thread(run)


async def test_what_an_engine_has_is_checked(frontend):
    numbers = ("S16", "S22", "B1", "B2", "L1", "L2", "L3", "L4", "D4", "D8")
    findings = await found(frontend, "demo", *numbers)
    assert {number: each.seen for number, each in findings.items() if each.seen} == {}


async def test_a_small_model_without_a_chat_template_is_checked(frontend):
    findings = await found(frontend, "small", "P4", "F2", "P3", "K4")
    assert {number: each.outcome for number, each in findings.items()} == {
        "P4": Outcome.PASS,
        "F2": Outcome.PASS,
        "P3": Outcome.SKIPPED,
        "K4": Outcome.SKIPPED,
    }, findings
