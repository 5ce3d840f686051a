"""tokenwire.frontend.v1.ModelService."""

from __future__ import annotations

from typing import Any

import grpc
from tokenwire.frontend.v1 import model_pb2, model_pb2_grpc

from tokenwire_frontend.edge.grpc import to_proto
from tokenwire_frontend.workers.pool import WorkerPool

Context = grpc.aio.ServicerContext[Any, Any]


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Tells what the pool knows."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    async def ListModels(
        self,
        request: model_pb2.ListModelsRequest,
        context: Context,
    ) -> model_pb2.ListModelsResponse:
        """Lists the models by name."""
        models = sorted(self._pool.models.values(), key=lambda model: model.name)
        return model_pb2.ListModelsResponse(models=map(to_proto.model, models))

    async def GetModel(
        self,
        request: model_pb2.GetModelRequest,
        context: Context,
    ) -> model_pb2.GetModelResponse:
        """Describes one model."""
        model = self._pool.model(request.name, "name")
        return model_pb2.GetModelResponse(model=to_proto.model(model))

    async def ListWorkers(
        self,
        request: model_pb2.ListWorkersRequest,
        context: Context,
    ) -> model_pb2.ListWorkersResponse:
        """Lists the workers by address."""
        return model_pb2.ListWorkersResponse(workers=to_proto.workers(self._pool))
