"""Ways to break the contract, by the rule that is broken, and what the check then says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.rpc import error_details_pb2
from tokenwire.frontend.v1 import activity_pb2, generation_pb2, model_pb2

from tests.services.breach_edits import (
    adding,
    claiming,
    clearing,
    end_as_stop,
    error_of,
    of_event,
    of_failure,
    of_generation,
    of_model,
    of_request,
    of_response,
    of_session_event,
    of_session_open,
    replacing,
    rereason,
    restatus,
    setting,
    without,
)
from tests.services.breaches_of_kept_generations import BREACHES as OF_KEPT_GENERATIONS
from tests.services.breaking_frontend import Breach, Failure

_STREAM = generation_pb2.StreamGenerateResponse


def _split(event: Any) -> list[Any] | None:
    """Sends each id of a delta in an event of its own."""
    delta = event.delta
    if len(delta.token_ids) < 2:
        return None
    events = []
    for place, token in enumerate(delta.token_ids):
        one = _STREAM(delta=delta)
        one.delta.token_offset += place
        one.delta.token_ids[:] = [token]
        if place:
            one.delta.text = ""
        events.append(one)
    return events


def _ended_by_itself(response: Any) -> None:
    response.record.outcome = activity_pb2.OUTCOME_COMPLETED


def _rename_field(failure: Failure) -> None:
    def rename(status: Any) -> None:
        for detail in status.details:
            found = error_details_pb2.BadRequest()
            if detail.Unpack(found):
                found.field_violations[0].field = "sampling"
                detail.Pack(found)

    restatus(rename)(failure)


def _rename_event_field(event: Any) -> None:
    for detail in event.error.details:
        found = error_details_pb2.BadRequest()
        if detail.Unpack(found):
            found.field_violations[0].field = "generation.sampling.temperature"
            detail.Pack(found)


def _plain_content(generation: Any) -> None:
    for message in generation.prompt.chat.messages:
        del message.content_parts[:]
        message.content = "Hello"


def _two_tokens_at_any_time(generation: Any) -> None:
    generation.stop.max_tokens = 2
    generation.ClearField("time_budget")


def _short_prompt(generation: Any) -> None:
    del generation.prompt.token_ids.ids[4:]


def _valid_tools(request: Any) -> None:
    for tool in request.chat.tools:
        tool.parameters = "{}"


def _swap_keys(response: Any) -> None:
    text = response.text.replace("zeta", "omega").replace("alpha", "zeta")
    response.text = text.replace("omega", "alpha")


def _hide_bytes(delta: Any) -> None:
    for each in delta.logprobs:
        each.token = b"?"


def _many_trailers(failure: Failure) -> None:
    failure.more_trailers.append(("more", "x" * 5000))


def _recode(code: grpc.StatusCode) -> Callable[[Failure], None]:
    def edit(failure: Failure) -> None:
        failure.code, failure.status = code, None

    return edit


def _small_context(model: Any) -> None:
    model.context_tokens, model.prompt_tokens_limit = 64, 60


BREACHES: dict[str, tuple[Breach, str]] = {
    "D1": (of_response("Check", lambda _: b"\x08\x02"), "health of the empty name is 2"),
    "D2": (
        of_response("ServerReflectionInfo", replacing(b"ActivityService", b"ActivityServant")),
        "ActivityService is not listed",
    ),
    "D3": (of_model(adding("context_tokens")), "describe demo differently"),
    "D4": (
        of_generation(lambda what: setting(model=what.model or "other")(what)),
        "NOT_FOUND UNKNOWN_MODEL",
    ),
    "D5": (
        of_response("ListModels", lambda found: adding("ready_worker_count")(found.models[0])),
        "ready_worker_count is 2; 1 workers",
    ),
    "D6": (of_response("WatchActivity", lambda response: [response] * 3), "three messages came"),
    "D7": (
        of_response("GetRecord", lambda response: adding("outcome")(response.record)),
        "the record says OUTCOME_CANCELLED",
    ),
    "D8": (
        of_model(lambda model: model.capabilities.append(model_pb2.CAPABILITY_LOGIT_BIAS)),
        "INVALID_ARGUMENT INVALID_FIELD",
    ),
    "K1": (of_response("Tokenize", lambda response: response.offset_ends.pop()), " ends"),
    "K2": (
        of_response("StreamTokenize", lambda response: response.token_ids.reverse()),
        "other ids than Tokenize's",
    ),
    "K3": (
        of_response("StreamDetokenize", clearing("text")),
        "'' came in pieces",
    ),
    "K4": (of_response("RenderChat", lambda response: response.token_ids.pop()), "the ids are not"),
    "S1": (of_response("StreamGenerate", without("completed")), "the events were accepted, delta"),
    "S2": (of_event("delta", adding("token_offset")), "token_offset is 1 where 0 were sent"),
    "S3": (of_event("delta", adding("text_offset")), "text_offset is 1 where 0 were sent"),
    "S4": (of_event("delta", clearing("end")), "sequence 0 has no end"),
    "S5": (
        of_response("StreamGenerate", lambda event: [_STREAM(delta={}), event]),
        "a delta has nothing in it",
    ),
    "S6": (of_event("delta", clearing("text")), "the text is ''"),
    "S7": (of_generation(clearing("sequence_count")), "sequences [0] came of 2"),
    "S8": (
        of_event("completed", lambda event: adding("completion_tokens")(event.usage)),
        "9 completion tokens; 8 ids were sent",
    ),
    "S9": (of_event("completed", clearing("timings.stages")), "stages of no service"),
    "S10": (of_event("accepted", setting(request_id="other")), "came back as 'other'"),
    "S11": (
        of_generation(lambda what: adding("max_tokens", -1)(what.stop)),
        "7 tokens of 8",
    ),
    "S12": (of_generation(clearing("stop.stop")), "with the stop"),
    "S13": (of_generation(clearing("stop.include_stop_in_output")), "with the stop"),
    "S14": (of_generation(clearing("stop.stop_token_ids")), "is not the last of"),
    "S15": (of_generation(clearing("stop.min_tokens")), "ended the sequence at token 1 of 4"),
    "S16": (
        claiming(model_pb2.CAPABILITY_LOGIT_BIAS, of_generation(clearing("sampling.logit_bias"))),
        "the text is ' Paris.'; not empty",
    ),
    "S17": (of_response("StreamGenerate", _split), "8 tokens came in "),
    "S19": (of_response("GetRecord", _ended_by_itself), "its record says OUTCOME_COMPLETED"),
    "S20": (of_response("GetRecord", _ended_by_itself), "its record says OUTCOME_COMPLETED"),
    "S21": (
        of_generation(_two_tokens_at_any_time),
        "ended with FINISH_REASON_LENGTH; not FINISH_REASON_TIME_BUDGET",
    ),
    "S22": (
        claiming(
            model_pb2.CAPABILITY_PROMPT_LOGPROBS,
            Breach(
                requests=of_generation(
                    lambda what: what.CopyFrom(
                        generation_pb2.Generation(prompt={"text": "Hello"}, stop={"max_tokens": 1})
                    )
                ).requests,
                responses=of_event("accepted", setting(request_id="r" * 2**20)).responses,
            ),
        ),
        "a message has 1048",
    ),
    "S23": (
        of_response("Generate", lambda response: clearing("end")(response.sequences[1])),
        "a sequence has no end",
    ),
    "M1": (
        of_session_event("delta", lambda event: adding("token_offset")(event.delta)),
        "token_offset is 1 where 0 were sent",
    ),
    "M2": (of_response("Session", error_of(2)), "generation 2 ended with an error"),
    "M3": (of_session_event("delta", end_as_stop), "not FINISH_REASON_CANCELLED"),
    "M4": (
        of_session_event("error", lambda event: clearing("details")(event.error)),
        "not INVALID_ARGUMENT INVALID_FIELD",
    ),
    "M5": (of_session_event("delta", end_as_stop), "not FINISH_REASON_CANCELLED"),
    "M6": (of_response("Session", error_of(1)), "generation 1 ended with an error"),
    "M7": (
        of_session_event("error", lambda event: event.completed.SetInParent()),
        "generation 1 ended without an error",
    ),
    "M8": (
        of_session_event("error", lambda event: setting(code=13)(event.error)),
        "INTERNAL INVALID_FIELD",
    ),
    "M9": (
        of_session_event("error", lambda event: clearing("details")(event.error)),
        "not INVALID_ARGUMENT INVALID_FIELD",
    ),
    "M10": (
        of_session_event("completed", lambda event: event.delta.SetInParent()),
        "the generation did not end",
    ),
    "M11": (of_response("GetRecord", _ended_by_itself), "its record says OUTCOME_COMPLETED"),
    "J1": (of_response("RenderChat", _swap_keys), "keys in another order"),
    "J2": (of_request("RenderChat", _valid_tools), "the request was not refused"),
    "P1": (of_event("accepted", adding("prompt_token_count")), "the prompt has "),
    "P2": (of_event("accepted", adding("prompt_token_count")), "the prompt has "),
    "P3": (of_event("accepted", adding("prompt_token_count")), "the prompt has "),
    "P5": (
        of_generation(_short_prompt),
        "the request was not refused",
    ),
    "P6": (
        of_generation(clearing("prompt.truncate_prompt_tokens")),
        "of which 3 were kept",
    ),
    "P7": (of_generation(clearing("output.echo")), "the text begins with"),
    "P8": (of_generation(_plain_content), "the request was not refused"),
    "B1": (
        claiming(
            model_pb2.CAPABILITY_BANNED_WORDS, of_generation(clearing("sampling.banned_words"))
        ),
        "was banned and was generated",
    ),
    "B2": (
        claiming(model_pb2.CAPABILITY_LOGIT_BIAS, of_generation(clearing("sampling.logit_bias"))),
        "came first in spite of a bias",
    ),
    "L1": (of_event("delta", clearing("logprobs")), "log probabilities of [] came with ids"),
    "L2": (
        of_event("delta", _hide_bytes),
        "the bytes are '????????'",
    ),
    "L3": (
        claiming(model_pb2.CAPABILITY_TOP_LOGPROBS, of_generation(clearing("output.top_logprobs"))),
        "0 alternatives of 3",
    ),
    "L4": (
        claiming(
            model_pb2.CAPABILITY_PROMPT_LOGPROBS, of_generation(clearing("output.prompt_logprobs"))
        ),
        "no log probabilities of the prompt came",
    ),
    "E1": (of_failure(setting(status=None)), "ErrorInfo's domain is ''"),
    "E2": (of_failure(restatus(rereason)), "INVALID_ARGUMENT OTHER"),
    "E3": (of_failure(_rename_field), "was named; not generation.sampling."),
    "E4": (
        of_session_event("error", _rename_event_field),
        "generation.sampling.temperature was named; not open.",
    ),
    "E5": (
        of_model(lambda model: model.capabilities.remove(model_pb2.CAPABILITY_LOGPROBS)),
        "the request was not refused",
    ),
    "E6": (of_failure(restatus(rereason)), "NOT_FOUND OTHER"),
    "E10": (of_failure(_recode(grpc.StatusCode.UNKNOWN)), "Generate ended with UNKNOWN"),
    "E11": (of_failure(_recode(grpc.StatusCode.UNKNOWN)), "more than 4 MiB ended with UNKNOWN"),
    "E12": (of_failure(_many_trailers), "the trailers of a refusal have "),
    "E13": (of_failure(_recode(grpc.StatusCode.UNKNOWN)), "NoSuchMethod ended with UNKNOWN"),
    "F2": (
        Breach(
            requests=of_generation(lambda what: setting(max_tokens=3)(what.stop)).requests,
            responses=of_model(_small_context).responses,
        ),
        "3 tokens were generated where there was room for 16",
    ),
    "T1": (Breach(metadata=lambda _: []), "accepted has trace id"),
    "T2": (of_session_open(clearing("trace_context")), "accepted has trace id"),
    "T3": (
        of_session_event("accepted", lambda event: setting(trace_id="a" * 32)(event.accepted)),
        "requests share a trace id",
    ),
    "V1": (
        of_response("ServerReflectionInfo", replacing(b"token_offset", b"token_offzet")),
        "token_offzets; in this client's contract it is token_offsets",
    ),
    **OF_KEPT_GENERATIONS,
}
