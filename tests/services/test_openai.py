"""OpenAI's interface of real processes."""

from __future__ import annotations

import time

import openai

from tests.services.calls import generation
from tests.services.processes import WAIT_S, Process

ASKED = [{"role": "user", "content": "Tell me a story about a dog."}]


def client_of(process: Process, **settings) -> openai.OpenAI:
    """Returns OpenAI's client of a frontend."""
    url = f"http://{process.wait_for('openai_listening')['address']}/v1"
    return openai.OpenAI(base_url=url, api_key="none", timeout=WAIT_S, **settings)


def test_a_stream_that_is_left_ends_at_the_engine(shared_frontend, frontend, worker):
    with client_of(shared_frontend) as client:
        stream = client.chat.completions.create(
            model="demo", messages=ASKED, stream=True, extra_body={"ignore_eos": True}
        )
        told = [next(stream).choices[0].delta.content for _ in range(5)]
        assert "".join(told)
        assert worker.load().running_sequences == 1
        stream.close()
        worker.wait_until_idle()


def test_a_chat_is_the_same_as_over_grpc(shared_frontend, frontend):
    ask = {"model": "demo", "messages": ASKED, "temperature": 0, "max_tokens": 40}
    with client_of(shared_frontend) as client:
        whole = client.chat.completions.create(**ask).choices[0]
        stream = client.chat.completions.create(**ask, stream=True)
        parts = [chunk.choices[0] for chunk in stream]
    assert whole.finish_reason == parts[-1].finish_reason == "length"
    streamed = "".join(part.delta.content or "" for part in parts)
    prompt = {"chat": {"messages": [{"role": 2, "content": ASKED[0]["content"]}]}}
    over_grpc = frontend.generate(generation(prompt, 40, stop={"ignore_eos": False}))
    assert whole.message.content == streamed == over_grpc.sequences[0].text


def test_several_processes_answer_on_one_port(processes, plain_worker):
    started = processes.frontend(
        *("--processes", "2", "--openai-listen", "127.0.0.1:0"), workers=[plain_worker]
    )
    served = set()
    first = started.wait_for("openai_listening")
    for process in range(2):
        started.wait_for("worker", state="ready", process=process)
    deadline_s = time.monotonic() + WAIT_S
    while len(served) < 2:
        assert time.monotonic() < deadline_s
        # A connection of its own each time, which the kernel gives to one of the processes.
        with client_of(started, max_retries=5) as client:
            client.completions.create(model="demo", prompt="Hello", max_tokens=2)
        served = {each["process"] for each in started.events(event="generation")}
    assert {each["address"] for each in started.events(event="openai_listening")} == {
        first["address"]
    }
    started.terminate()
    assert started.wait() == 0, started.output
