"""The contract that a deployment has, as its reflection tells.

The client has no stubs of reflection, so its few messages are read and written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from google.protobuf import descriptor_pb2, empty_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.unknown_fields import UnknownFieldSet

from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.rule import Broken, Rule, Skipped

_INFO = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
_LIST_SERVICES = b"\x3a\x01*"
"""A ServerReflectionRequest with `list_services: "*"`."""
_FILE_BY_FILENAME = b"\x1a"
"""Tag of ServerReflectionRequest's field of this name."""
_FILE_DESCRIPTOR_RESPONSE = 4
_FILE_DESCRIPTOR_PROTO = 1
"""Numbers of fields of the response."""


def services(deployment: Deployment) -> bytes:
    """Returns the answer that lists the services; their names stand in it as they are."""
    return _ask(deployment, _LIST_SERVICES)


def file(deployment: Deployment, name: str) -> descriptor_pb2.FileDescriptorProto:
    """Returns a proto file of the deployment; raises Broken where it has none of this name."""
    response = _ask(deployment, _FILE_BY_FILENAME + bytes([len(name)]) + name.encode())
    for files in _parts(response, _FILE_DESCRIPTOR_RESPONSE):
        for data in _parts(files, _FILE_DESCRIPTOR_PROTO):
            found = descriptor_pb2.FileDescriptorProto.FromString(data)
            if found.name == name:
                return found
    raise Broken(f"reflection does not have {name}")


def needing(message: Descriptor, field: str, *rules: Rule) -> tuple[Rule, ...]:
    """Returns rules that are skipped where the deployment is of a time before a field."""
    return tuple(replace(rule, check=partial(_check, message, field, rule.check)) for rule in rules)


def _check(
    message: Descriptor, field: str, check: Callable[[Deployment], None], deployment: Deployment
) -> None:
    for each in file(deployment, message.file.name).message_type:
        if each.name == message.name and field in {known.name for known in each.field}:
            check(deployment)
            return
    raise Skipped(f"the deployment's contract has no {message.name}.{field}")


def _ask(deployment: Deployment, request: bytes) -> bytes:
    inquire: Any = deployment.channel.stream_stream(_INFO)
    call = inquire(iter([request]), timeout=deployment.left_s)
    answer: bytes = next(call)
    call.cancel()
    return answer


def _parts(message: bytes, number: int) -> list[bytes]:
    """Returns the values of a field of messages or strings, of a message without stubs here."""
    fields: Any = UnknownFieldSet(empty_pb2.Empty.FromString(message))
    return [each.data for each in fields if each.field_number == number]
