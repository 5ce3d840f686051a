"""How long one heavy call stops others: health checks every 50 ms beside each, on both services.

    python -m benchmarks.stress.heavy [PART OF A NAME]

Each call fills a request up to the default limit of 4 MiB. What counts is the longest time that a
health check takes meanwhile, from a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import grpc
from tokenwire.frontend.v1 import (
    generation_pb2,
    generation_pb2_grpc,
    options_pb2,
    prompt_pb2,
    tokenization_pb2,
    tokenization_pb2_grpc,
)
from tokenwire.worker.v1 import execution_pb2, execution_pb2_grpc

from benchmarks.stress.services import LOGS, ROOT, Held, faults, pair

SIZE = 4 * 1024 * 1024 - 4096
"""Bytes of what is heavy: the default limit, less what stands around it."""

CALL_S = 30.0
SETTLE_S = 1.0
"""Time that a service has after a call for what the call left behind."""

Call = Callable[[], object]


class Pings:
    """The process that asks for health."""

    def __init__(self, *addresses: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.stress.ping", *addresses],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def take_longest_s(self) -> list[float]:
        """Returns the longest wait at each address since the last call, in seconds."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("the process has pipes. This is a bug.")
        print(file=self._process.stdin, flush=True)
        longest: list[float] = json.loads(self._process.stdout.readline())
        return longest


