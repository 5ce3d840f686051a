"""A worker without an engine: a test says what it tells of itself and what it sends, by frames.

It serves in the test's own event loop. What a real worker never does, it does when it is told to:
`Stream.send` takes any frame, and bytes that are none.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2, status_pb2
from tokenwire.channel_arguments import SERVER
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire.worker.v1 import worker_pb2

from tests.services.processes import MODEL, MODEL_NAME, WAIT_S

TEXT_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
)  # fmt: skip

HEARTBEAT_S = 0.1
"""Often, since tests wait for it; a real worker's is a second."""

Handler = Callable[[Any, Any], Awaitable[Any]]


class Stream:
    """One Exchange call, as the worker sees it."""

    def __init__(self, worker: ScriptedWorker) -> None:
        self._worker = worker
        self._out: asyncio.Queue[pb.ExchangeResponse | bytes | None] = asyncio.Queue()
        self._submits: asyncio.Queue[pb.Submit] = asyncio.Queue()
        self._cancels: asyncio.Queue[pb.Cancel] = asyncio.Queue()
        self._end: tuple[grpc.StatusCode, str] | None = None
        self.messages: list[pb.ExchangeRequest] = []
        """What the frontend has sent."""
        self.left = asyncio.Event()
        """The call is over, whoever ended it."""

    async def submit(self) -> pb.Submit:
        """Waits for the next Submit."""
        async with asyncio.timeout(WAIT_S):
            return await self._submits.get()

    async def cancel(self) -> pb.Cancel:
        """Waits for the next Cancel."""
        async with asyncio.timeout(WAIT_S):
            return await self._cancels.get()

    def send(self, frame: pb.ExchangeResponse | bytes | None = None, **columns: Any) -> None:
        """Sends a frame, or bytes in the place of one; `columns` are the contract's own."""
        self._out.put_nowait(pb.ExchangeResponse(**columns) if frame is None else frame)

    def accept(self, *handles: int) -> None:
        self.send(accepted=handles)

    def tokens(self, handle: int, *ids: int, sequence: int = 0, **columns: Any) -> None:
        self.send(
            handles=[handle], sequences=[sequence], counts=[len(ids)], token_ids=ids, **columns
        )

    def end(
        self, handle: int, sequence: int = 0, reason: int = pb.FINISH_REASON_LENGTH, **ending: Any
    ) -> None:
        how = pb.Ending(reason=reason, **ending)
        self.send(endings=[pb.SequenceEnding(handle=handle, sequence=sequence, ending=how)])

    def complete(self, handle: int, **counted: Any) -> None:
        self.send(completions=[pb.GenerationEnd(handle=handle, completed=pb.Completed(**counted))])

    def fail(
        self,
        handle: int,
        code: grpc.StatusCode = grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason: str = "QUEUE_FULL",
    ) -> None:
        status = status_pb2.Status(code=code.value[0], message="as scripted")
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="tokenwire"))
        self.send(failures=[pb.Failure(handle=handle, status=status)])

    def generate(self, handle: int, *ids: int) -> None:
        """Does all that a generation of one sequence takes."""
        self.accept(handle)
        self.tokens(handle, *ids)
        self.end(handle)
        self.complete(handle, completion_tokens=len(ids))

    def close(self, code: grpc.StatusCode = grpc.StatusCode.OK, details: str = "") -> None:
        """Ends the call once what was sent before is out."""
        self._end = code, details
        self._out.put_nowait(None)

    async def run(self, context: Any) -> None:
        reader = asyncio.create_task(self._read(context))
        try:
            while (frame := await self._out.get()) is not None:
                await self._worker.awake.wait()
                await context.write(frame)
            assert self._end is not None
            code, details = self._end
            if code is not grpc.StatusCode.OK:
                await context.abort(code, details)
        finally:
            reader.cancel()
            self.left.set()

    async def _read(self, context: Any) -> None:
        while True:
            await self._worker.awake.wait()
            await self._worker.reads.wait()
            message = await context.read()
            if message is grpc.aio.EOF:
                return
            self.messages.append(message)
            submits, cancels = list(message.submits), list(message.cancels)
            if message.HasField("submit"):
                submits.append(message.submit)
            if message.HasField("cancel"):
                cancels.append(message.cancel)
            for submit in submits:
                self._submits.put_nowait(submit)
                if self._worker.script is not None:
                    self._worker.script(self, submit)
            for cancel in cancels:
                self._cancels.put_nowait(cancel)


