"""Bad values of every field of every RPC: the right status, the field by its path, no harm done.

`CASES` has an entry for every field that the contracts' descriptors name; a new field without one
fails `test_every_field_has_its_cases`. What a field refuses is `Bad`; where it takes any value, its
entry says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from tokenwire.frontend.v1 import (
    activity_pb2,
    generation_pb2,
    model_pb2,
    tokenization_pb2,
)
from tokenwire.worker.v1 import admin_pb2, admin_pb2_grpc, execution_pb2, worker_pb2
from tokenwire_frontend.edge.kserve.stubs import grpc_service_pb2, grpc_service_pb2_grpc

from tests.services.bad_values import (
    ANY_VALUE_IS_VALID,
    BEYOND,
    CONTEXT,
    INVALID_ARGUMENT,
    NOT_DURATIONS,
    NOT_FOUND,
    UNKNOWN_MODEL,
    VOCABULARY,
    Bad,
    Cases,
    each_of,
    under,
)
from tests.services.bad_values_of_inference import INFERENCE
from tests.services.bad_values_of_the_frontend import (
    ATTACH,
    CHAT,
    DETOKENIZE_IDS,
    OPEN,
    STREAM_GENERATE,
    TEXT,
    good_with,
)
from tests.services.bad_values_of_the_worker import EXECUTE, REQUEST_GOOD
from tests.services.calls import Refusal, generation, refusal_of, refusal_of_status, refused
from tests.services.fields import field_paths, methods
from tests.services.processes import WAIT_S

# --- all RPCs ------------------------------------------------------------------------------------


def attaching(values: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"attaches": [{"id": 1, "generation": values, **more}]}


CASES: dict[str, Cases] = {
    "Generate": {path: bads for path, bads in STREAM_GENERATE.items() if path[:6] != "stream"},
    "StreamGenerate": STREAM_GENERATE,
    "Session": {
        "open": [Bad({"open": {"id": 1}}, "open.generation.prompt")],
        **under(OPEN, "open.", lambda values: {"open": {"id": 1, **values}}),
        # Of the same message as `open`, with the same paths in errors.
        "opens": [Bad({"opens": [{"id": 1}]}, "open.generation.prompt")],
        **dict.fromkeys((f"opens.{path}" for path in OPEN), ANY_VALUE_IS_VALID),
        # What is not open is passed over.
        **dict.fromkeys(("cancel", "cancel.id", "cancels", "cancels.id"), ANY_VALUE_IS_VALID),
        **dict.fromkeys(("credits", "credits.id", "credits.amount"), ANY_VALUE_IS_VALID),
        "attaches": [Bad({"attaches": [{"id": 1}]}, "attach.generation.resume_token")],
        "attaches.id": [Bad({"attaches": [{"id": 0}]}, "attach.id")],
        "attaches.generation": ANY_VALUE_IS_VALID,
        "attaches.credit_tokens": [
            Bad(attaching({"stream": {"content": TEXT}}, credit_tokens=5), "attach.credit_tokens")
        ],
        "attaches.credit_messages": ANY_VALUE_IS_VALID,
        **{
            f"attaches.generation.{path}": [
                bad.under("attach.generation.", attaching) for bad in bads
            ]
            for path, bads in ATTACH.items()
        },
    },
    "Attach": ATTACH,
    "CancelGeneration": {
        "resume_token": ATTACH["resume_token"],
        "request_id": [
            Bad({"request_id": "r", "resume_token": "t"}, "request_id"),
            Bad({"request_id": "r"}, None, grpc.StatusCode.NOT_FOUND, "UNKNOWN_REQUEST"),
        ],
    },
    "Tokenize": {
        "model": [UNKNOWN_MODEL],
        "text": ANY_VALUE_IS_VALID,
        "add_special_tokens": ANY_VALUE_IS_VALID,
        "with_offsets": ANY_VALUE_IS_VALID,
    },
    "Detokenize": {
        "model": [UNKNOWN_MODEL],
        "token_ids": DETOKENIZE_IDS,
        "skip_special_tokens": ANY_VALUE_IS_VALID,
    },
    "RenderChat": {
        "model": [UNKNOWN_MODEL],
        "chat": [Bad({}, "chat.messages")],
        **under(CHAT, "chat.", lambda values: {"chat": values}),
    },
    "StreamTokenize": {
        "model": [UNKNOWN_MODEL],
        "text": ANY_VALUE_IS_VALID,
        "add_special_tokens": ANY_VALUE_IS_VALID,
    },
    "StreamDetokenize": {
        "model": [UNKNOWN_MODEL],
        # Too many at once: a test of its own.
        "sequence": ANY_VALUE_IS_VALID,
        "token_ids": DETOKENIZE_IDS,
        "skip_special_tokens": ANY_VALUE_IS_VALID,
        "end": ANY_VALUE_IS_VALID,
    },
    "ListModels": {},
    "GetModel": {"name": [replace(UNKNOWN_MODEL, values={"name": "nope"})]},
    "ListWorkers": {},
    "WatchActivity": {
        "interval": each_of(
            "interval",
            duration_pb2.Duration(),
            duration_pb2.Duration(nanos=99_999_999),
            duration_pb2.Duration(seconds=60, nanos=1),
            duration_pb2.Duration(seconds=-1),
            *NOT_DURATIONS,
        ),
        "records": each_of("records", 101, BEYOND),
    },
    "GetRecord": {
        "request_id": [
            Bad({}, "request_id"),
            *(
                Bad({"request_id": name}, None, NOT_FOUND, "UNKNOWN_REQUEST")
                for name in ("nope", "no pe", "y" * 1000)
            ),
        ]
    },
    **INFERENCE,
    "Execute": EXECUTE,
    "Exchange": {
        # What Execute would have ended with, so its paths are those of ExecuteRequest.
        "submit": [Bad({"submit": {"handle": 1}}, "request")],
        "submit.handle": ANY_VALUE_IS_VALID,  # twice at once: a test of its own
        **{
            f"submit.{path}": [
                replace(bad, values={"submit": {"handle": 1, **bad.values}}) for bad in bads
            ]
            for path, bads in EXECUTE.items()
        },
        # Of the same message as `submit`, with the same paths in errors.
        "submits": [Bad({"submits": [{"handle": 1}]}, "request")],
        **dict.fromkeys((f"submits.{path}" for path in ("handle", *EXECUTE)), ANY_VALUE_IS_VALID),
        **{
            f"{command}{path}": ANY_VALUE_IS_VALID
            for command in ("cancel", "cancels")
            for path in ("", ".handle", ".sequences")
        },
    },
    "LoadLoraAdapter": {
        "name": [Bad({"name": name, "path": "law"}, "name") for name in ("", "x" * 257, "a\n")],
        "path": [
            Bad({"name": "law", "path": path}, "path") for path in ("/etc", "a/../..", "x" * 1025)
        ],
    },
    "UnloadLoraAdapter": {
        "name": [
            *each_of("name", "", "x" * 257),
            Bad({"name": "law"}, None, grpc.StatusCode.UNIMPLEMENTED, "LORA_FIXED"),
        ]
    },
    "ListLoraAdapters": {},
    "GetWorkerInfo": {},
    "GetTokenizer": {},
    "WatchLoad": {
        "min_interval": each_of(
            "min_interval",
            duration_pb2.Duration(),
            duration_pb2.Duration(nanos=9_999_999),
            duration_pb2.Duration(seconds=1, nanos=1),
            duration_pb2.Duration(seconds=-1),
            *NOT_DURATIONS,
        ),
        "max_interval": each_of(
            "max_interval",
            duration_pb2.Duration(nanos=999_999_999),
            duration_pb2.Duration(seconds=10, nanos=1),
            *NOT_DURATIONS,
        ),
    },
    "WatchKvEvents": {
        "first_number": [
            Bad({"first_number": number}, None, grpc.StatusCode.UNIMPLEMENTED, "NO_KV_EVENTS")
            for number in (0, 1, 2**64 - 1)
        ],
        # This engine has no events, which is said first.
        "interval": ANY_VALUE_IS_VALID,
    },
}


SHARED = {
    "StreamGenerate": "generation.",
    "Session": "open.generation.",
    "RenderChat": "chat.",
    "Exchange": "submit.request.",
}
"""Where an RPC has a message of which another one, Generate or Execute, has all the cases: the
first of them shows that this RPC's refusals are the same."""


