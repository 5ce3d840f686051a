"""A frontend whose peers are scripted in its own process: what `benchmarks.frontend_loop` measures.

Frames of a worker go in as bytes and messages to clients come out as bytes, as gRPC would take and
give them. It is run by its path, so that the Python of any checkout can run it, and uses as little
of the frontend's inside as it can. It reads the name of a scenario from each line of standard
input, and writes the microseconds of CPU time that a token or a request took.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import uvloop
from google.protobuf import duration_pb2
from tokenwire.frontend.v1 import generation_pb2
from tokenwire.worker.v1 import execution_pb2, worker_pb2
from tokenwire_frontend.edge.grpc.generation_servicer import GenerationServicer
from tokenwire_frontend.frontend import Frontend
from tokenwire_frontend.settings import FrontendSettings
from tokenwire_frontend.workers import link
from tokenwire_service import logs, memory, settings
from tokenwire_service.rpc_boundary import RpcBoundary
from tokenwire_service.tasks import Supervisor
from tokenwire_service.telemetry import histogram

TOKENIZER = Path(__file__).resolve().parent.parent / "models/demo/hf/tokenizer.json"
STREAMS = 64
FRAMES = 16
"""Of a round of tokens, of which the least counts: one takes less than a millisecond, so that some
are not interrupted on a busy machine."""
OPENS = 16
"""Generations of a round of opens: some milliseconds."""
START_TURNS = 40
"""Turns of the event loop in which generations are read, tokenised and submitted."""
TEXT = "Once upon a time there was a little girl who had a red ball and a small dog."
CALLS = {
    "Session": grpc.stream_stream_rpc_method_handler,
    "StreamGenerate": grpc.unary_stream_rpc_method_handler,
}


class Worker:
    """The worker, in the place of `workers.remote.Remote` and of its Exchange call."""

    latest: Worker

    def __init__(self, *_: object) -> None:
        Worker.latest = self
        self._frames: asyncio.Queue[bytes] = asyncio.Queue()
        self._handles = itertools.count(1)

    def next_handles(self, count: int) -> list[int]:
        """Returns the handles of so many generations that are submitted next."""
        return [next(self._handles) for _ in range(count)]

    def send(self, frame: bytes) -> None:
        """Sends a frame."""
        self._frames.put_nowait(frame)

    async def describe(self) -> worker_pb2.GetWorkerInfoResponse:
        """Returns a worker that has room for everything."""
        return worker_pb2.GetWorkerInfoResponse(
            model="demo",
            contract_revision=3,
            tokenizer_fingerprint=hashlib.sha256(TOKENIZER.read_bytes()).hexdigest(),
            limits=worker_pb2.Limits(
                context_tokens=2**20,
                prompt_tokens=2**19,
                vocabulary_size=4096,
                sequence_count=1,
                running_sequences=2**16,
                waiting_requests=2**16,
            ),
        )

    async def text_files(self) -> dict[str, bytes]:
        """Returns the demo model's tokenizer."""
        return {TOKENIZER.name: TOKENIZER.read_bytes()}

    async def watch_load(self, _longest_s: float) -> AsyncIterator[worker_pb2.WatchLoadResponse]:
        """Yields a heartbeat a second."""
        while True:
            yield worker_pb2.WatchLoadResponse()
            await asyncio.sleep(1.0)

    def exchange(self) -> Worker:
        """Returns the call, which is this too."""
        return self

    async def write(self, _commands: bytes) -> None:
        """Takes commands; what they say is known."""

    def __aiter__(self) -> Worker:
        return self

    async def __anext__(self) -> execution_pb2.ExchangeResponse:
        return execution_pb2.ExchangeResponse.FromString(await self._frames.get())

    def close(self) -> None:
        """Ends nothing."""


