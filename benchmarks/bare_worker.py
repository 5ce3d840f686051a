"""The least that a worker on grpc.aio can be: an engine's steps as messages of one Exchange stream.

It takes the worker's options. It checks, counts and records nothing, and nothing of it fails as a
service should. `benchmarks.worker_loop` measures it beside the worker.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_service.settings import parse
from tokenwire_worker import engines
from tokenwire_worker.engine_listener import LoopListener
from tokenwire_worker.engines.port import Engine, Generation, Sampling, Step
from tokenwire_worker.model_source import with_text_files
from tokenwire_worker.settings import WorkerSettings

SERVICE = "tokenwire.worker.v1.ExecutionService"


class BareWorker:
    """Exchange, of one stream at a time."""

    def __init__(self, engine: Engine) -> None:
        """Starts the engine, on the running loop."""
        self._engine = engine
        self._message = pb.ExchangeResponse()
        self._news = asyncio.Event()
        loop = asyncio.get_running_loop()
        engine.start(LoopListener(loop, self._on_step, sys.exit, lambda _events: None))

    async def Exchange(self, _messages: Any, context: Any) -> None:
        """Runs the generations of a stream until its caller has closed it."""
        reading = asyncio.create_task(self._read(context))
        while not reading.done():
            await self._news.wait()
            self._news.clear()
            message, self._message = self._message, pb.ExchangeResponse()
            await context.write(message)

    async def _read(self, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            asked = message.submit.request
            generation = Generation(
                list(asked.prompt_token_ids), asked.stopping.max_tokens, Sampling(temperature=0.0)
            )
            self._engine.submit(message.submit.handle, generation)
        self._news.set()

    def _on_step(self, step: Step, _ended_s: float) -> None:
        """Puts a step into the next message."""
        message = self._message
        message.handles.extend(step.columns.keys)
        message.token_ids.extend(step.columns.token_ids)
        for output in step.outputs:
            message.handles.append(output.key)
            message.token_ids.extend(output.token_ids)
            if output.finish is not None:
                message.completions.add(handle=output.key)
        self._news.set()


async def main() -> None:
    """Serves until it is ended."""
    settings = parse(WorkerSettings, "bare_worker", sys.argv[1:])
    module = engines.module_of(settings)
    engine = module.build(with_text_files(settings))
    server = grpc.aio.server()
    exchange = grpc.stream_stream_rpc_method_handler(
        BareWorker(engine).Exchange,
        pb.ExchangeRequest.FromString,
        pb.ExchangeResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(SERVICE, {"Exchange": exchange})
    server.add_generic_rpc_handlers((handlers,))
    server.add_insecure_port(settings.listen)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
