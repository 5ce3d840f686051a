"""The trace of a generation that runs to its end, on both hops, as one collector gets it."""

from __future__ import annotations

import pytest
from tokenwire.frontend.v1 import generation_pb2
from tokenwire_service.telemetry import semconv

from tests.services.calls import endless, generation, refused
from tests.telemetry.trees import Caller, call, check_tree, only, ran, under

GENERATION = "text_completion demo"
HOP = "tokenwire.worker.v1.ExecutionService/Exchange"


def test_a_stream_is_one_trace_on_both_hops(pair):
    caller = Caller()
    what = generation("Hello", 12, request_id="both-hops", sampling={"temperature": 0.0, "seed": 7})
    streamed = pair.frontend.stream(what, metadata=caller.metadata)
    assert streamed.accepted.trace_id == caller.trace_id
    spans = check_tree(pair.collector, caller, under(call("StreamGenerate"), ran()))
    own = only(spans, "frontend", GENERATION).attributes
    tokens = streamed.completed.usage.prompt_tokens
    reason = own.pop("tokenwire.route.reason")
    assert own == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "tokenwire",
        "gen_ai.request.model": "demo",
        "gen_ai.request.max_tokens": 12,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.seed": 7,
        "gen_ai.usage.input_tokens": tokens,
        "gen_ai.usage.output_tokens": 12,
        "gen_ai.response.finish_reasons": ["length"],
        "tokenwire.request_id": "both-hops",
        "tokenwire.worker": "shared",
    }
    assert only(spans, "worker", GENERATION).attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "tokenwire",
        "gen_ai.request.model": "demo",
        "gen_ai.request.max_tokens": 12,
        "tokenwire.prompt_tokens": tokens,
        "tokenwire.completion_tokens": 12,
        "gen_ai.response.finish_reasons": ["length"],
        "tokenwire.request_id": "both-hops",
        "tokenwire.worker": "shared",
        "tokenwire.engine": "openvino",
    }
    route = only(spans, "frontend", "route").attributes
    assert route == {"tokenwire.worker": "shared", "tokenwire.route.reason": reason}
    assert reason.startswith("prefix only load=")
    hop = only(spans, "frontend", HOP).attributes
    host, _, port = pair.worker.address.rpartition(":")
    assert hop == {
        "rpc.system.name": "grpc",
        "rpc.method": HOP,
        "rpc.response.status_code": "OK",
        "server.address": host,
        "server.port": int(port),
    }


def test_every_span_says_which_service_of_which_version_made_it(pair):
    caller = Caller()
    pair.frontend.stream(generation(max_tokens=2), metadata=caller.metadata)
    spans = check_tree(pair.collector, caller, under(call("StreamGenerate"), ran()))
    assert {(each.origin.scope, each.origin.schema_url) for each in spans} == {
        ("tokenwire", semconv.SCHEMA_URL)
    }
    resources = {each.service: dict(each.origin.resource) for each in spans}
    assert set(resources) == {"tokenwire-frontend", "tokenwire-worker"}
    for resource in resources.values():
        assert resource["service.version"]
        assert resource["telemetry.sdk.name"] == "opentelemetry"
    assert resources["tokenwire-worker"]["service.instance.id"] == "shared"
    assert resources["tokenwire-frontend"]["service.instance.id"]


def test_a_unary_call(pair):
    caller = Caller()
    answer = pair.frontend.generate(generation(max_tokens=3), metadata=caller.metadata)
    assert answer.trace_id == caller.trace_id
    spans = check_tree(pair.collector, caller, under(call("Generate"), ran()))
    own = only(spans, "frontend", GENERATION).attributes
    assert own["tokenwire.request_id"] == answer.request_id
    rpc = spans[0].attributes
    assert rpc["rpc.response.status_code"] == "OK"
    assert "error.type" not in rpc