def rows(rpc: str) -> list[tuple[str, Bad]]:
    """Returns the RPC's cases, by path."""
    every = [(path, bad) for path, bads in CASES[rpc].items() for bad in bads]
    prefix = SHARED.get(rpc)
    if prefix is None:
        return every
    shared = [row for row in every if row[0].startswith(prefix)]
    return [*(row for row in every if row not in shared), shared[0]]


# --- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["frontend", "worker"])
def test_every_field_has_its_cases(service):
    for method in methods(service):
        fields = set(field_paths(method.input_type))
        assert set(CASES[method.name]) == fields, method.name


def test_every_rpc_has_its_cases():
    names = [method.name for service in ("frontend", "worker") for method in methods(service)]
    assert sorted(names) == sorted(CASES)


def test_the_model_is_what_the_cases_take_it_for(frontend):
    model = frontend.model()
    assert (model.context_tokens, model.vocabulary_size) == (CONTEXT, VOCABULARY)
    assert model.prompt_tokens_limit == CONTEXT - 1
    assert set(model.capabilities).isdisjoint(
        {model_pb2.CAPABILITY_TOP_LOGPROBS, model_pb2.CAPABILITY_LORA}
    )


def ask(rpc: str, values: dict[str, Any], frontend: Any, worker: Any) -> Refusal:
    """Makes the call and returns how it was refused."""
    if rpc == "Session":
        request = generation_pb2.SessionRequest(**values)
        [*events] = [
            event
            for response in frontend.generations.Session(iter([request]), timeout=WAIT_S)
            for event in response.events
        ]
        [event] = events
        return refusal_of_status(event.error)
    if rpc == "Exchange":
        submit = execution_pb2.ExchangeRequest(**values)
        [frame] = list(worker.execution.Exchange(iter([submit]), timeout=WAIT_S))
        [failure] = frame.failures
        assert failure.handle == 1
        assert not frame.accepted
        return refusal_of_status(failure.status)
    [method] = [
        each for service in ("frontend", "worker") for each in methods(service) if each.name == rpc
    ]
    modules = (
        *(generation_pb2, tokenization_pb2, model_pb2, activity_pb2),
        *(execution_pb2, worker_pb2, admin_pb2, grpc_service_pb2),
    )
    kind = next(
        getattr(module, method.input_type.name)
        for module in modules
        if hasattr(module, method.input_type.name)
    )
    request = kind(**values)
    stubs = {
        "GenerationService": frontend.generations,
        "TokenizationService": frontend.tokenization,
        "ModelService": frontend.models,
        "ActivityService": frontend.activity,
        "GRPCInferenceService": grpc_service_pb2_grpc.GRPCInferenceServiceStub(frontend.raw),
        "ExecutionService": worker.execution,
        "WorkerService": worker.service,
        "AdminService": admin_pb2_grpc.AdminServiceStub(worker.raw),
    }
    call = getattr(stubs[method.containing_service.name], rpc)
    streams = rpc in ("StreamTokenize", "StreamDetokenize")
    return refused(lambda: call(iter([request]) if streams else request, timeout=WAIT_S))


