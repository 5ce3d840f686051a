"""Server reflection, as v1 and as v1alpha: the same messages under two names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

V1 = "grpc.reflection.v1.ServerReflection"
"""grpcio-reflection has v1alpha only, which tools ask for where v1 is missing, if at all."""


class _Descriptors:
    """A DescriptorPool for grpcio-reflection that finds what the default one does not.

    That is methods by their names, and reflection itself as v1.
    """

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()
        self._pools = (self._pool, _v1())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileByName(self, name: str) -> FileDescriptor:
        """Returns the file; raises KeyError."""
        for pool in self._pools:
            try:
                return pool.FindFileByName(name)
            except KeyError:
                continue
        raise KeyError(name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Returns the file that defines a symbol; raises KeyError."""
        service, _, method = symbol.rpartition(".")
        for pool in self._pools:
            try:
                return pool.FindFileContainingSymbol(symbol)
            except KeyError:
                pass
            try:
                found = pool.FindServiceByName(service)
            except KeyError:
                continue
            if method in found.methods_by_name:
                return found.file
        raise KeyError(symbol)


def _v1() -> descriptor_pool.DescriptorPool:
    """Returns a pool that has reflection as v1, whose messages are v1alpha's under another name."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.ClearField("options")  # the names that its own generated code has
    old, file.package = file.package, V1.rpartition(".")[0]
    file.name = f"{file.package.replace('.', '/')}/reflection.proto"

    def moved(name: str) -> str:
        return name.replace(f".{old}.", f".{file.package}.")

    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = moved(field.type_name)
    for method in file.service[0].method:
        method.input_type, method.output_type = moved(method.input_type), moved(method.output_type)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


class _Servicer:
    """grpcio-reflection's, as a coroutine that writes: see rpc_boundary."""

    def __init__(self, services: Sequence[str]) -> None:
        servicer = reflection.aio.ReflectionServicer(services, _Descriptors())
        self._answers = servicer.ServerReflectionInfo

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