def test_a_call_without_a_trace_context_starts_a_trace(pair):
    answer = pair.frontend.generate(generation(max_tokens=3))
    spans = check_tree(pair.collector, answer.trace_id, under(call("Generate"), ran()))
    assert spans[0].span.parent_span_id == b""


def test_a_chat_is_rendered_and_tokenised(pair):
    caller = Caller()
    chat = {"chat": {"messages": [{"role": "ROLE_USER", "content": "Hello"}]}}
    pair.frontend.stream(generation(chat, 4), metadata=caller.metadata)
    whole = under(call("StreamGenerate"), ran("chat", before=("render", "tokenize")))
    spans = check_tree(pair.collector, caller, whole)
    own = only(spans, "frontend", "chat demo").attributes
    assert own["gen_ai.operation.name"] == "chat"


def test_a_prompt_of_ids_is_not_tokenised(pair):
    caller = Caller()
    pair.frontend.stream(generation([5, 6, 7], 4), metadata=caller.metadata)
    spans = check_tree(pair.collector, caller, under(call("StreamGenerate"), ran(before=())))
    assert only(spans, "worker", GENERATION).attributes["tokenwire.prompt_tokens"] == 3


def test_what_was_asked_for_is_told(pair):
    """Only what the caller set, and no seed that an attribute cannot hold."""
    caller = Caller()
    sampling = {"temperature": 0.5, "top_p": 0.75, "top_k": 4, "seed": 2**64 - 1}
    what = generation(max_tokens=2, sampling=sampling, sequence_count=2)
    pair.frontend.stream(what, metadata=caller.metadata)
    spans = check_tree(pair.collector, caller, under(call("StreamGenerate"), ran()))
    own = only(spans, "frontend", GENERATION).attributes
    asked = {name: value for name, value in own.items() if name.startswith("gen_ai.request.")}
    assert asked == {
        "gen_ai.request.model": "demo",
        "gen_ai.request.max_tokens": 2,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.75,
        "gen_ai.request.top_k": 4,
        "gen_ai.request.choice.count": 2,
    }
    assert own["gen_ai.response.finish_reasons"] == ["length"] * 2
    assert own["gen_ai.usage.output_tokens"] == 4


def test_generations_of_a_session_belong_to_their_own_callers_or_begin_a_trace(pair):
    of_session, own = Caller(), [Caller(), Caller(), Caller()]
    with pair.frontend.session(of_session.metadata) as session:
        for number, caller in enumerate(own, 1):
            session.open(number, generation(max_tokens=4), trace_context=caller.context)
        session.finish(1, 2, 3)
        begun = []
        for number in (4, 5):
            session.open(number, generation(max_tokens=3))
            [streamed] = session.finish(number)
            begun.append(streamed.accepted.trace_id)
        session.close_sending()
        session.read_to_end()
        for number, caller in enumerate(own, 1):
            assert session[number].accepted.trace_id == caller.trace_id
    for caller in own:
        spans = check_tree(pair.collector, caller, ran())
        assert not only(spans, "frontend", GENERATION).span.links
    [call_span] = check_tree(pair.collector, of_session, call("Session"))
    assert len({*begun, of_session.trace_id}) == 3
    for trace_id in begun:
        spans = check_tree(pair.collector, trace_id, ran())
        [link] = only(spans, "frontend", GENERATION).span.links
        assert link.trace_id.hex() == of_session.trace_id
        assert link.span_id == call_span.span.span_id


def test_a_stop_string_ends_it_at_the_worker_by_a_cancel(pair):
    """The worker knows no stop strings: to it this is its caller's cancel."""
    text = pair.frontend.stream(generation("One, two,", 20)).text()
    caller = Caller()
    what = endless("One, two,", stop={"stop": [text[3:8]]})
    streamed = pair.frontend.stream(what, metadata=caller.metadata)
    assert streamed.end().stop == text[3:8]
    whole = under(call("StreamGenerate"), ran(end="worker"))
    spans = check_tree(pair.collector, caller, whole)
    own, there = (only(spans, hop, GENERATION).attributes for hop in ("frontend", "worker"))
    assert own["gen_ai.response.finish_reasons"] == ["stop"]
    assert "tokenwire.cancel.cause" not in own
    assert own["gen_ai.usage.output_tokens"] == streamed.completed.usage.completion_tokens
    assert there["gen_ai.response.finish_reasons"] == ["cancelled"]
    assert there["tokenwire.cancel.cause"] == "caller"
    assert there["tokenwire.completion_tokens"] >= own["gen_ai.usage.output_tokens"]


