"""Python arguments to the contract's fields."""

import json

import pytest
from google.protobuf import json_format
from tokenwire import _requests
from tokenwire.channel_arguments import REQUEST_BYTES
from tokenwire.frontend.v1 import generation_pb2, options_pb2
from tokenwire.options import ChatOptions, GenerationOptions

OPTIONS = {
    "model": ("demo", "model", "demo"),
    "add_special_tokens": (False, "prompt.add_special_tokens", False),
    "truncate_prompt_tokens": (9, "prompt.truncate_prompt_tokens", 9),
    "temperature": (0, "sampling.temperature", 0),
    "top_p": (0.5, "sampling.top_p", 0.5),
    "top_k": (5, "sampling.top_k", 5),
    "min_p": (0.25, "sampling.min_p", 0.25),
    "repetition_penalty": (1.5, "sampling.repetition_penalty", 1.5),
    "presence_penalty": (-2, "sampling.presence_penalty", -2),
    "frequency_penalty": (2, "sampling.frequency_penalty", 2),
    "seed": (2**63, "sampling.seed", 2**63),
    "logit_bias": (
        {5: -100, 7: 2.5},
        "sampling.logit_bias",
        [options_pb2.LogitBias(token_id=5, bias=-100), options_pb2.LogitBias(token_id=7, bias=2.5)],
    ),
    "banned_words": (["a", "b"], "sampling.banned_words", ["a", "b"]),
    "max_tokens": (8, "stop.max_tokens", 8),
    "min_tokens": (2, "stop.min_tokens", 2),
    "stop": (["a", "b"], "stop.stop", ["a", "b"]),
    "stop_token_ids": ([3, 4], "stop.stop_token_ids", [3, 4]),
    "ignore_eos": (True, "stop.ignore_eos", True),
    "include_stop_in_output": (True, "stop.include_stop_in_output", True),
    "logprobs": (True, "output.logprobs", True),
    "top_logprobs": (4, "output.top_logprobs", 4),
    "prompt_logprobs": (0, "output.prompt_logprobs", 0),
    "echo": (True, "output.echo", True),
    "skip_special_tokens": (False, "output.skip_special_tokens", False),
    "parse": (False, "output.parse", False),
    "stop_in_reasoning": (True, "output.stop_in_reasoning", True),
    "json_schema": ('{"type": "object"}', "guided.json_schema", '{"type": "object"}'),
    "json_object": (True, "guided.WhichOneof", "json_object"),
    "regex": ("a+", "guided.regex", "a+"),
    "grammar": ('root ::= "a"', "guided.grammar", 'root ::= "a"'),
    "choice": (["yes", "no"], "guided.choice.options", ["yes", "no"]),
    "n": (3, "sequence_count", 3),
    "lora_adapter": ("pirate", "lora_adapter", "pirate"),
    "cache_salt": ("pepper", "cache_salt", "pepper"),
    "priority": (-7, "priority", -7),
    "request_id": ("r-1", "request_id", "r-1"),
    "time_budget": (1.25, "time_budget.ToTimedelta", 1.25),
    "on_disconnect": ("detach", "on_disconnect", generation_pb2.ON_DISCONNECT_DETACH),
    "detach_ttl": (2.5, "detach_ttl.ToTimedelta", 2.5),
    "idempotency_key": ("k-1", "idempotency_key", "k-1"),
    "conversation": (
        {"id": "c-1", "messages": 2},
        "conversation",
        generation_pb2.Conversation(id="c-1", messages=2),
    ),
}


def make(prompt="hi", chat=None, **options):
    return _requests.generation(prompt, chat, options, REQUEST_BYTES)


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_reaches_its_field_and_no_other(name):
    value, path, expected = OPTIONS[name]
    message = make(**{name: value})
    found = message
    for part in path.split("."):
        found = getattr(found, part)
    if part == "WhichOneof":
        found = found("guide")
    if part == "ToTimedelta":
        found = found().total_seconds()
    assert (list(found) if isinstance(expected, list) else found) == expected
    paths = json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert set(paths) == {"prompt", path.split(".")[0]}


def test_every_option_is_tested_and_every_field_of_a_generation_has_an_option():
    assert set(OPTIONS) | set(ChatOptions.__annotations__) == set(GenerationOptions.__annotations__)
    reached = {path.split(".")[0] for _, path, _ in OPTIONS.values()}
    # What exists already is the client's to say, where it continues a generation.
    fields = set(generation_pb2.Generation.DESCRIPTOR.fields_by_name)
    assert reached == fields - {"output_so_far"}
    leaves = {path.removesuffix(".options").split(".")[-1] for _, path, _ in OPTIONS.values()}
    for kind in ("SamplingOptions", "StopConditions", "OutputOptions", "GuidedDecoding"):
        fields = set(getattr(options_pb2, kind).DESCRIPTOR.fields_by_name)
        assert fields <= leaves | {"json_object"}