class Clients:
    """The clients' calls: what they wait for is counted over all of them."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers
        self._left = 0
        self._written = asyncio.Event()

    def begin(self, name: str, request: bytes | None) -> Call:
        """Begins a call; without a request it reads what is sent to it."""
        return Call(self._handlers[name], request, self)

    def expect(self, messages: int) -> None:
        """Begins to count messages."""
        self._left = messages
        self._written.clear()

    async def expected(self) -> None:
        """Waits until all the expected messages are written."""
        await self._written.wait()

    def count(self) -> None:
        """Counts a message."""
        self._left -= 1
        if not self._left:
            self._written.set()


class Call:
    """One call, in the place of gRPC's context."""

    def __init__(self, handler: Any, request: bytes | None, clients: Clients) -> None:
        self._handler = handler
        self._clients = clients
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        if request is None:
            call = handler.stream_stream(self, self)
        else:
            call = handler.unary_stream(request, self)  # it reads it once it is admitted
        self.ended = asyncio.get_running_loop().create_task(call)

    def send(self, request: bytes | None) -> None:
        """Sends a message; None: it was the last."""
        self._requests.put_nowait(request)

    async def read(self) -> Any:
        """Returns the next message, or EOF."""
        request = await self._requests.get()
        return grpc.aio.EOF if request is None else self._handler.request_deserializer(request)

    async def write(self, message: Any) -> None:
        """Takes a message."""
        self._handler.response_serializer(message)
        self._clients.count()

    def invocation_metadata(self) -> tuple[()]:
        """Returns none."""
        return ()

    def peer(self) -> str:
        """Returns an address."""
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> float:
        """Returns the deadline."""
        return 60.0

    async def abort(self, code: Any, details: str, *_: object) -> None:
        """Ends the benchmark: nothing may fail."""
        raise RuntimeError(f"a call failed: {code} {details}")