INVALID = {
    "what it holds": generation(max_tokens=0),
    "what can't be read": generation(time_budget={"nanos": 2_000_000_000}),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_field_is_told_by_its_reason(pair, name):
    caller = Caller()
    what = generation_pb2.Generation()
    what.CopyFrom(INVALID[name])
    what.request_id = "bad"
    refused(lambda: pair.frontend.stream(what, metadata=caller.metadata))
    line = "frontend INTERNAL text_completion demo ERROR INVALID_FIELD"
    whole = under(call("StreamGenerate", error="INVALID_ARGUMENT"), line)
    spans = check_tree(pair.collector, caller, whole)
    own = only(spans, "frontend", GENERATION)
    assert own.span.status.message == "INVALID_FIELD"
    assert own.attributes["tokenwire.request_id"] == "bad"


def test_bad_options_of_a_stream_are_a_generation_that_was_refused(pair):
    caller, of_session = Caller(), Caller()
    late = {"max_delay": {"seconds": 11}}
    refused(
        lambda: pair.frontend.stream(generation(), stream=late, metadata=caller.metadata),
    )
    line = "frontend INTERNAL text_completion demo ERROR INVALID_FIELD"
    whole = under(call("StreamGenerate", error="INVALID_ARGUMENT"), line)
    check_tree(pair.collector, caller, whole)
    with pair.frontend.session() as session:
        session.open(1, generation(), stream=late, trace_context=of_session.context)
        session.finish(1)
    check_tree(pair.collector, of_session, line)


def test_a_models_invented_name_is_in_no_metric(pair):
    caller, invented = Caller(), "invented-name"
    refused(lambda: pair.frontend.stream(generation(model=invented), metadata=caller.metadata))
    line = "frontend INTERNAL text_completion ERROR UNKNOWN_MODEL"
    spans = check_tree(
        pair.collector, caller, under(call("StreamGenerate", error="NOT_FOUND"), line)
    )
    assert only(spans, "frontend", "text_completion").attributes["gen_ai.request.model"] == ""

    def counted() -> bool:
        points = pair.collector.points("tokenwire-frontend", "tokenwire.generations")
        return any(("tokenwire.reason", "UNKNOWN_MODEL") in attributes for attributes in points)

    pair.collector.wait_until(counted)
    assert not [body for body in pair.collector.bodies if invented.encode() in body]


def test_names_beyond_all_bounds_are_cut(pair):
    caller = Caller()
    huge = generation(model="m" * 50_000, request_id="r" * 50_000)
    refused(lambda: pair.frontend.stream(huge, metadata=caller.metadata))
    line = "frontend INTERNAL text_completion ERROR UNKNOWN_MODEL"
    spans = check_tree(
        pair.collector, caller, under(call("StreamGenerate", error="NOT_FOUND"), line)
    )
    own = only(spans, "frontend", "text_completion").attributes
    assert own["tokenwire.request_id"] == "r" * 128


def test_output_that_exists_is_told_by_the_worker(pair):
    caller = Caller()
    what = generation("Hello", 12)
    what.output_so_far.add(token_ids=pair.frontend.stream(what).ids()[:3])
    *_, last = pair.frontend.start(what, metadata=caller.metadata)
    assert last.completed.usage.completion_tokens == 12
    spans = check_tree(pair.collector, caller, under(call("StreamGenerate"), ran()))
    assert only(spans, "worker", GENERATION).attributes["tokenwire.carried_tokens"] == 3