def fault_of(bad: Bad, refusal: Refusal) -> str:
    """Returns how a refusal differs from the case's; empty where it does not."""
    told = (refusal.code, refusal.reason, refusal.info.domain, set(refusal.fields))
    wanted = (bad.code, bad.reason, "tokenwire", {bad.field} if bad.field else set())
    if told != wanted:
        return f"{told} instead of {wanted}: {refusal.message}"
    missing = [part for part in bad.says if part not in refusal.message]
    if missing or not all(refusal.descriptions):
        return f"{missing} missing in: {refusal.message} {refusal.descriptions}"
    return ""


@pytest.mark.parametrize("rpc", CASES)
def test_a_bad_value_is_refused_by_its_field(rpc, services):
    worker, frontend = services
    faults = [
        f"{path} {str(bad.values)[:200]}: {fault}"
        for path, bad in rows(rpc)
        if (fault := fault_of(bad, ask(rpc, bad.values, frontend, worker)))
    ]
    assert not faults, "\n".join(faults)


def test_all_violations_are_told_at_once(frontend):
    what = generation_pb2.Generation(
        prompt={"token_ids": {"ids": [BEYOND]}},
        sampling={"temperature": -1, "top_p": 2},
        stop={"stop": [""], "stop_token_ids": [BEYOND]},
        sequence_count=99,
        priority=1000,
        request_id="no good",
        cache_salt="x",
    )
    refusal = refused(lambda: frontend.stream(what))
    assert refusal.fields == [
        "generation.prompt.token_ids.ids[0]",
        "generation.sampling.temperature",
        "generation.sampling.top_p",
        "generation.stop.stop[0]",
        "generation.stop.stop_token_ids[0]",
        "generation.sequence_count",
        "generation.cache_salt",
        "generation.priority",
        "generation.request_id",
    ]