class Rounds:
    """What is measured. Each returns nanoseconds of CPU time, and of how many."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._worker = Worker.latest

    async def session(self) -> tuple[int, int]:
        """Tokens of a Session."""
        handles = self._worker.next_handles(STREAMS)
        call = self._clients.begin("Session", None)
        call.send(_opens(STREAMS, FRAMES + 2))
        await _started()
        spent_ns = await self._tokens(handles, accepting=1, each=1)
        self._worker.send(_end(handles))
        call.send(None)
        await call.ended
        return spent_ns, STREAMS

    async def stream(self) -> tuple[int, int]:
        """Tokens of StreamGenerate calls."""
        handles = self._worker.next_handles(STREAMS)
        calls = self._streams(STREAMS, FRAMES + 2)
        await _started()
        spent_ns = await self._tokens(handles, accepting=2 * STREAMS, each=STREAMS)
        self._worker.send(_end(handles))
        await asyncio.gather(*(call.ended for call in calls))
        return spent_ns, STREAMS

    async def session_opens(self) -> tuple[int, int]:
        """Whole generations of a Session."""
        call = self._clients.begin("Session", None)
        await _started()
        opens, handles = _opens(OPENS, 1), self._worker.next_handles(OPENS)
        frame = _accept(handles) + _end(handles)
        began_ns = time.process_time_ns()
        call.send(opens)
        call.send(None)
        await _started()
        self._worker.send(frame)
        await call.ended
        return time.process_time_ns() - began_ns, OPENS

    async def stream_opens(self) -> tuple[int, int]:
        """Whole StreamGenerate calls."""
        handles = self._worker.next_handles(OPENS)
        frame = _accept(handles) + _end(handles)
        began_ns = time.process_time_ns()
        calls = self._streams(OPENS, 1)
        await _started()
        self._worker.send(frame)
        for call in calls:
            await call.ended
        return time.process_time_ns() - began_ns, OPENS

    async def _tokens(self, handles: list[int], *, accepting: int, each: int) -> int:
        """Accepts generations; returns the least time of a frame with a token of each of them.

        Args:
            handles: theirs.
            accepting: messages that tell of the acceptance and the first token.
            each: messages that tell of one of the next frames.
        """
        frames = [_tokens(handles, number) for number in range(FRAMES)]
        self._clients.expect(accepting)
        self._worker.send(_accept(handles))
        await self._clients.expected()
        least_ns = sys.maxsize
        for frame in frames:
            began_ns = time.process_time_ns()
            self._clients.expect(each)
            self._worker.send(frame)
            await self._clients.expected()
            least_ns = min(least_ns, time.process_time_ns() - began_ns)
        return least_ns

    def _streams(self, count: int, tokens: int) -> list[Call]:
        request = generation_pb2.StreamGenerateRequest(generation=_generation(tokens))
        data = request.SerializeToString()
        return [self._clients.begin("StreamGenerate", data) for _ in range(count)]


async def _started() -> None:
    for _ in range(START_TURNS):
        await asyncio.sleep(0)


def _generation(tokens: int) -> generation_pb2.Generation:
    generation = generation_pb2.Generation(model="demo")
    generation.prompt.text = TEXT
    generation.stop.max_tokens = tokens
    generation.sampling.temperature = 0.0
    return generation


def _opens(count: int, tokens: int) -> bytes:
    numbers = range(1, count + 1)
    opens = [generation_pb2.Open(id=each, generation=_generation(tokens)) for each in numbers]
    return generation_pb2.SessionRequest(opens=opens).SerializeToString()


def _accept(handles: list[int]) -> bytes:
    """Returns a frame that accepts generations and has a first token of each."""
    return execution_pb2.ExchangeResponse(
        accepted=handles, handles=handles, token_ids=[300] * len(handles)
    ).SerializeToString()


def _tokens(handles: list[int], number: int) -> bytes:
    """Returns a frame with a token of each generation; words that occur again, as in a text."""
    ids = [400 + (7 * number + place) % 300 for place in range(len(handles))]
    return execution_pb2.ExchangeResponse(handles=handles, token_ids=ids).SerializeToString()


def _end(handles: list[int]) -> bytes:
    """Returns a frame that ends generations."""
    took = duration_pb2.Duration(nanos=5_000_000)
    ending = execution_pb2.Ending(reason=execution_pb2.FINISH_REASON_LENGTH)
    told = execution_pb2.Completed(cached_prompt_tokens=16, queue=took, prefill=took, decode=took)
    return execution_pb2.ExchangeResponse(
        endings=[execution_pb2.SequenceEnding(handle=each, ending=ending) for each in handles],
        completions=[execution_pb2.GenerationEnd(handle=each, completed=told) for each in handles],
    ).SerializeToString()


async def _handler(boundary: RpcBoundary, servicer: GenerationServicer, name: str) -> Any:
    """Returns what gRPC would call."""
    bare = CALLS[name](
        getattr(servicer, name),
        getattr(generation_pb2, f"{name}Request").FromString,
        getattr(generation_pb2, f"{name}Response").SerializeToString,
    )

    async def continuation(_details: object) -> Any:
        return bare

    details = mock.Mock(method=f"/tokenwire.frontend.v1.GenerationService/{name}")
    return await boundary.intercept_service(continuation, details)


async def _serve() -> None:
    async with Supervisor() as supervisor:
        with mock.patch.object(link, "Remote", Worker):
            arguments = ["--worker", "127.0.0.1:1", "--listen", "127.0.0.1:0"]
            chosen = settings.parse(FrontendSettings, "frontend_here", arguments)
            frontend = Frontend(chosen, supervisor)
            while not frontend.pool.ready("demo"):
                await frontend.pool.changed.wait()
                frontend.pool.changed.clear()
        boundary, servicer = (
            RpcBoundary(),
            GenerationServicer(
                frontend.generator, frontend.owners, frontend.relay, frontend.processes
            ),
        )
        rounds = Rounds(Clients({name: await _handler(boundary, servicer, name) for name in CALLS}))
        await asyncio.sleep(1.0)  # until short texts are encoded on the event loop
        print("ready", flush=True)
        for line in iter(sys.stdin.readline, ""):
            gc.collect()
            gc.disable()
            spent_ns, count = await getattr(rounds, line.strip())()
            gc.enable()
            print(spent_ns / 1e3 / count, flush=True)
        await frontend.pool.close()


def main() -> None:
    """Serves the comparing process on the core that it names."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    logs.configure("info", "json", "tokenwire-frontend")
    histogram.enable()
    memory.settle()
    uvloop.run(_serve())


if __name__ == "__main__":
    main()
