"""Server reflection, as v1 and as v1alpha: the same messages under two names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

V1 = "grpc.reflection.v1.ServerReflection"
"""grpcio-reflection has v1alpha only, which tools ask for where v1 is missing, if at all."""


class _Servicer:
    """grpcio-reflection's, as a coroutine that writes: see rpc_boundary."""

    def __init__(self, services: Sequence[str]) -> None:
        self._answers = reflection.aio.ReflectionServicer(services).ServerReflectionInfo

    async def ServerReflectionInfo(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Answers each request."""
        async for answer in self._answers(requests, context):
            await context.write(answer)


def enable_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Offers reflection of the named services, and of itself."""
    servicer = _Servicer([*services, V1, reflection.SERVICE_NAME])
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(V1, {"ServerReflectionInfo": handler}),)
    )
