"""Compatibility: the contract that the deployment has, beside the one of this client."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, empty_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet

from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.parts.services import reflect
from tokenwire.conformance.rule import Broken, Rule, expect
from tokenwire.frontend.v1 import (
    activity_pb2,
    generation_pb2,
    model_pb2,
    options_pb2,
    prompt_pb2,
    tokenization_pb2,
)

_FILES: tuple[FileDescriptor, ...] = (
    generation_pb2.DESCRIPTOR,
    options_pb2.DESCRIPTOR,
    prompt_pb2.DESCRIPTOR,
    model_pb2.DESCRIPTOR,
    tokenization_pb2.DESCRIPTOR,
    activity_pb2.DESCRIPTOR,
)
_FILE_BY_FILENAME = b"\x1a"
"""Tag of ServerReflectionRequest's field 3; and the numbers of fields of the response."""
_FILE_DESCRIPTOR_RESPONSE = 4
_FILE_DESCRIPTOR_PROTO = 1


def _fields_are_added(deployment: Deployment) -> None:
    for file in _FILES:
        own = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
        theirs = _file_there(deployment, file.name)
        told = {message.name: message for message in theirs.message_type}
        for message in own.message_type:
            if message.name in told:
                _compare(message, told[message.name])


def _compare(own: descriptor_pb2.DescriptorProto, theirs: descriptor_pb2.DescriptorProto) -> None:
    """Raises Broken where a number or name of both is another field."""
    numbers = {field.number: field for field in theirs.field}
    for field in own.field:
        found = numbers.get(field.number)
        if found is None:
            continue  # one of the two is older
        same = (found.name, found.type, found.label, found.type_name) == (
            field.name,
            field.type,
            field.label,
            field.type_name,
        )
        seen = f"field {field.number} of {own.name} is {found.name}"
        expect(same, f"{seen}; in this client's contract it is {field.name}, or of another type")


def _file_there(deployment: Deployment, name: str) -> descriptor_pb2.FileDescriptorProto:
    request = _FILE_BY_FILENAME + bytes([len(name)]) + name.encode()
    response = reflect(deployment, request)
    for files in _parts(response, _FILE_DESCRIPTOR_RESPONSE):
        for file in _parts(files, _FILE_DESCRIPTOR_PROTO):
            found = descriptor_pb2.FileDescriptorProto.FromString(file)
            if found.name == name:
                return found
    raise Broken(f"reflection does not have {name}")


def _parts(message: bytes, number: int) -> list[bytes]:
    """Returns the values of a field of messages or strings, of a message without stubs here."""
    fields: Any = UnknownFieldSet(empty_pb2.Empty.FromString(message))
    return [each.data for each in fields if each.field_number == number]


RULES = (Rule("V1", "fields are added, never changed", _fields_are_added),)
