"""`tokenwire evaluate` between two deployments, whose workers have distributions of known form."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio
from tokenwire.cli.main import main
from tokenwire.frontend.v1 import tokenization_pb2 as tk
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2
from tokenwire_frontend.workers.link import LinkState

from tests.frontend.frontend_here import FrontendHere, frontend_of
from tests.frontend.scripted_worker import ScriptedWorker, Stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "".join(f"Box {each} holds the number {each * 7 + 3}.\n" for each in range(40))
WINDOW = 64


def shares(before: int, actual: int, sharpness: float) -> dict[int, float]:
    """Returns the probabilities after a token: 30 tokens, one of which comes next."""
    candidates = dict.fromkeys([actual, *((before * 31 + 7 * each) % 4096 for each in range(29))])
    # The same order for the same two tokens, whatever the sharpness.
    ranked = sorted(candidates, key=lambda each: (each * 2_654_435_761 + before) % 2**32)
    weights = {each: math.exp(-sharpness * rank) for rank, each in enumerate(ranked)}
    return {each: weight / sum(weights.values()) for each, weight in weights.items()}


def scores(ids: list[int], sharpness: float, alternatives: int) -> list[pb.TokenLogprob]:
    told = [pb.TokenLogprob(token_id=ids[0])]
    for before, actual in pairwise(ids):
        found = shares(before, actual, sharpness)
        ranked = sorted(found, key=lambda each: -found[each])[:alternatives]
        others = [pb.Alternative(token_id=each, logprob=math.log(found[each])) for each in ranked]
        told.append(
            pb.TokenLogprob(token_id=actual, logprob=math.log(found[actual]), alternatives=others)
        )
    return told


@asynccontextmanager
async def deployment(sharpness: float = 0.5, **info: Any) -> AsyncIterator[FrontendHere]:
    """Runs a frontend whose worker has this distribution."""

    def answer(stream: Stream, submit: pb.Submit) -> None:
        ids, handle = list(submit.request.prompt_token_ids), submit.handle
        tokens = scores(ids, sharpness, submit.request.prompt_logprobs)
        stream.accept(handle)
        stream.send(prompt_logprobs=[pb.PromptLogprobs(handle=handle, tokens=tokens)])
        stream.tokens(handle, 300)
        stream.end(handle)
        stream.complete(handle, completion_tokens=1)

    async with ScriptedWorker() as worker:
        worker.script = answer
        worker.info.capabilities.extend(
            info.get("capabilities", [worker_pb2.CAPABILITY_PROMPT_LOGPROBS])
        )
        if "tokenizer" in info:
            worker.files["tokenizer.json"] += info["tokenizer"]
        async with frontend_of(worker) as frontend:
            await frontend.wait_for(worker, LinkState.READY)
            yield frontend


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plain() -> AsyncIterator[FrontendHere]:
    async with deployment(0.5) as frontend:
        yield frontend


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def evaluate(text, capsys):
    """Runs the command: its exit code, what it prints, and what it says on standard error."""

    async def evaluate(target, baseline, *options):
        addresses = ["--target", target.server.address, "--baseline", baseline.server.address]
        capsys.readouterr()  # the deployments' own lines
        words = ["evaluate", *addresses, "--text", text]
        code = await asyncio.to_thread(main, [*words, "--window", str(WINDOW), *options])
        return code, *capsys.readouterr()

    return evaluate


async def perplexity(frontend, sharpness):
    """Returns what the windows of the text come to, by the distribution itself."""
    request = tk.TokenizeRequest(text=TEXT)
    ids = list((await frontend.tokenization.Tokenize(request)).token_ids)
    nats = [
        -math.log(shares(before, actual, sharpness)[actual])
        for start in range(0, len(ids), WINDOW)
        for before, actual in pairwise(ids[start : start + WINDOW])
    ]
    return math.exp(sum(nats) / len(nats)), len(nats)


async def test_a_deployment_is_equal_to_itself(evaluate, plain, tmp_path):
    code, out, err = await evaluate(plain, plain, "--json", str(tmp_path / "out.json"))
    assert code == 0, err
    found = json.loads((tmp_path / "out.json").read_text())
    expected, tokens = await perplexity(plain, 0.5)
    assert found["target_perplexity"] == pytest.approx(expected, rel=1e-6)
    assert found["tokens"] == tokens
    assert (found["perplexity_rise"], found["top_1_agreement"]) == (0, 1)
    assert (found["divergence_nats"], found["passed"]) == (0, True)
    assert "+0.00%" in out
    assert "100.00%" in out


async def test_a_worse_one_passes_the_limit_and_a_wider_limit_lets_it(evaluate, plain, tmp_path):
    async with deployment(0.55) as target:
        code, out, err = await evaluate(target, plain, "--json", str(tmp_path / "out.json"))
        expected, _ = await perplexity(target, 0.55)
        assert (await evaluate(target, plain, "--limit", "1000"))[0] == 0
        narrow = ("--limit", "1000", "--divergence-limit", "1e-6")
        diverging = await evaluate(target, plain, *narrow)
    meant, _ = await perplexity(plain, 0.5)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["perplexity_rise"] == pytest.approx(expected / meant - 1, rel=1e-4)
    assert found["divergence_nats"] > 0
    assert found["top_1_agreement"] == 1  # sharper, in the same order
    assert (code, found["passed"]) == (1, False)
    assert "the perplexity rises by" in err
    assert "at most 1 %" in err
    assert f"{found['windows']} windows" in out
    assert diverging[0] == 1
    assert "the divergence is" in diverging[2]


async def test_the_command_tells_how_far_it_has_come(evaluate, plain):
    _, _, err = await evaluate(plain, plain)
    lines = [line for line in err.splitlines() if line.startswith("window ")]
    assert len(lines) == 10
    assert len(set(lines[-1].removeprefix("window ").split(" of "))) == 1


async def test_other_tokens_are_not_compared(evaluate, plain):
    async with deployment(tokenizer=b"\n") as baseline:
        code, out, err = await evaluate(plain, baseline)
    assert (code, out) == (1, "")
    assert "tokenizers" in err


async def test_a_side_that_scores_no_prompts_is_named(evaluate, plain):
    async with deployment(capabilities=[]) as baseline:
        code, _, err = await evaluate(plain, baseline)
    assert code == 1
    assert err.startswith("tokenwire: baseline: the engine of ")
    assert "prompt_logprobs" in err


async def test_a_baseline_that_is_not_there_is_named(evaluate, plain):
    code, _, err = await evaluate(plain, plain, "--baseline", "127.0.0.1:1")
    assert code == 1
    assert err.startswith("tokenwire: baseline: no connection to 127.0.0.1:1")


async def test_a_window_that_the_model_does_not_take_is_refused(evaluate, plain):
    code, _, err = await evaluate(plain, plain, "--window", "8000")
    assert code == 2
    assert "--window: 8000; at most 4095" in err
