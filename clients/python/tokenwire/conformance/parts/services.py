"""Services of the frontend: what is served, and what has become of a generation."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
from google.protobuf import duration_pb2, wrappers_pb2

from tokenwire.conformance import reflected
from tokenwire.conformance.deployment import PROMPT, Deployment
from tokenwire.conformance.refusal import refused
from tokenwire.conformance.rule import Rule, Skipped, expect
from tokenwire.frontend.v1 import activity_pb2, generation_pb2, model_pb2
from tokenwire.frontend.v1.model_pb2 import Capability

PACKAGE = "tokenwire.frontend.v1"
SERVICES = ("GenerationService", "TokenizationService", "ModelService", "ActivityService")
_SERVING = 1
"""Of grpc.health.v1.HealthCheckResponse.ServingStatus."""
_INTERVAL_S = 0.1
"""Between two messages of WatchActivity: the least that it takes."""


def _health(deployment: Deployment) -> None:
    # On the wire a HealthCheckRequest is a StringValue, and its response an Int32Value: the client
    # has no stubs of grpc.health.v1.
    check = deployment.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=wrappers_pb2.StringValue.SerializeToString,
        response_deserializer=wrappers_pb2.Int32Value.FromString,
    )
    for name in ("", *(f"{PACKAGE}.{service}" for service in SERVICES)):
        asked = wrappers_pb2.StringValue(value=name)
        status = check(asked, timeout=deployment.left_s).value
        expect(status == _SERVING, f"health of {name or 'the empty name'} is {status}; not 1")


def _reflection(deployment: Deployment) -> None:
    listed = reflected.services(deployment)
    for service in SERVICES:
        name = f"{PACKAGE}.{service}"
        expect(name.encode() in listed, f"{name} is not listed")


def _get_model(deployment: Deployment) -> None:
    listed = {each.name: each for each in deployment.listed()}
    name = deployment.model.name
    expect(name in listed, f"{name} is not listed, but {', '.join(listed) or 'no model'}")
    request = model_pb2.GetModelRequest(name=name)
    got = deployment.models.GetModel(request, timeout=deployment.left_s).model
    for each in (got, listed[name]):
        each.ClearField("ready_worker_count")  # which may change between two calls
    expect(got == listed[name], f"ListModels and GetModel describe {name} differently")


def _no_model_named(deployment: Deployment) -> None:
    what = deployment.generation(max_tokens=1, model="")
    if len(deployment.listed()) > 1:
        refusal = refused(lambda: deployment.stream(what))
        refusal.expect(grpc.StatusCode.INVALID_ARGUMENT, "MODEL_NOT_NAMED")
        return
    _ = deployment.stream(what).completed


def _ready_workers(deployment: Deployment) -> None:
    name = deployment.model.name
    seen = ""
    for _ in range(3):  # a worker may come or go between the two calls
        model = {each.name: each for each in deployment.listed()}.get(name)
        request = model_pb2.ListWorkersRequest()
        workers = deployment.models.ListWorkers(request, timeout=deployment.left_s).workers
        states = [each.state for each in workers if each.model == name]
        ready = states.count(model_pb2.WORKER_STATE_READY) or states.count(
            model_pb2.WORKER_STATE_SUSPECT
        )
        told = model.ready_worker_count if model else 0
        if told == ready:
            return
        seen = f"ready_worker_count is {told}; {ready} workers are shown as ready"
    expect(not seen, seen)


def _watch_activity(deployment: Deployment) -> None:
    interval = duration_pb2.Duration(nanos=round(_INTERVAL_S * 1e9))
    request = activity_pb2.WatchActivityRequest(interval=interval)
    start_s = time.monotonic()
    call = deployment.activity.WatchActivity(request, timeout=deployment.left_s)
    next(call)
    first_s = time.monotonic() - start_s
    next(call)
    next(call)
    took_s = time.monotonic() - start_s
    call.cancel()
    expect(
        took_s - first_s > _INTERVAL_S,
        f"three messages came within {took_s:.3f} s at an interval of {_INTERVAL_S} s",
    )


def _get_record(deployment: Deployment) -> None:
    answer = deployment.stream()
    record = deployment.record(answer.accepted.request_id)
    expect(
        record.outcome == activity_pb2.OUTCOME_COMPLETED,
        f"the record says {activity_pb2.Outcome.Name(record.outcome)}",
    )
    expect(record.usage == answer.completed.usage, "the record's usage is another than was sent")


def _capabilities(deployment: Deployment) -> None:
    offered = [each for each in asking_for(deployment) if deployment.can(each[0])]
    if not offered:
        raise Skipped(f"{deployment.model.name} has no capabilities")
    for _, _, what in offered:
        _ = deployment.stream(what).completed


def asking_for(
    deployment: Deployment,
) -> Iterator[tuple[Capability.ValueType, str, generation_pb2.Generation]]:
    """Yields each capability with the field that asks for it, and a request that has the field."""
    eos = next(iter(deployment.model.eos_token_ids), 0)
    adapter = next(iter(deployment.model.lora_adapters), "conformance")
    guides = {
        "json_schema": '{"type": "boolean"}',
        "json_object": {},
        "regex": "[ab]",
        "grammar": 'root ::= "a" | "b"',
        "choice": {"options": ["a", "b"]},
    }
    for name, guide in guides.items():
        # A guided output ends by itself, which needs end-of-sequence tokens that count.
        what = deployment.generation(PROMPT, 4, guided={name: guide}, stop={"ignore_eos": False})
        yield Capability.Value(f"CAPABILITY_GUIDED_{name.upper()}"), f"guided.{name}", what
    greedy = {"temperature": 0.0}
    for capability, field, fields in (
        (model_pb2.CAPABILITY_LOGPROBS, "output.logprobs", {"output": {"logprobs": True}}),
        (
            model_pb2.CAPABILITY_TOP_LOGPROBS,
            "output.top_logprobs",
            {"output": {"logprobs": True, "top_logprobs": 2}},
        ),
        (
            model_pb2.CAPABILITY_PROMPT_LOGPROBS,
            "output.prompt_logprobs",
            {"output": {"prompt_logprobs": 0}},
        ),
        (model_pb2.CAPABILITY_LORA, "lora_adapter", {"lora_adapter": adapter}),
        (model_pb2.CAPABILITY_CACHE_SALT, "cache_salt", {"cache_salt": "conformance"}),
        (model_pb2.CAPABILITY_MIN_P, "sampling.min_p", {"sampling": {"min_p": 0.1}}),
        (
            model_pb2.CAPABILITY_LOGIT_BIAS,
            "sampling.logit_bias",
            {"sampling": {**greedy, "logit_bias": [{"token_id": eos, "bias": -1.0}]}},
        ),
        (
            model_pb2.CAPABILITY_BANNED_WORDS,
            "sampling.banned_words",
            {"sampling": {**greedy, "banned_words": ["conformance"]}},
        ),
    ):
        yield capability, field, deployment.generation(PROMPT, 2, **fields)


RULES = (
    Rule("D1", "health of each service", _health),
    Rule("D2", "reflection lists the services", _reflection),
    Rule("D3", "GetModel as ListModels", _get_model),
    Rule("D4", "an empty model name", _no_model_named),
    Rule("D5", "ready workers are counted", _ready_workers),
    Rule("D6", "activity at its interval", _watch_activity),
    Rule("D7", "a generation's record", _get_record),
    Rule("D8", "capabilities are honoured", _capabilities),
)
