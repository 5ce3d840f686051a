"""/v1/responses, as OpenAI's client sees it."""

from __future__ import annotations

from pydantic import BaseModel

from tests.openai.test_chat import CALL, THOUGHTS
from tests.table import table

TOOL = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": False,
}
THINKING = {"chat_template_kwargs": {"enable_thinking": True}}


class Sum(BaseModel):
    """What an answer is parsed as."""

    total: int


async def test_an_answer(deployment):
    deployment.says("Four é.")
    got = await deployment.client.responses.create(
        model="demo",
        instructions="Be short.",
        input="2+2?",
        max_output_tokens=50,
        store=False,
        metadata={"a": "b"},
    )
    assert got.metadata == {"a": "b"}
    assert (got.output_text, got.status, got.model) == ("Four é.", "completed", "demo")
    assert got.usage.output_tokens > 1
    prompt = deployment.prompt()
    assert prompt.index("Be short.") < prompt.index("2+2?")
    assert deployment.asked[-1].stopping.max_tokens == 50
    cut = await deployment.client.responses.create(model="demo", input="2+2?", max_output_tokens=1)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


async def test_reasoning_text_and_a_call_in_a_stream(deployment):
    """Each item is opened, told and closed, one after the other, and the sum is what is whole."""
    deployment.says(THOUGHTS + "Adding.\n" + CALL, each=1)
    ask = {"model": "demo", "input": "2+2?", "tools": [TOOL], "extra_body": THINKING}
    whole = await deployment.client.responses.create(**ask)
    events = [event async for event in await deployment.client.responses.create(**ask, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[1].type] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    kinds = [each.type for each in whole.output]
    assert kinds == ["reasoning", "message", "function_call"]
    last = events[-1].response
    for place, (item, told) in enumerate(zip(whole.output, last.output, strict=True)):
        own = [event for event in events if getattr(event, "output_index", None) == place]
        assert own[0].type == "response.output_item.added"
        assert own[-1].type == "response.output_item.done"
        deltas = "".join(event.delta for event in own if event.type.endswith(".delta"))
        assert deltas == (item.arguments if item.type == "function_call" else item.content[0].text)
        assert told.model_dump(exclude={"id", "call_id"}) == item.model_dump(
            exclude={"id", "call_id"}
        )


async def test_a_choice_of_tools(deployment):
    deployment.says('{"name": "add", "arguments": {"a": 2}}')
    named = {"type": "function", "name": "add"}
    for choice in (named, {"type": "allowed_tools", "mode": "required", "tools": [named]}):
        got = await deployment.client.responses.create(
            model="demo", input="2+2?", tools=[TOOL], tool_choice=choice
        )
        assert [each.type for each in got.output] == ["function_call"]
        assert got.tool_choice.model_dump() == choice


async def test_what_was_answered_is_sent_back(deployment):
    deployment.says(THOUGHTS + CALL)
    ask = {"model": "demo", "tools": [TOOL], "extra_body": THINKING}
    first = await deployment.client.responses.create(**ask, input="2+2?")
    call = first.output[-1]
    assert (call.name, call.arguments) == ("add", '{"a": 2}')
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "4"}
    deployment.says("It is 4.</think>4")
    sent = [{"role": "user", "content": "2+2?"}, *(each.model_dump() for each in first.output)]
    got = await deployment.client.responses.create(**ask, input=[*sent, result])
    assert got.output_text == "4"
    assert deployment.prompt().count("<|assistant|>") == 2


async def test_structured_output(deployment):
    deployment.says('{"total": 4}')
    got = await deployment.client.responses.parse(model="demo", input="2+2?", text_format=Sum)
    assert got.output_parsed == Sum(total=4)
    assert "total" in deployment.asked[-1].guide.json_schema


async def test_an_error_after_the_beginning(deployment):
    deployment.waits()
    stream = await deployment.client.responses.create(model="demo", input="2+2?", stream=True)
    worker = deployment.worker.streams[-1]
    submit = await deployment.submitted()
    worker.tokens(submit.handle, 300)
    worker.fail(submit.handle)
    *_, last = [event async for event in stream]
    assert (last.type, last.code) == ("error", "queue_full")


FAULTS = {
    "previous": ({"previous_response_id": "resp_1"}, "previous_response_id"),
    "stored": ({"store": True}, "store"),
    "background": ({"background": True}, "background"),
    "a tool of theirs": ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        "input[0].content[0].type",
    ),
    "an item": ({"input": [{"type": "item_reference"}]}, "input[0].type"),
    "several": ({"n": 2}, "n"),
    "max_output_tokens": ({"max_output_tokens": 9999}, "max_output_tokens"),
    "a tool without a name": ({"tools": [{"type": "function"}]}, "tools[0].name"),
    "schema": ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
}


async def test_a_field_at_fault_is_named(deployment):
    with table() as row:
        for name, (changed, param) in FAULTS.items():
            with row(name):
                body = {"model": "demo", "input": "2+2?", **changed}
                got = await deployment.http.post("/v1/responses", json=body)
                assert (got.status_code, got.json()["error"]["param"]) == (400, param), got.text
