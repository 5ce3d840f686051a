"""A model that reasons and calls tools: what its worker is asked, and what its client is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from tokenizers import Tokenizer
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import model_pb2
from tokenwire.frontend.v1 import prompt_pb2 as pb
from tokenwire.worker.v1 import execution_pb2, worker_pb2
from tokenwire_frontend.core.link_state import LinkState

from tests.frontend.frontend_here import FrontendHere, frontend_of
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import Streamed, refusal_of

TEMPLATE = """
{%- for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor -%}
{#- calls: <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call> -#}
<|assistant|>{% if enable_thinking is defined %}<think>\n{% else %}{{ '</think>'[9:] }}{% endif %}
"""
TOOLS = [
    {"name": "add", "parameters": '{"$ref": "#/$defs/n", "$defs": {"n": {"type": "object"}}}'},
    {"name": "sub", "strict": True, "parameters": '{"type": "object", "minProperties": 1}'},
]
CAN_HOLD = [
    worker_pb2.CAPABILITY_GUIDED_JSON_SCHEMA,
    worker_pb2.CAPABILITY_GUIDED_REGEX,
    worker_pb2.CAPABILITY_FREE_PREFIX,
]
REQUIRED = {"mode": pb.TOOL_CHOICE_MODE_REQUIRED}
THOUGHTS = "Is it <4>?</think>\n\n"


@pytest.fixture
async def worker() -> AsyncIterator[ScriptedWorker]:
    async with ScriptedWorker() as started:
        started.files["chat_template.jinja"] = TEMPLATE.encode()
        started.info.capabilities.extend(CAN_HOLD)
        yield started


@pytest.fixture
async def frontend(worker: ScriptedWorker) -> AsyncIterator[FrontendHere]:
    async with frontend_of(worker) as started:
        await started.wait_for(worker, LinkState.READY)
        yield started


@pytest.fixture
def says(worker: ScriptedWorker):
    """Sets what the worker answers, and gathers what it is asked."""
    tokenizer = Tokenizer.from_str(worker.files["tokenizer.json"].decode())
    asked: list[execution_pb2.Request] = []

    def set_text(text: str) -> list[execution_pb2.Request]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids

        def script(stream: Stream, submit: execution_pb2.Submit) -> None:
            asked.append(submit.request)
            stream.accept(submit.handle)
            for start in range(0, len(ids), 3):
                stream.tokens(submit.handle, *ids[start : start + 3])
            stream.end(submit.handle, reason=execution_pb2.FINISH_REASON_STOP)
            stream.complete(submit.handle, completion_tokens=len(ids))

        worker.script = script
        return asked

    return set_text


def chat(thinks: bool = False, **fields) -> fg.Generation:
    arguments = '{"enable_thinking": true}' if thinks else ""
    messages = [{"role": pb.ROLE_USER, "content": "2+2?"}]
    whole = {"messages": messages, "tools": TOOLS, "template_arguments": arguments, **fields}
    return fg.Generation(prompt={"chat": whole}, stop={"max_tokens": 200})


async def answer(frontend: FrontendHere, what: fg.Generation) -> fg.Sequence:
    return (await frontend.generate(what)).sequences[0]


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'


async def test_the_formats_are_those_of_the_template(frontend):
    [model] = (await frontend.models.ListModels(model_pb2.ListModelsRequest())).models
    assert (model.tool_parser, model.reasoning_parser) == ("hermes", "think")


async def test_reasoning_that_the_prompt_has_begun(frontend, says):
    says(THOUGHTS + "Four.\n" + CALL)
    sequence = await answer(frontend, chat(thinks=True))
    assert sequence.reasoning.strip() == "Is it <4>?"
    assert sequence.text.strip() == "Four."
    assert [(c.name, c.arguments) for c in sequence.tool_calls] == [("add", '{"a": 2}')]
    assert sequence.end.reason == fg.FINISH_REASON_TOOL_CALLS


@pytest.mark.parametrize(
    ("begun", "written", "told"),
    [
        ("<think>\nIs it", " <4>?</think>Four.", ("<4>?", "Four.")),
        ("<think>\nYes.</think>Fo", "ur.", ("", "ur.")),
    ],
)
async def test_reasoning_that_the_continued_message_has_begun(frontend, says, begun, written, told):
    says(written)
    what = chat(continue_final_message=True)
    what.prompt.chat.messages.add(role=pb.ROLE_ASSISTANT, content=begun)
    sequence = await answer(frontend, what)
    assert (sequence.reasoning.strip(), sequence.text) == told


async def test_a_stream_tells_each_channel_from_where_it_was(frontend, says):
    says(THOUGHTS + "é Four.")
    streamed = Streamed()
    async for event in frontend.stream(chat(thinks=True)):
        streamed.take(event)
    reasoning = text = b""
    for delta in streamed.deltas:
        if delta.reasoning:
            assert delta.reasoning_offset == len(reasoning)
        if delta.text:
            assert delta.text_offset == len(text)
        reasoning += delta.reasoning.encode()
        text += delta.text.encode()
    assert reasoning.decode().strip() == "Is it <4>?"
    assert text.decode().strip() == "é Four."


async def test_what_is_not_parsed_is_the_text_as_it_was_written(frontend, says):
    raw = THOUGHTS + CALL
    says(raw)
    what = chat(thinks=True)
    what.output.parse = False
    assert (await answer(frontend, what)).text == raw
    tokens = fg.Generation(prompt={"text": "2+2?"}, stop={"max_tokens": 200})
    assert (await answer(frontend, tokens)).text == raw
    tokens.output.parse = True
    assert [c.name for c in (await answer(frontend, tokens)).tool_calls] == ["add"]


async def test_one_call_where_several_are_not_wanted(frontend, says):
    says(f"{CALL}\n{CALL}")
    assert len((await answer(frontend, chat())).tool_calls) == 2
    assert len((await answer(frontend, chat(parallel_tool_calls=False))).tool_calls) == 1


@pytest.mark.parametrize(("thinks", "begin"), [(True, ""), (False, "<think>")])
async def test_held_calls_come_after_the_reasoning(frontend, says, thinks, begin):
    asked = says((THOUGHTS if thinks else "") + '{"name": "sub", "arguments": {"b": 1}}')
    sequence = await answer(frontend, chat(thinks, tool_choice=REQUIRED))
    assert [(c.name, c.arguments) for c in sequence.tool_calls] == [("sub", '{"b": 1}')]
    assert sequence.reasoning.strip() == ("Is it <4>?" if thinks else "")
    assert sequence.end.reason == fg.FINISH_REASON_TOOL_CALLS
    prefix = asked[0].guide.free_prefix
    assert (prefix.begin, prefix.end) == (begin, "</think>")
    schema = json.loads(asked[0].guide.json_schema)
    held = {key: each.get("properties") for key, each in schema["$defs"].items()}
    assert held["any"] == {"name": {"enum": ["add"]}, "arguments": {"type": "object"}}
    assert held["1"]["arguments"] == {"type": "object", "minProperties": 1}


AT = "#/$defs/0/properties/arguments"


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({"$ref": "#/$defs/n", "$defs": {"n": {}}}, {"$ref": f"{AT}/$defs/n", "$defs": {"n": {}}}),
        (
            {"properties": {"default": {"$ref": "#"}, "$ref": {"const": {"$ref": "#"}}}},
            {"properties": {"default": {"$ref": AT}, "$ref": {"const": {"$ref": "#"}}}},
        ),
        ({"$id": "urn:a", "allOf": [{"$ref": "#a"}]}, {"allOf": [{"$ref": "#a"}]}),
        ({"title": "((", "properties": {"title": {}}}, {"properties": {"title": {}}}),
    ],
    ids=["of a definition", "below names that are keywords", "of an anchor", "without prose"],
)
async def test_references_of_a_strict_schema_stay_right_within_the_form(
    frontend, says, given, held
):
    asked = says("{}")
    tools = [{"name": "add", "parameters": json.dumps(given), "strict": True}]
    await answer(frontend, chat(tools=tools, tool_choice={"name": "add"}))
    schema = json.loads(asked[0].guide.json_schema)
    assert schema["$defs"]["0"]["properties"]["arguments"] == {**held, "type": "object"}


async def test_a_thousand_tools_are_held_to_and_a_named_one_is_held_alone(frontend, says):
    asked = says("{}")
    tools = [{"name": f"tool{place}"} for place in range(1000)]
    await answer(frontend, chat(tools=tools, tool_choice=REQUIRED))
    tools.append({"name": "n" * 300, "strict": True, "parameters": '{"a": "' + "a" * 70_000 + '"}'})
    await answer(frontend, chat(tools=tools, tool_choice={"name": "tool7"}))
    several, one = (json.loads(each.guide.json_schema)["$defs"]["any"] for each in asked)
    assert len(several["properties"]["name"]["enum"]) == 1000
    assert one["properties"]["name"]["enum"] == ["tool7"]


def nested(levels: int) -> str:
    return '{"items":' * levels + "{}" + "}" * levels


@pytest.mark.parametrize(
    ("tool", "field", "fault"),
    [
        ({"parameters": nested(60)}, "[1].parameters", "nests more than 60 deep"),
        ({"parameters": nested(900)}, "[1].parameters", "nests more than 60 deep"),
        ({"parameters": '{"const": 1e400}'}, "[1].parameters", "beyond the range of a double"),
        ({"name": "n" * 255}, "[1].name", "more than 256 characters as JSON text"),
        ({"name": "\0" * 50}, "[1].name", "more than 256 characters as JSON text"),
        ({"parameters": '{"a": "' + "ä" * 40_000 + '"}'}, "", "bytes as the form of the output"),
        ({"parameters": '{"a": "' + "a" * 70_000 + '"}'}, "", "characters of strict parameters"),
    ],
)
async def test_a_tool_that_cannot_be_held_to_is_named(frontend, says, tool, field, fault):
    asked = says("{}")
    tools = [TOOLS[1], {"name": "add", "strict": True, **tool}]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await frontend.generate(chat(tools=tools, tool_choice=REQUIRED))
    refusal = refusal_of(caught.value)
    assert refusal.fields == [f"generation.prompt.chat.tools{field}"]
    assert fault in refusal.descriptions[0]
    assert not asked


async def test_a_guide_comes_after_the_reasoning_too(frontend, says):
    asked = says(THOUGHTS + "[4]")
    what = chat(thinks=True, tools=[])
    what.guided.regex = r"\[\d\]"
    assert (await answer(frontend, what)).text.strip() == "[4]"
    assert asked[0].guide.free_prefix.end == "</think>"


async def test_a_guide_that_holds_from_the_start_holds_text(worker, says):
    asked = says("[4]")
    worker.info.capabilities.remove(worker_pb2.CAPABILITY_FREE_PREFIX)
    what = chat(thinks=True, tools=[])
    what.guided.regex = r"\[\d\]"
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, LinkState.READY)
        sequence = await answer(frontend, what)
    assert not asked[0].guide.HasField("free_prefix")
    assert (sequence.text, sequence.reasoning) == ("[4]", "")


async def test_a_mode_that_the_contract_does_not_have_is_refused(frontend):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await frontend.generate(chat(tool_choice={"mode": 99}))
    assert refusal_of(caught.value).fields == ["generation.prompt.chat.tool_choice.mode"]


@pytest.mark.parametrize("missing", ["CAPABILITY_FREE_PREFIX", "CAPABILITY_GUIDED_JSON_SCHEMA"])
async def test_a_worker_that_cannot_hold_calls_is_not_asked_to(worker, says, missing):
    asked = says("4")
    worker.info.capabilities.remove(worker_pb2.Capability.Value(missing))
    async with frontend_of(worker) as frontend:
        await frontend.wait_for(worker, LinkState.READY)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await frontend.generate(chat(tool_choice=REQUIRED))
    assert refusal_of(caught.value).fields == ["generation.prompt.chat.tool_choice"]
    assert not asked


AT_A_PLACE = "'not' is not supported, at #/$defs/1/properties/arguments/properties/x/not"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (AT_A_PLACE, "'not' is not supported, at #/properties/x/not"),
        ("no output could be complete", "no output could be complete"),
    ],
)
async def test_the_workers_refusal_of_the_form_names_the_tool(worker, frontend, fault, told):
    def refuse(stream: Stream, submit: execution_pb2.Submit) -> None:
        status = status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message="no")
        status.details.add().Pack(
            error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="tokenwire")
        )
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field="request.guide.json_schema", description=fault)
        status.details.add().Pack(bad)
        stream.send(failures=[execution_pb2.Failure(handle=submit.handle, status=status)])

    worker.script = refuse
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await frontend.generate(chat(tool_choice=REQUIRED))
    refusal = refusal_of(caught.value)
    assert refusal.fields == ["generation.prompt.chat.tools[1].parameters"]
    assert refusal.descriptions == [told]
