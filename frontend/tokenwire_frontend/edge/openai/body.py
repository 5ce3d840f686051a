"""A request's body, read within bounds of size, time and structure."""

from __future__ import annotations

import asyncio

from aiohttp import web
from tokenwire_service.errors import Code, ServiceError, invalid

from tokenwire_frontend.core.json_text import JsonTextError, json_object
from tokenwire_frontend.edge.openai.fields import Fields

BODY_S = 30.0
"""Time that a body has to arrive: 4 MiB at a megabit a second."""

VALUES_LIMIT = 200_000
"""Values in one body. Each takes about 0.1 microseconds of the event loop to read: together as long
as gRPC takes for its largest message. A longer prompt of token ids comes by gRPC."""

NEST_VALUES = 3
"""Of these values that an array or an object counts as, by the time that it takes."""

FEW_BYTES = 64 * 1024
"""A body of so many bytes can't have more than these values, and is not counted."""


async def read_body(request: web.BaseRequest, limit_bytes: int) -> tuple[Fields, int]:
    """Returns the members of a request's body, and its size in bytes.

    Raises:
        ServiceError: it is too large, comes too slowly, or is not a JSON object.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ServiceError(
            Code.INVALID_ARGUMENT,
            "UNSUPPORTED_MEDIA_TYPE",
            "a body with a Content-Encoding is not supported",
        )
    declared = request.content_length
    if declared is not None and declared > limit_bytes:
        raise _too_large(limit_bytes)
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        async with asyncio.timeout(BODY_S):
            raw = await request.read()
    except TimeoutError as error:
        raise ServiceError(
            Code.INVALID_ARGUMENT,
            "BODY_TIMEOUT",
            f"the body did not arrive within {BODY_S:g} s",
        ) from error
    except web.RequestPayloadError as error:
        raise invalid("body", "is not framed as HTTP requires") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large(limit_bytes) from error
    return Fields(_parsed(raw)), len(raw)


def _parsed(raw: bytes) -> dict[str, object]:
    if len(raw) > FEW_BYTES and _values(raw) > VALUES_LIMIT:
        raise invalid("body", f"has more than {VALUES_LIMIT} JSON values, which is the most")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise invalid("body", "is not UTF-8") from error
    try:
        members = json_object(text)
    except JsonTextError as error:
        raise invalid("body", str(error)) from error
    if not members:
        raise invalid("body", "is empty; a JSON object is required")
    return members


def _values(raw: bytes) -> int:
    """Returns about how many values a JSON text has, without what stands in its strings."""
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = plain.count(b'"') // 2
    if strings > VALUES_LIMIT:
        return strings
    outside = plain.split(b'"')[::2]
    commas = sum(part.count(b",") for part in outside)
    nests = sum(part.count(b"[") + part.count(b"{") for part in outside)
    return commas + NEST_VALUES * nests + 1


def _too_large(limit_bytes: int) -> ServiceError:
    return ServiceError(
        Code.INVALID_ARGUMENT,
        "BODY_TOO_LARGE",
        f"the body has more than {limit_bytes} bytes (--max-request-bytes)",
    )
