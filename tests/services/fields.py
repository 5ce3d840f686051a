"""Walks the contracts' own descriptors: every RPC, and every field of its request."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from tokenwire.frontend.v1 import activity_pb2, generation_pb2, model_pb2, tokenization_pb2
from tokenwire.worker.v1 import admin_pb2, execution_pb2, worker_pb2
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2

FILES = {
    "frontend": (generation_pb2, tokenization_pb2, model_pb2, activity_pb2, grpc_service_pb2),
    "worker": (execution_pb2, worker_pb2, admin_pb2),
}


def methods(service: str) -> list[MethodDescriptor]:
    """Returns every RPC of the frontend or of the worker."""
    return [
        method
        for file in FILES[service]
        for each in file.DESCRIPTOR.services_by_name.values()
        for method in each.methods
    ]


def path_of(method: MethodDescriptor) -> str:
    """Returns the RPC's path on the wire."""
    return f"/{method.containing_service.full_name}/{method.name}"


def is_repeated(field: FieldDescriptor) -> bool:
    return field.is_repeated


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def is_own(descriptor: Descriptor) -> bool:
    """Tells a message of the contracts from those of google.protobuf, which are values here."""
    return descriptor.file.package.startswith("tokenwire.")


def field_paths(descriptor: Descriptor, prefix: str = "") -> Iterator[str]:
    """Yields the path of every field of a message, from its root, without places in lists."""
    for field in descriptor.fields:
        path = f"{prefix}{field.name}"
        yield path
        if field.message_type is not None and is_own(field.message_type):
            yield from field_paths(field.message_type, f"{path}.")