@pytest.mark.parametrize(
    ("so_far", "field"),
    [
        ([{}, {}], "generation.output_so_far"),
        ([{}] * 5000, "generation.output_so_far"),
        ([{"token_ids": [5, VOCABULARY]}], "generation.output_so_far[0].token_ids[1]"),
        ([{"token_ids": [5] * 3}], "generation.output_so_far[0].token_ids"),
    ],
    ids=["one too many", "far too many", "beyond the vocabulary", "more than max_tokens"],
)
def test_output_that_can_not_exist_already(frontend, so_far, field):
    refusal = refused(lambda: frontend.stream(generation(max_tokens=2, output_so_far=so_far)))
    assert (refusal.code, refusal.fields) == (INVALID_ARGUMENT, [field])


HUGE = {
    "a name": ({"model": "a" * 50_000}, "UNKNOWN_MODEL"),
    "a name of other letters": ({"model": "\u65e5" * 20_000}, "UNKNOWN_MODEL"),
    "a value": ({"lora_adapter": "b" * 50_000}, "INVALID_FIELD"),
    "many strings": ({"stop": {"stop": [""] * 5000}}, "INVALID_FIELD"),
    "many messages": ({"prompt": {"chat": {"messages": [{}] * 4000}}}, "INVALID_FIELD"),
    "a guide": ({"guided": {"regex": "(" + "a" * 60_000}}, "INVALID_FIELD"),
}


def test_what_is_told_of_something_huge_fits_into_the_status(frontend):
    """More than 8 KiB of trailing metadata and the caller would see nothing of it."""
    for values, reason in HUGE.values():
        request = generation_pb2.GenerateRequest(generation=good_with(values))
        with pytest.raises(grpc.RpcError) as failure:
            frontend.generations.Generate(request, timeout=WAIT_S)
        assert refusal_of(failure.value).reason == reason
        sizes = [len(value) for _, value in failure.value.trailing_metadata()]
        # Percent-encoding makes three bytes of one; base64 makes four of three.
        assert len(failure.value.details().encode()) * 3 + sum(sizes) * 4 / 3 < 8 * 1024


def test_what_is_at_its_bound_is_taken(frontend):
    what = generation(
        {"text": "Hello"},
        2,
        sampling={
            "temperature": 100.0,
            "top_p": 1.0,
            "top_k": BEYOND,
            "min_p": 1.0,
            "repetition_penalty": 0.01,
            "presence_penalty": -2.0,
            "frequency_penalty": 2.0,
            "seed": 2**64 - 1,
        },
        stop={"stop": ["x" * 1024] * 16, "stop_token_ids": [4095] * 64, "min_tokens": 2},
        priority=-100,
        request_id="x" * 128,
    )
    assert frontend.stream(what, stream={"max_delay": duration_pb2.Duration(seconds=10)}).ids()
    fits = generation([5] * (CONTEXT - 1), 1)
    assert len(frontend.stream(fits).ids()) == 1


