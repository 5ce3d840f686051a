"""Edits that make breaches: of requests, responses, events and failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.rpc import error_details_pb2
from tokenwire.frontend.v1 import generation_pb2

from tests.services.breaking_frontend import Breach, Failure

STOP = generation_pb2.FINISH_REASON_STOP


def of_request(method: str, edit: Callable[[Any], Any]) -> Breach:
    """Passes other requests on than were sent."""
    return Breach(requests={method: edit})


def of_response(method: str, edit: Callable[[Any], Any]) -> Breach:
    """Sends other messages than came."""
    return Breach(responses={method: edit})


def of_generation(edit: Callable[[Any], Any]) -> Breach:
    """Passes another generation on than a stream was asked for."""
    return of_request("StreamGenerate", lambda request: edit(request.generation))


def of_event(kind: str, edit: Callable[[Any], Any]) -> Breach:
    """Changes the stream's events of one kind."""

    def change(event: Any) -> None:
        if event.HasField(kind):
            edit(getattr(event, kind))

    return of_response("StreamGenerate", change)


def of_session_event(kind: str, edit: Callable[[Any], Any]) -> Breach:
    """Changes a session's events of one kind; the edit gets the SessionEvent."""

    def change(response: Any) -> None:
        for event in response.events:
            if event.HasField(kind):
                edit(event)

    return of_response("Session", change)


def of_session_open(edit: Callable[[Any], Any]) -> Breach:
    """Passes another Open on than was sent."""
    return of_request("Session", lambda request: edit(request.open) if request.open.id else None)


def of_failure(edit: Callable[[Failure], None]) -> Breach:
    """Lets calls fail in another way."""
    return Breach(failures=edit)


def of_model(edit: Callable[[Any], Any]) -> Breach:
    """Describes another model."""
    return of_response("GetModel", lambda response: edit(response.model))


def claiming(capability: Any, breach: Breach) -> Breach:
    """Adds that the model has a capability, which the deployment then does not honour."""
    claimed = of_model(lambda model: model.capabilities.append(capability))
    return Breach(breach.requests, {**breach.responses, **claimed.responses})


def clearing(field: str) -> Callable[[Any], None]:
    """Returns an edit that clears a field, by its path."""
    *parents, name = field.split(".")

    def clear(message: Any) -> None:
        for parent in parents:
            message = getattr(message, parent)
        message.ClearField(name)

    return clear


def setting(**values: Any) -> Callable[[Any], None]:
    """Returns an edit that sets fields."""

    def set_fields(message: Any) -> None:
        for name, value in values.items():
            setattr(message, name, value)

    return set_fields


def adding(field: str, amount: int = 1) -> Callable[[Any], None]:
    """Returns an edit that adds to a field."""
    return lambda message: setattr(message, field, getattr(message, field) + amount)


def replacing(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Returns an edit of bytes."""
    return lambda data: data.replace(old, new)


def without(kind: str) -> Callable[[Any], Any]:
    """Leaves out events of a kind."""
    return lambda event: [] if event.HasField(kind) else None


def restatus(change: Callable[[Any], None]) -> Callable[[Failure], None]:
    """Changes the details that come with failures."""

    def edit(failure: Failure) -> None:
        if failure.status is not None:
            change(failure.status)

    return edit


def rereason(status: Any) -> None:
    """Gives an error another reason, and no other details."""
    info = error_details_pb2.ErrorInfo(reason="OTHER", domain="tokenwire")
    del status.details[:]
    status.details.add().Pack(info)


def error_of(number: int) -> Callable[[Any], None]:
    """Turns a session's events of a number into errors."""

    def edit(response: Any) -> None:
        for event in response.events:
            if event.id == number:
                event.error.message = "broken"

    return edit


def end_as_stop(event: Any) -> None:
    """Lets a sequence end for another reason."""
    if event.delta.HasField("end"):
        event.delta.end.reason = STOP
