"""inference.GRPCInferenceService."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from tokenwire_service.version import VERSION

from tokenwire_frontend import errors
from tokenwire_frontend.edge.kserve import models
from tokenwire_frontend.edge.kserve.inference import Inference, check_version
from tokenwire_frontend.edge.kserve.outputs import MODEL_VERSION
from tokenwire_frontend.edge.kserve.stream import InferStream
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2 as pb
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2_grpc
from tokenwire_frontend.edge.turnstile import Turnstile
from tokenwire_frontend.generation.answer import ANSWER_BYTES_LIMIT
from tokenwire_frontend.generation.generator import Generator
from tokenwire_frontend.generation.reader import Reader

Context = grpc.aio.ServicerContext[Any, Any]

EXTENSIONS = ("model_configuration", "model_repository")
"""Of the protocol, as Triton names them."""


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers clients of the Open Inference Protocol.

    Args:
        generator: the generations of this process.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._pool = generator.pool
        self._turnstile = Turnstile()

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """Says that the process runs."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """Says whether a worker is ready, as health checks do."""
        ready = any(model.ready_workers for model in self._pool.models.values())
        return pb.ServerReadyResponse(ready=ready)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Names the server."""
        return pb.ServerMetadataResponse(
            name=models.PLATFORM, version=VERSION, extensions=EXTENSIONS
        )

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Says whether a worker is ready for the model; none is for one that is unknown."""
        check_version(request.version, "version")
        model = self._pool.models.get(request.name)
        return pb.ModelReadyResponse(ready=model is not None and model.ready_workers > 0)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Describes the tensors of a model."""
        return models.metadata(self._model(request.name, request.version))

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        """Tells a model's configuration."""
        return pb.ModelConfigResponse(
            config=models.config(self._model(request.name, request.version))
        )

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Lists the models."""
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=model.name,
                    version=MODEL_VERSION,
                    state="READY" if model.ready_workers else "UNAVAILABLE",
                    reason="" if model.ready_workers else "no worker is ready",
                )
                for model in sorted(self._pool.models.values(), key=lambda model: model.name)
                if model.ready_workers or not request.ready
            ]
        )

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Answers once, when every sequence has ended."""
        ready = asyncio.Event()
        reader = Reader(ready.set)
        inference = Inference(request, on_stream=False)
        with inference.named():
            incoming = inference.incoming(
                reader, lane=context.peer(), deadline_s=context.time_remaining()
            )
            async with self._generator.open(incoming, reader) as generation:
                reader.begin()
                await ready.wait()
                news = reader.take(ANSWER_BYTES_LIMIT)
                if news.failure is not None:
                    raise news.failure
                if news.completion is None or news.wire_bytes > ANSWER_BYTES_LIMIT:
                    raise errors.answer_too_large(ANSWER_BYTES_LIMIT)
                return inference.responses(generation).whole(news)

    async def ModelStreamInfer(  # type: ignore[override] # writes: see rpc_boundary
        self, request_iterator: Any, context: Context
    ) -> None:
        """Carries any number of requests on one stream."""
        await InferStream(self._generator, self._turnstile, context).run(request_iterator)

    def _model(self, name: str, version: str) -> str:
        """Returns the name of a model that is known; raises ServiceError where it is not."""
        check_version(version, "version")
        return self._pool.model(name, "name").name