class ScriptedWorker:
    """An asynchronous context manager: it listens inside, at the same address after `restart`."""

    def __init__(self, arguments: Mapping[str, int] = MappingProxyType({})) -> None:
        """Takes channel arguments of its server."""
        self.address = "127.0.0.1:0"
        self._arguments = arguments
        self.info = worker_pb2.GetWorkerInfoResponse(
            worker_name="scripted",
            contract_revision=2,
            model=MODEL_NAME,
            engine="scripted",
            engine_version="0",
            version="0",
            eos_token_ids=[2],
            limits=worker_pb2.Limits(
                context_tokens=4096,
                prompt_tokens=4095,
                vocabulary_size=4096,
                sequence_count=32,
                running_sequences=64,
                waiting_requests=64,
                top_logprobs=20,
            ),
        )
        """What GetWorkerInfo says; the fingerprint is that of `files` where it is left empty."""
        self.files = {
            name: (MODEL / name).read_bytes() for name in TEXT_FILES if (MODEL / name).exists()
        }
        self.heartbeat_s: float | None = HEARTBEAT_S
        """Between two messages of WatchLoad; None: only `report` makes one."""
        self.script: Callable[[Stream, pb.Submit], None] | None = None
        """Called with each Submit; what it sends is sent before the test sees the Submit."""
        self.overrides: dict[str, Handler] = {}
        """Coroutines (request, context) in the place of the methods of these names."""
        self.awake = asyncio.Event()
        """Cleared by `freeze`."""
        self.reads = asyncio.Event()
        """Cleared: commands on Exchange are not read."""
        self.streams: list[Stream] = []
        """Every Exchange call so far."""
        self.asked = 0
        """Calls of GetWorkerInfo so far."""
        self.fetched = 0
        """Calls of GetTokenizer so far."""
        self._load = worker_pb2.WatchLoadResponse()
        self._reports: set[asyncio.Event] = set()
        self._watches_end = asyncio.Event()
        self._opened: asyncio.Queue[Stream] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None
        self.awake.set()
        self.reads.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = grpc.aio.server(options=list({**dict(SERVER), **self._arguments}.items()))
        self._server.add_generic_rpc_handlers(self._handlers())
        port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Ends every call, as a crash would."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def stream(self) -> Stream:
        """Waits for the next Exchange call."""
        async with asyncio.timeout(WAIT_S):
            return await self._opened.get()

    def report(self, **load: Any) -> None:
        """Sends a load to everyone who watches, and from now on."""
        self._load = worker_pb2.WatchLoadResponse(**load)
        for changed in self._reports:
            changed.set()

    def end_watches(self) -> None:
        """Ends every call of WatchLoad."""
        self._watches_end.set()
        self._watches_end = asyncio.Event()
        for changed in self._reports:
            changed.set()

    def freeze(self) -> None:
        """Leaves every call without an answer, and every connection open."""
        self.awake.clear()

    def thaw(self) -> None:
        self.awake.set()

    async def _GetWorkerInfo(self, request: Any, context: Any) -> Any:
        self.asked += 1
        await self.awake.wait()
        info = worker_pb2.GetWorkerInfoResponse()
        info.CopyFrom(self.info)
        if not info.tokenizer_fingerprint:
            info.tokenizer_fingerprint = hashlib.sha256(self.files["tokenizer.json"]).hexdigest()
        return info

    async def _GetTokenizer(self, request: Any, context: Any) -> None:
        self.fetched += 1
        for name, data in self.files.items():
            await context.write(
                worker_pb2.GetTokenizerResponse(
                    file_name=name,
                    data=data,
                    file_bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                )
            )

    async def _WatchLoad(self, request: Any, context: Any) -> None:
        changed, end = asyncio.Event(), self._watches_end
        self._reports.add(changed)
        try:
            while not end.is_set():
                await self.awake.wait()
                changed.clear()
                await context.write(self._load)
                try:
                    async with asyncio.timeout(self.heartbeat_s):
                        await changed.wait()
                except TimeoutError:
                    pass
        finally:
            self._reports.discard(changed)

    async def _WatchKvEvents(self, request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "it has no KV events")

    async def _Exchange(self, _requests: Any, context: Any) -> None:
        stream = Stream(self)
        self.streams.append(stream)
        self._opened.put_nowait(stream)
        await stream.run(context)

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        package = "tokenwire.worker.v1"
        return (
            grpc.method_handlers_generic_handler(
                f"{package}.WorkerService",
                {
                    "GetWorkerInfo": grpc.unary_unary_rpc_method_handler(
                        self._method("GetWorkerInfo"),
                        worker_pb2.GetWorkerInfoRequest.FromString,
                        _serialize,
                    ),
                    "GetTokenizer": grpc.unary_stream_rpc_method_handler(
                        self._method("GetTokenizer"),
                        worker_pb2.GetTokenizerRequest.FromString,
                        _serialize,
                    ),
                    "WatchLoad": grpc.unary_stream_rpc_method_handler(
                        self._method("WatchLoad"),
                        worker_pb2.WatchLoadRequest.FromString,
                        _serialize,
                    ),
                    "WatchKvEvents": grpc.unary_stream_rpc_method_handler(
                        self._method("WatchKvEvents"),
                        worker_pb2.WatchKvEventsRequest.FromString,
                        _serialize,
                    ),
                },
            ),
            grpc.method_handlers_generic_handler(
                f"{package}.ExecutionService",
                {
                    "Exchange": grpc.stream_stream_rpc_method_handler(
                        self._method("Exchange"), pb.ExchangeRequest.FromString, _serialize
                    )
                },
            ),
        )

    def _method(self, name: str) -> Handler:
        async def handle(request: Any, context: Any) -> Any:
            handler = self.overrides.get(name) or getattr(self, f"_{name}")
            return await handler(request, context)

        return handle


def _serialize(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
