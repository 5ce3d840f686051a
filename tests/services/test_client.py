"""The Python client and the command line against the real services."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest
from tokenwire import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    FinishReason,
    InvalidRequestError,
    NotFoundError,
    RetryPolicy,
    UnavailableError,
)
from tokenwire.cli.main import main

from tests.services.calls import Worker, generation
from tests.services.processes import ROOT, WAIT_S

GREEDY = {"temperature": 0, "ignore_eos": True}
PROMPT = "One, two,"


@pytest.fixture
def client(frontend):
    with Client(frontend.address, timeout=WAIT_S) as blocking:
        yield blocking


@pytest.fixture
def text(frontend):
    """What the services themselves say to the prompt."""
    return frontend.generate(generation(PROMPT, 20)).sequences[0].text


def test_the_blocking_client_generates_and_streams(client, text):
    answer = client.generate(PROMPT, max_tokens=20, **GREEDY)
    assert answer.text == text
    assert answer.finish_reason == FinishReason.LENGTH
    assert answer.usage.completion_tokens == len(answer.token_ids) == 20
    assert [stage.name for stage in answer.timings.stages][-1] == "decode"
    stream = client.stream(PROMPT, max_tokens=20, **GREEDY)
    assert "".join(delta.text for delta in stream) == text
    assert stream.result.token_ids == answer.token_ids
    assert len(stream.trace_id) == 32


async def test_the_asynchronous_client_generates_streams_and_keeps_sessions(frontend, text):
    async with AsyncClient(frontend.address, timeout=WAIT_S) as client:
        answer = await client.generate(PROMPT, max_tokens=20, **GREEDY)
        assert answer.text == text
        async with client.stream(PROMPT, max_tokens=20, **GREEDY) as stream:
            assert "".join([delta.text async for delta in stream]) == text
        async with client.session() as session:
            generations = [session.open(PROMPT, max_tokens=20, **GREEDY) for _ in range(20)]
            long = session.open(PROMPT, max_tokens=3000, **GREEDY)
            await anext(long)
            await long.cancel()
            assert long.result.finish_reason == FinishReason.CANCELLED
            answers = await asyncio.gather(*(_result(each) for each in generations))
            assert {each.text for each in answers} == {text}


async def _result(generation_):
    async for _ in generation_:
        pass
    return generation_.result


def test_the_client_stops_the_engine_when_it_leaves(client, worker):
    with client.stream(PROMPT, max_tokens=3900, **GREEDY) as stream:
        next(iter(stream))
        worker.wait_for_load(lambda load: load.running_sequences == 1)
    worker.wait_until_idle()


def test_chats_tokens_and_models(client, frontend):
    chat = [{"role": "user", "content": "What is 2 + 2?"}]
    rendered = client.render_chat(chat)
    by_chat = client.generate(chat=chat, max_tokens=8, **GREEDY)
    assert by_chat.text == client.generate(rendered.token_ids, max_tokens=8, **GREEDY).text
    tokens = client.tokenize("as ever", with_offsets=True)
    assert client.detokenize(tokens.token_ids) == "as ever"
    assert tokens.offsets[0][0] == 0
    assert tokens.offsets[-1][1] == len("as ever")
    assert client.model().name == client.models()[0].name
    assert client.model().context_tokens == frontend.model().context_tokens
    assert [each.state for each in client.workers()] == ["ready"]


RENDER = (
    "import json, sys; from tokenwire import Client\n"
    "with Client(sys.argv[1]) as client: print(client.render_chat(**json.loads(sys.argv[2])).text)"
)


def test_a_chat_has_one_text_whichever_process_sends_it(frontend):
    parameters = {"zeta": {"b": 2**53 + 1, "a": "é"}, "alpha": 1.0, "also": [{"y": None, "x": 1}]}
    chat = {
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": [{"name": "f", "description": "d", "parameters": parameters}],
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RENDER, frontend.address, json.dumps(chat)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        for seed in ("1", "2", "3")
    ]
    texts = {process.communicate(timeout=WAIT_S)[0] for process in processes}
    [text] = texts
    assert json.dumps(parameters, ensure_ascii=False) in text


def test_errors_arrive_with_their_fields(client):
    with pytest.raises(InvalidRequestError) as refusal:
        client.generate(PROMPT, temperature=-1, top_p=7)
    assert [each.field for each in refusal.value.violations] == [
        "generation.sampling.temperature",
        "generation.sampling.top_p",
    ]
    with pytest.raises(InvalidRequestError) as refusal:
        client.generate(PROMPT, regex="(", ignore_eos=False)
    assert [each.field for each in refusal.value.violations] == ["generation.guided.regex"]
    with pytest.raises(NotFoundError) as unknown:
        client.generate(PROMPT, model="nope")
    assert unknown.value.reason == "UNKNOWN_MODEL"
    with pytest.raises(DeadlineExceededError):
        client.generate(PROMPT, timeout=0.3, max_tokens=3900, **GREEDY)


def test_retries_ride_out_a_restart(processes):
    worker = processes.simulated()
    address = worker.address
    started = processes.frontend(workers=[worker])
    started.wait_for("worker", state="ready")
    seen = started.event_count
    with Client(started.address, retry=RetryPolicy(attempts=40), timeout=WAIT_S) as client:
        assert client.generate(PROMPT, max_tokens=2).usage.completion_tokens == 2
        worker.kill()
        started.wait_for("worker", state="connecting", after=seen)
        with (
            Client(started.address, retry=RetryPolicy(attempts=1)) as impatient,
            pytest.raises(UnavailableError),
        ):
            impatient.generate(PROMPT)
        processes.simulated(listen=address)
        answer = client.generate(PROMPT, max_tokens=2)
        assert answer.usage.completion_tokens == 2


def tokenwire(frontend, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE")}
    return subprocess.run(
        [sys.executable, "-m", "tokenwire", *arguments, "--target", frontend.address],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=own,
        timeout=WAIT_S,
        check=False,
    )


GENERATE = ["generate", PROMPT, "--temperature", "0", "--max-tokens", "20", "--ignore-eos"]


@pytest.fixture
def here(frontend, capsys):
    """Runs the command line in this process: its exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--target", frontend.address])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_command_line_generates(frontend, here, text):
    plain = tokenwire(frontend, *GENERATE)
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.rstrip("\n") == text.rstrip("\n")
    whole = json.loads(here(*GENERATE, "--json")[1])
    assert whole["text"] == text
    assert set(whole) >= {
        *("text", "token_ids", "finish_reason", "usage", "timings", "request_id", "trace_id"),
    }
    _, out, err = here(*GENERATE, "--explain")
    for stage in ("tokenize", "route", "queue", "prefill", "decode"):
        assert stage in out + err


def test_the_command_line_tells_what_is_wrong(frontend):
    refused = tokenwire(frontend, "generate", PROMPT, "--temperature", "-1")
    assert refused.returncode != 0
    assert "temperature" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_command_line_shows_models_workers_and_tokens(frontend, here):
    with Worker(frontend.workers()[0].address) as worker:
        assert worker.address in here("workers")[1]
    assert "demo" in here("models")[1]
    ids = json.loads(here("tokenize", "as ever", "--json")[1])
    assert frontend.tokenize("as ever") == ids.get("token_ids")