def _generations(stub: Any) -> Iterator[tuple[str, Call]]:
    def generate(**fields: Any) -> Call:
        fields.setdefault("prompt", prompt_pb2.Prompt(text="a"))
        fields.setdefault("stop", options_pb2.StopConditions(max_tokens=2))
        generation = generation_pb2.Generation(**fields)
        return lambda: stub.Generate(
            generation_pb2.GenerateRequest(generation=generation), timeout=CALL_S
        )

    def text(value: str) -> prompt_pb2.Prompt:
        return prompt_pb2.Prompt(text=value)

    ids = prompt_pb2.Prompt(token_ids=prompt_pb2.TokenIds(ids=[30] * SIZE))
    guided = options_pb2.GuidedDecoding
    yield "Generate text of words", generate(prompt=text("ab " * (SIZE // 3)))
    yield "Generate text of one letter", generate(prompt=text("a" * SIZE))
    yield "Generate token ids", generate(prompt=ids)
    yield (
        "Generate token ids, echo",
        generate(prompt=ids, output=options_pb2.OutputOptions(echo=True)),
    )
    stops = options_pb2.StopConditions
    yield "Generate stop strings", generate(stop=stops(stop=[""] * (SIZE // 2)))
    yield "Generate one stop string", generate(stop=stops(stop=["a" * SIZE]))
    yield "Generate stop token ids", generate(stop=stops(stop_token_ids=[30] * SIZE))
    schema = '{"anyOf":[' + ",".join(['{"type":"null"}'] * (SIZE // 16 - 2)) + "]}"
    yield "Generate schema", generate(guided=guided(json_schema=schema))
    yield "Generate nested schema", generate(guided=guided(json_schema='{"not":' * (SIZE // 7)))
    yield "Generate regex", generate(guided=guided(regex="(" * SIZE))
    yield "Generate grammar", generate(guided=guided(grammar='root ::= "' + "a" * SIZE + '"'))
    choice = options_pb2.Choice(options=["a"] * (SIZE // 3))
    yield "Generate choices", generate(guided=guided(choice=choice))
    for name in ("request_id", "lora_adapter", "cache_salt", "model"):
        yield f"Generate {name}", generate(**{name: "x" * SIZE})
    yield "Generate in 1,000 languages", generate(prompt=text("é漢🙂 " * (SIZE // 10)))


def _sessions(stub: Any) -> Iterator[tuple[str, Call]]:
    def session(**fields: Any) -> Call:
        request = generation_pb2.SessionRequest(**fields)
        return lambda: sum(1 for _ in stub.Session(iter([request]), timeout=CALL_S))

    yield "Session opens", session(opens=[generation_pb2.Open(id=1)] * (SIZE // 4))
    each = [generation_pb2.Open(id=number) for number in range(1, SIZE // 6)]
    yield "Session opens, each another", session(opens=each)
    yield "Session cancels", session(cancels=[generation_pb2.Cancel(id=1)] * (SIZE // 4))


def _chats(stub: Any, generations: Any) -> Iterator[tuple[str, Call]]:
    def render(**fields: Any) -> Call:
        fields.setdefault(
            "messages", [prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_USER, content="x")]
        )
        chat = prompt_pb2.Chat(**fields)
        return lambda: stub.RenderChat(
            tokenization_pb2.RenderChatRequest(chat=chat), timeout=CALL_S
        )

    message = prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_USER, content="x")
    yield "RenderChat messages", render(messages=[message] * (SIZE // 7))
    yield (
        "RenderChat one message",
        render(
            messages=[prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_USER, content="a " * (SIZE // 2))]
        ),
    )
    call = prompt_pb2.ToolCall(name="t")
    yield (
        "RenderChat tool calls",
        render(
            messages=[
                prompt_pb2.ChatMessage(
                    role=prompt_pb2.ROLE_ASSISTANT, tool_calls=[call] * (SIZE // 5)
                )
            ]
        ),
    )
    yield "RenderChat tools", render(tools=[prompt_pb2.Tool(name="t")] * (SIZE // 5))
    yield "RenderChat documents", render(documents=[prompt_pb2.Document(text="t")] * (SIZE // 5))
    numbers = '{"a":[' + ",".join("1" * (SIZE // 2 - 8)) + "]}"
    yield "RenderChat template arguments, numbers", render(template_arguments=numbers)
    objects = '{"a":[' + ",".join(["{}"] * (SIZE // 3 - 8)) + "]}"
    yield "RenderChat template arguments, objects", render(template_arguments=objects)
    keys = "{" + ",".join(f'"{number}":1' for number in range(SIZE // 12)) + "}"
    yield "RenderChat template arguments, keys", render(template_arguments=keys)
    yield "RenderChat tool schema", render(tools=[prompt_pb2.Tool(name="t", parameters=keys)])
    chat = prompt_pb2.Chat(messages=[message] * 4096)
    generation = generation_pb2.Generation(prompt=prompt_pb2.Prompt(chat=chat))
    request = generation_pb2.GenerateRequest(generation=generation)
    yield "Generate chat of 4,096 turns", lambda: generations.Generate(request, timeout=CALL_S)


def _texts(stub: Any) -> Iterator[tuple[str, Call]]:
    def tokenize(text: str, **fields: Any) -> Call:
        request = tokenization_pb2.TokenizeRequest(text=text, **fields)
        return lambda: stub.Tokenize(request, timeout=CALL_S)

    words = "ab " * (SIZE // 3)
    yield "Tokenize words", tokenize(words)
    yield "Tokenize one letter", tokenize("a" * SIZE)
    yield "Tokenize words with offsets", tokenize(words, with_offsets=True)
    yield "Tokenize 256 KiB with offsets", tokenize(words[: 256 * 1024], with_offsets=True)
    stream = tokenization_pb2.StreamTokenizeRequest(text=words)
    yield (
        "StreamTokenize words",
        lambda: sum(1 for _ in stub.StreamTokenize(iter([stream]), timeout=CALL_S)),
    )
    ids = tokenization_pb2.DetokenizeRequest(token_ids=[300] * (SIZE // 2))
    yield "Detokenize", lambda: stub.Detokenize(ids, timeout=CALL_S)
    more = tokenization_pb2.StreamDetokenizeRequest(token_ids=[300] * (SIZE // 2), end=True)
    yield (
        "StreamDetokenize",
        lambda: sum(1 for _ in stub.StreamDetokenize(iter([more]), timeout=CALL_S)),
    )
    short = tokenization_pb2.StreamDetokenizeRequest(token_ids=[30] * SIZE)
    yield (
        "StreamDetokenize short ids",
        lambda: sum(1 for _ in stub.StreamDetokenize(iter([short]), timeout=CALL_S)),
    )


def _executions(stub: Any) -> Iterator[tuple[str, Call]]:
    pb = execution_pb2

    def execute(**fields: Any) -> Call:
        fields.setdefault("prompt_token_ids", [5])
        fields.setdefault("stopping", pb.Stopping(max_tokens=2))
        request = pb.ExecuteRequest(request=pb.Request(**fields))
        return lambda: sum(1 for _ in stub.Execute(request, timeout=CALL_S))

    def exchange(**fields: Any) -> Call:
        request = pb.ExchangeRequest(**fields)
        return lambda: sum(1 for _ in stub.Exchange(iter([request]), timeout=CALL_S))

    yield "Execute token ids", execute(prompt_token_ids=[30] * SIZE)
    stopping = pb.Stopping(max_tokens=2, stop_token_ids=[30] * SIZE)
    yield "Execute stop token ids", execute(stopping=stopping)
    schema = '{"anyOf":[' + ",".join(['{"type":"null"}'] * (SIZE // 16 - 2)) + "]}"
    yield "Execute schema", execute(guide=pb.Guide(json_schema=schema))
    yield "Execute regex", execute(guide=pb.Guide(regex="(" * SIZE))
    choice = pb.Choice(options=["a"] * (SIZE // 3))
    yield "Execute choices", execute(guide=pb.Guide(choice=choice))
    for name in ("request_id", "lora_adapter", "cache_salt"):
        yield f"Execute {name}", execute(**{name: "x" * SIZE})
    yield "Exchange submits", exchange(submits=[pb.Submit(handle=1)] * (SIZE // 4))
    each = [pb.Submit(handle=number) for number in range(1, SIZE // 6)]
    yield "Exchange submits, each another", exchange(submits=each)
    yield "Exchange cancels", exchange(cancels=[pb.Cancel(handle=1)] * (SIZE // 4))
    yield (
        "Exchange sequences of a cancel",
        exchange(cancel=pb.Cancel(handle=1, sequences=[1] * SIZE)),
    )


def main() -> None:
    """Makes each call and prints how long others waited."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", default="", help="only calls whose name has this")
    part = parser.parse_args().part
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with pair() as services:
        services.wait_until_ready()
        with (
            Pings(services.frontend, services.worker) as pings,
            grpc.insecure_channel(services.frontend, options) as frontend,
            grpc.insecure_channel(services.worker, options) as worker,
        ):
            texts = tokenization_pb2_grpc.TokenizationServiceStub(frontend)
            generations = generation_pb2_grpc.GenerationServiceStub(frontend)
            print(f"{'call':42} {'s':>6} {'frontend ms':>12} {'worker ms':>10} {'MiB':>5}  answer")
            for calls in (
                iter([("nothing", lambda: time.sleep(SETTLE_S))]),
                _texts(texts),
                _chats(texts, generations),
                _generations(generations),
                _sessions(generations),
                _executions(execution_pb2_grpc.ExecutionServiceStub(worker)),
            ):
                for name, call in calls:
                    if part in name:
                        _measure(name, call, pings, services.process_ids["frontend"])
    logged = faults()
    print(f"faults in the logs ({LOGS}): {len(logged)}", *logged[:5], sep="\n")


def _measure(name: str, call: Call, pings: Pings, process_id: int) -> None:
    time.sleep(SETTLE_S)  # what was made for the call itself is not to count
    pings.take_longest_s()
    began_s = time.perf_counter()
    try:
        call()
        answer = "OK"
    except grpc.RpcError as error:
        answer = f"{error.code().name} {(error.details() or '')[:70]}"
    took_s = time.perf_counter() - began_s
    time.sleep(SETTLE_S)
    frontend_s, worker_s = pings.take_longest_s()
    memory_mib = Held.by(process_id).memory_mib
    print(
        f"{name:42} {took_s:6.2f} {frontend_s * 1e3:12.0f} {worker_s * 1e3:10.0f} "
        f"{memory_mib:5} {answer}",
        flush=True,
    )


if __name__ == "__main__":
    main()
