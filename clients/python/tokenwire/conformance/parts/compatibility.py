"""Compatibility: the contract that the deployment has, beside the one of this client."""

from __future__ import annotations

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from tokenwire.conformance import reflected
from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.rule import Rule, expect
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


def _fields_are_added(deployment: Deployment) -> None:
    for file in _FILES:
        own = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)
        theirs = reflected.file(deployment, file.name)
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


RULES = (Rule("V1", "fields are added, never changed", _fields_are_added),)