def test_what_is_not_given_is_not_sent():
    message = make(temperature=None, stop=None)
    assert [field.name for field, _ in message.ListFields()] == ["prompt"]
    assert not make().prompt.HasField("add_special_tokens")
    assert make(temperature=0).sampling.HasField("temperature")


def test_a_prompt_is_a_text_or_token_ids():
    assert make("hi").prompt.text == "hi"
    assert make("").prompt.WhichOneof("content") == "text"
    assert list(make([1, 2]).prompt.token_ids.ids) == [1, 2]
    assert make(range(0)).prompt.WhichOneof("content") == "token_ids"


def test_one_text_is_not_taken_letter_by_letter():
    assert list(make(stop="end").stop.stop) == ["end"]
    assert list(make(banned_words="dog").sampling.banned_words) == ["dog"]


def test_an_option_that_is_0_is_sent_where_that_says_something():
    assert make(prompt_logprobs=0).output.HasField("prompt_logprobs")
    assert not make().output.HasField("prompt_logprobs")


def test_top_logprobs_brings_logprobs():
    assert make(top_logprobs=2).output.logprobs
    assert not make(top_logprobs=2, logprobs=False).output.logprobs


def test_a_schema_may_be_a_dict():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert json.loads(make(json_schema=schema).guided.json_schema) == schema
    assert not make(json_object=False).HasField("guided")


@pytest.mark.parametrize(
    ("arguments", "fault", "message"),
    [
        ({"max_token": 3}, TypeError, "unknown option 'max_token'; did you mean max_tokens"),
        ({"quux": 3}, TypeError, "unknown option 'quux'$"),
        ({"tools": []}, TypeError, "tools goes with chat="),
        ({"messages": []}, TypeError, "unknown option 'messages'; did you mean chat"),
        ({"prompt": None}, TypeError, "a prompt or chat= is required"),
        ({"chat": []}, TypeError, "a prompt and chat= were both given"),
        ({"prompt": [{"role": "user"}]}, TypeError, "prompt: .* give a list of messages as chat="),
        ({"prompt": None, "chat": "hi"}, TypeError, "a chat is a list of messages"),
        ({"prompt": b"hi"}, TypeError, "not bytes"),
        ({"prompt": 3.5}, TypeError, "prompt.ids=3.5"),
        ({"prompt": ["a"]}, TypeError, "prompt.ids="),
        ({"prompt": [-1]}, ValueError, "prompt.ids="),
        ({"prompt": "\ud800"}, ValueError, "prompt.text="),
        ({"max_tokens": -1}, ValueError, "max_tokens=-1"),
        ({"max_tokens": 2**32}, ValueError, "max_tokens="),
        ({"temperature": "hot"}, TypeError, "temperature='hot'"),
        ({"seed": 1.5}, TypeError, "seed=1.5"),
        ({"logit_bias": [5]}, TypeError, "logit_bias=.5.: not a dict of ids and biases"),
        ({"logit_bias": {-5: 1}}, ValueError, "logit_bias.token_id=-5"),
        ({"logit_bias": {5: "high"}}, TypeError, "logit_bias.bias='high'"),
        ({"truncate_prompt_tokens": -1}, ValueError, "prompt.truncate_prompt_tokens=-1"),
        ({"time_budget": float("inf")}, ValueError, "time_budget=inf"),
        ({"regex": "a", "choice": ["b"]}, TypeError, "one form, not to regex and choice"),
        ({"choice": "yes"}, TypeError, "choice: give a list"),
        ({"choice": [1]}, TypeError, "choice.options="),
    ],
)
def test_what_no_request_can_carry_is_refused_by_name(arguments, fault, message):
    with pytest.raises(fault, match=message):
        make(**arguments)


def test_what_the_server_should_judge_is_sent():
    assert make(temperature=1000).sampling.temperature == 1000
    assert make(time_budget=-1).time_budget.seconds == -1
    assert make(None, chat=[]).prompt.WhichOneof("content") == "chat"


def test_max_delay_is_a_duration():
    assert _requests.stream(0.05).max_delay.ToMilliseconds() == 50
    assert _requests.stream(None) is None