def test_a_handle_that_is_submitted_twice_ends_both(worker):
    request = {"prompt_token_ids": [5], "stopping": {"max_tokens": 4000, "ignore_eos": True}}
    submit = execution_pb2.ExchangeRequest(submit={"handle": 3, "request": request})
    other = execution_pb2.ExchangeRequest(
        submit={"handle": 4, "request": {**request, "stopping": {"max_tokens": 3}}}
    )
    frames = list(worker.execution.Exchange(iter([submit, submit, other]), timeout=WAIT_S))
    failures = [failure for frame in frames for failure in frame.failures]
    assert [failure.handle for failure in failures] == [3]
    refusal = refusal_of_status(failures[0].status)
    assert refusal.reason == "DUPLICATE_HANDLE"
    assert refusal.fields == ["submit.handle"]
    assert [end.handle for frame in frames for end in frame.completions] == [4]
    worker.wait_until_idle()


def test_a_command_that_is_empty_or_of_nothing_live_harms_no_exchange(worker):
    request = {"prompt_token_ids": [5], "stopping": {"max_tokens": 3, "ignore_eos": True}}
    commands = [
        execution_pb2.ExchangeRequest(),
        execution_pb2.ExchangeRequest(cancel={"handle": 9}),
        execution_pb2.ExchangeRequest(submit={"handle": 1, "request": request}),
        execution_pb2.ExchangeRequest(cancel={"handle": 9, "sequences": [0, BEYOND]}),
        execution_pb2.ExchangeRequest(cancel={"handle": 1, "sequences": [7]}),
    ]
    frames = list(worker.execution.Exchange(iter(commands), timeout=WAIT_S))
    assert sum(len(frame.token_ids) for frame in frames) == 3
    assert not any(frame.failures for frame in frames)


def test_too_many_open_sequences_of_a_detokenize_stream(frontend):
    def requests(count: int) -> Iterator[tokenization_pb2.StreamDetokenizeRequest]:
        for number in range(count):
            yield tokenization_pb2.StreamDetokenizeRequest(sequence=number, token_ids=[300])

    def call(count: int) -> Any:
        return frontend.tokenization.StreamDetokenize(requests(count), timeout=WAIT_S)

    assert len(list(call(1024))) == 1024
    refusal = refused(lambda: call(1025))
    assert refusal.code is INVALID_ARGUMENT
    assert refusal.fields == ["sequence"]


def test_the_model_of_a_detokenize_stream_stays(frontend):
    requests = [
        tokenization_pb2.StreamDetokenizeRequest(model="demo", token_ids=[300]),
        tokenization_pb2.StreamDetokenizeRequest(token_ids=[300]),
        tokenization_pb2.StreamDetokenizeRequest(model="other", token_ids=[300]),
    ]
    call = frontend.tokenization.StreamDetokenize(iter(requests), timeout=WAIT_S)
    assert next(call)
    assert next(call)
    refusal = refused(lambda: call)
    assert refusal.fields == ["model"]


def test_a_budget_that_is_spent_on_arrival_ends_at_the_worker(worker):
    for budget in (duration_pb2.Duration(), duration_pb2.Duration(seconds=-1)):
        request = execution_pb2.Request(**REQUEST_GOOD, time_budget=budget)
        events = list(
            worker.execution.Execute(execution_pb2.ExecuteRequest(request=request), timeout=WAIT_S)
        )
        ends = [event.tokens.ending.reason for event in events if event.HasField("tokens")]
        assert ends == [execution_pb2.FINISH_REASON_TIME_BUDGET]
        assert events[-1].completed.completion_tokens == 0


def test_a_method_that_does_not_exist_is_unimplemented(frontend, worker):
    for client in (frontend, worker):
        call = client.raw.unary_unary("/tokenwire.frontend.v1.GenerationService/Nothing")
        with pytest.raises(grpc.RpcError) as failure:
            call(b"", timeout=WAIT_S)
        assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_after_all_of_it_both_services_serve(frontend, worker):
    assert len(frontend.stream(generation(max_tokens=5)).ids()) == 5
    assert worker.load().running_sequences == 0
    frontend.wait_for_no_work()
