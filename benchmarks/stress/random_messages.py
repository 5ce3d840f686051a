"""Random requests of every RPC, made by walking the contracts' descriptors."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

DEPTH_LIMIT = 7
"""Of messages within messages; the contracts themselves nest less deep."""

FLOATS = (0.0, -0.0, 1.0, 0.5, 2.0, -1.0, 1e-45, 3.4e38, math.nan, math.inf, -math.inf)
TEXTS = (
    *("", "demo", "a", "Hello", "\x00", "\ufeff", "\u202e", "🙂" * 50, "<|end|><|begin|>", "é"),
    *('{"type": "object"}', '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 9_000, "(" * 300, "[a-z]+"),
    *('root ::= "a"', "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "{{", "%s", "../..", "a" * 50_000),
)

_BITS = {
    FieldDescriptor.TYPE_INT32: 31,
    FieldDescriptor.TYPE_INT64: 63,
    FieldDescriptor.TYPE_UINT32: 32,
    FieldDescriptor.TYPE_UINT64: 64,
    FieldDescriptor.TYPE_FIXED64: 64,
}


class RandomMessages:
    """Makes requests.

    Args:
        source: where all chance comes from.
    """

    def __init__(self, source: Random) -> None:
        self._source = source

    def request(self, method: MethodDescriptor) -> bytes:
        """Returns bytes for an RPC: a random message, one that is nearly good, or no message."""
        chance = self._source.random()
        if chance < 0.1:
            return self._source.randbytes(self._source.randrange(40))
        message = self._message(method.input_type, 0)
        if chance < 0.6:
            self._mend(message)
        data: bytes = message.SerializeToString()
        if chance > 0.97 and data:
            data = data[: self._source.randrange(len(data))]  # cut short
        return data

    def _message(self, descriptor: Descriptor, depth: int) -> Message:
        message = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            # Deeper messages are sparser, so that a message stays of a size.
            if depth < DEPTH_LIMIT and not self._source.randrange(2 + depth // 2):
                self._fill(message, field, depth)
        return message

    def _fill(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        make: Callable[[], Any]
        if field.message_type is not None:
            submessage = field.message_type

            def make() -> Any:
                return self._message(submessage, depth + 1)

            most = 3
        else:

            def make() -> Any:
                return self._scalar(field)

            most = 40
        if field.is_repeated:
            values = [make() for _ in range(self._source.randrange(most + 1))]
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(make())
        else:
            setattr(message, field.name, make())

    def _scalar(self, field: FieldDescriptor) -> Any:
        source = self._source
        if field.enum_type is not None:
            known = [value.number for value in field.enum_type.values]
            return source.choice([*known, *known, 99, -1, 2**31 - 1])
        if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
            return source.choice(FLOATS)
        if field.type == FieldDescriptor.TYPE_STRING:
            return source.choice(TEXTS)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return source.randbytes(source.randrange(40))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return source.random() < 0.5
        return source.choice((0, 1, 2, 5, 1000, 2 ** _BITS[field.type] - 1))

    def _mend(self, message: Message) -> None:
        """Makes a generation in the message likely to be accepted, but for what is left random."""
        fields: Any = message
        names = message.DESCRIPTOR.fields_by_name
        if message.DESCRIPTOR.name == "Generation":
            fields.model = ""
            fields.prompt.text = self._source.choice(("Hello", "1 + 1 =", "🙂"))
            fields.prompt.ClearField("add_special_tokens")
            fields.stop.max_tokens = self._source.randrange(1, 9)
        elif message.DESCRIPTOR.full_name == "tokenwire.worker.v1.Request":
            fields.prompt_token_ids[:] = [5, 6, 7]
            fields.stopping.max_tokens = self._source.randrange(1, 9)
        else:
            for name in ("generation", "request", "open", "submit"):
                if name in names and self._source.randrange(4):
                    self._mend(getattr(message, name))
            return
        # Of the other parts most are left out, so that what stays is met alone.
        for name in names:
            spared = ("model", "prompt", "stop", "prompt_token_ids", "stopping")
            if name not in spared and self._source.randrange(3):
                message.ClearField(name)
