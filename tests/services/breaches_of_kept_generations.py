"""Breaches of the rules of delivery, continuation, generations that are kept, and conversations."""

from __future__ import annotations

from typing import Any

from tests.services.breach_edits import (
    adding,
    clearing,
    end_as_stop,
    error_of,
    of_event,
    of_failure,
    of_generation,
    of_request,
    of_response,
    of_session_event,
    of_session_open,
    rereason,
    restatus,
    setting,
    without,
)
from tests.services.breaking_frontend import Breach


def _forget_an_id(generation: Any) -> None:
    for each in generation.output_so_far:
        each.token_ids.pop()


def _forget_an_end(generation: Any) -> None:
    for each in generation.output_so_far:
        each.ended = False


BREACHES: dict[str, tuple[Breach, str]] = {
    "R1": (
        of_request("StreamGenerate", clearing("stream.max_tokens")),
        " ids of at most 2",
    ),
    "R2": (
        of_request("StreamGenerate", clearing("stream.content")),
        "came where ids alone were asked for",
    ),
    "R3": (of_session_open(clearing("credit_tokens")), "8 tokens came of a credit of 3"),
    "R4": (
        of_session_open(clearing("credit_messages")),
        "deltas came of a credit of one message",
    ),
    "R5": (
        of_session_event("delta", lambda event: setting(token_offset=0)(event.delta)),
        "token_offset is 0 where",
    ),
    "R6": (of_response("Session", error_of(2)), "generation 2 ended with an error"),
    "R7": (
        of_session_event("accepted", setting(id=2)),
        "an event came for credit of no use",
    ),
    "R8": (of_response("Session", error_of(1)), "generation 1 ended with an error"),
    "R10": (of_session_event("delta", end_as_stop), "not FINISH_REASON_CANCELLED"),
    "R11": (
        of_session_event("completed", lambda event: event.delta.SetInParent()),
        "the generation did not end",
    ),
    "R12": (of_session_open(clearing("credit_tokens")), "generation 1 ended without an error"),
    "A1": (of_event("accepted", clearing("resume_token")), "accepted has no resume_token"),
    "A2": (of_response("Attach", without("completed")), "the events were accepted, delta"),
    "A3": (
        of_request("Attach", clearing("token_offsets")),
        "the first delta's token_offset is 0; not 1",
    ),
    "A4": (of_response("Attach", without("accepted")), "the events were delta"),
    "A5": (of_response("Attach", without("accepted")), "the events were delta"),
    "A6": (of_response("Attach", end_as_stop), "not FINISH_REASON_CANCELLED"),
    "A7": (of_generation(clearing("on_disconnect")), "INVALID_ARGUMENT INVALID_FIELD"),
    "A8": (
        of_session_event("delta", lambda event: adding("token_offset")(event.delta)),
        "token_offset is 1 where 0 were sent",
    ),
    "A9": (of_failure(restatus(rereason)), "INVALID_ARGUMENT OTHER"),
    "A10": (of_generation(clearing("detach_ttl")), "it was kept for longer than its detach_ttl"),
    "A11": (of_request("Attach", clearing("token_offsets")), "the request was not refused"),
    "I1": (of_generation(clearing("idempotency_key")), "accepted.attached is false"),
    "I2": (of_generation(clearing("idempotency_key")), "the request was not refused"),
    "I3": (of_generation(clearing("output_so_far")), "the answer began after 0 ids; 4 were there"),
    "I4": (of_generation(clearing("sampling.temperature")), "the request was not refused"),
    "H1": (of_event("accepted", clearing("conversation")), "accepted.conversation is not set"),
    "H2": (
        of_event("accepted", lambda event: adding("messages")(event.conversation)),
        "3 messages were held; not 2",
    ),
    "H3": (of_generation(clearing("conversation")), "the request was not refused"),
    "H4": (of_generation(clearing("conversation")), "the request was not refused"),
    "H5": (of_generation(clearing("conversation")), "the request was not refused"),
    "H6": (
        of_event("accepted", lambda event: adding("messages")(event.conversation)),
        "3 messages were held; not 2",
    ),
    "H7": (of_generation(clearing("conversation")), "the request was not refused"),
    "C1": (of_event("delta", setting(token_offset=0)), "token_offset is 0 after 3 ids"),
    "C2": (of_generation(_forget_an_id), " followed; not "),
    "C3": (
        of_generation(lambda what: adding("max_tokens")(what.stop)),
        "6 ids followed; 5 are left",
    ),
    "C4": (of_generation(clearing("stop.stop")), "ended with FINISH_REASON_LENGTH"),
    "C5": (of_generation(_forget_an_end), "ids of a sequence came that had ended"),
    "C6": (
        of_event("completed", lambda event: adding("prompt_tokens")(event.usage)),
        "prompt tokens are counted",
    ),
    "C7": (
        of_request("Generate", clearing("generation.output_so_far")),
        "the request was not refused",
    ),
}
