"""A chat in OpenAI's shapes, or the client's own, to the contract's fields."""

import json

import pytest
from tokenwire import Answer, ChatMessage, SequenceResult, ToolCall, _requests
from tokenwire.channel_arguments import REQUEST_BYTES
from tokenwire.frontend.v1 import prompt_pb2
from tokenwire.types import FinishReason, Timings, Usage

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"maximum": 1.0}}}


def chat(*messages, **options):
    return _requests.generation(None, messages, options, REQUEST_BYTES).prompt.chat


def message(**fields):
    return chat({"role": "user", **fields}).messages[0]


def test_chat_messages_and_dicts_make_the_same_request():
    call = ToolCall("add", {"a": 1}, id="c-1")
    typed = [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "1+1?", name="ann"),
        ChatMessage("assistant", tool_calls=[call], reasoning="a sum"),
        ChatMessage("tool", "2", tool_call_id="c-1"),
    ]
    function = {"name": "add", "arguments": '{"a": 1}'}
    plain = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?", "name": "ann"},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "a sum",
            "tool_calls": [{"id": "c-1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "c-1"},
    ]
    made = chat(*typed)
    assert made == chat(*plain)
    assert [each.role for each in made.messages] == [
        prompt_pb2.ROLE_SYSTEM,
        prompt_pb2.ROLE_USER,
        prompt_pb2.ROLE_ASSISTANT,
        prompt_pb2.ROLE_TOOL,
    ]
    assert made.messages[2].tool_calls[0].arguments == '{"a": 1}'
    assert made.messages[2].reasoning == "a sum"
    assert made.messages[3].tool_call_id == "c-1"


def test_chat_options_reach_the_chat():
    tool = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
    made = chat(
        USER,
        tools=[tool, {"type": "function", "function": tool}],
        documents=["a text", {"title": "T", "text": "b"}],
        add_generation_prompt=False,
        continue_final_message=True,
        template_arguments={"enable_thinking": False},
    )
    assert made.tools[0] == made.tools[1]
    assert made.tools[0].parameters == '{"type": "object"}'
    assert [(each.title, each.text) for each in made.documents] == [("", "a text"), ("T", "b")]
    assert made.HasField("add_generation_prompt")
    assert not made.add_generation_prompt
    assert made.continue_final_message
    assert made.template_arguments == '{"enable_thinking": false}'


def test_json_keeps_its_order_and_its_numbers():
    text = '{"b": 9007199254740993, "a": 1.0}'
    as_dict = {"b": 9007199254740993, "a": 1.0}
    for given in (text, as_dict):
        made = chat(
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": given}]},
            tools=[{"name": "f", "parameters": given}],
            template_arguments=given,
        )
        assert made.tools[0].parameters == text
        assert made.messages[0].tool_calls[0].arguments == text
        assert made.template_arguments == text


@pytest.mark.parametrize("value", [[1], 1, {"a": float("nan")}, {"a": {1, 2}}])
def test_what_is_no_json_object_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"^template_arguments="):
        chat(USER, template_arguments=value)


def test_a_content_is_absent_none_empty_or_a_text():
    absent = message()
    assert absent.omit_content
    assert not absent.HasField("content")
    none = message(content=None)
    assert not none.omit_content
    assert not none.HasField("content")
    empty = message(content="")
    assert empty.HasField("content")
    assert not empty.omit_content


def test_a_content_may_be_parts():
    made = message(
        content=[
            {"type": "text", "text": "Look:"},
            {"type": "image_url", "image_url": {"url": "https://a/b.png", "detail": "auto"}},
            {"type": "image_url", "image_url": "data:,"},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ]
    )
    assert not made.HasField("content")
    assert not made.omit_content
    assert [(each.WhichOneof("part")) for each in made.content_parts] == [
        *("text", "image_url", "image_url", "audio_url")
    ]
    assert made.content_parts[1].image_url == "https://a/b.png"
    assert made.content_parts[3].audio_url == "data:audio/wav;base64,AAAA"


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_has_one_of_several_names(name):
    assert message(content="", **{name: "hm"}).reasoning == "hm"


def test_a_message_of_another_service_is_taken_as_it_came():
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"b":1,"a":2}'}}
    made = chat(
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "reasoning_content": "hm",
            "reasoning": "hm",
            "tool_calls": [call],
        },
        {"role": "assistant", "content": "hi", "tool_calls": None},
        {"role": "function", "name": "f", "content": "3"},
    )
    assert made.messages[0].tool_calls[0].arguments == '{"b":1,"a":2}'
    assert made.messages[0].reasoning == "hm"
    assert made.messages[2].role == prompt_pb2.ROLE_FUNCTION


@pytest.mark.parametrize("wraps", [True, False])
def test_a_tool_may_be_strict(wraps):
    tool = {"name": "f", "description": None, "parameters": SCHEMA, "strict": True}
    made = chat(USER, tools=[{"type": "function", "function": tool} if wraps else tool]).tools[0]
    assert made.strict
    assert json.loads(made.parameters) == SCHEMA
    assert list(json.loads(made.parameters)["properties"]) == ["b", "a"]
    assert not chat(USER, tools=[{**tool, "strict": None}]).tools[0].HasField("strict")


def test_a_tool_choice_is_a_mode_or_a_tool():
    for mode, number in (("auto", 1), ("none", 2), ("required", 3)):
        assert chat(USER, tool_choice=mode).tool_choice.mode == number
    named = {"type": "function", "function": {"name": "f"}}
    assert chat(USER, tool_choice=named).tool_choice.name == "f"
    assert not chat(USER).HasField("tool_choice")


def test_switches_of_a_chat_are_sent_as_they_are_given():
    made = chat(USER, parallel_tool_calls=False, escape_control_tokens=True)
    assert made.HasField("parallel_tool_calls")
    assert not made.parallel_tool_calls
    assert made.escape_control_tokens
    assert not chat(USER).HasField("parallel_tool_calls")


def test_an_answer_goes_on_as_a_message():
    call = ToolCall("f", '{"b": 1e2, "a": 9007199254740993}', "c-1")
    calls = SequenceResult("", [1], [], FinishReason.TOOL_CALLS, None, "hm", [call])
    text = SequenceResult("Done.", [1], [], FinishReason.STOP)
    first, second = (
        Answer("r", "t", [sequence], Usage(1, 1), Timings()).message() for sequence in (calls, text)
    )
    made = chat(USER, first, {"role": "tool", "tool_call_id": "c-1", "content": "3"}, second)
    assert made.messages[1] == prompt_pb2.ChatMessage(
        role=prompt_pb2.ROLE_ASSISTANT,
        reasoning="hm",
        tool_calls=[prompt_pb2.ToolCall(id="c-1", name="f", arguments=call.arguments)],
    )
    assert made.messages[3] == prompt_pb2.ChatMessage(
        role=prompt_pb2.ROLE_ASSISTANT, content="Done."
    )


FUNCTION = {"name": "f", "arguments": "{}"}

REFUSED = [
    ("hi", TypeError, r"chat\[1\]='hi': not a ChatMessage or a dict"),
    ({"role": "bot"}, ValueError, r"chat\[1\].role: 'bot' is none"),
    ({"role": ["user"]}, ValueError, r"chat\[1\].role"),
    ({"content": "x"}, ValueError, r"chat\[1\].role: is required"),
    ({**USER, "text": "x"}, ValueError, r"chat\[1\].text: unknown field"),
    ({**USER, "extra": None}, ValueError, r"chat\[1\].extra: unknown field"),
    ({**USER, "refusal": "no"}, ValueError, r"chat\[1\].refusal: is not supported"),
    ({**USER, "audio": {"id": "a"}}, ValueError, r"chat\[1\].audio: is not supported"),
    ({**USER, "function_call": FUNCTION}, ValueError, r"chat\[1\].function_call: is not"),
    ({**USER, "name": 1}, TypeError, r"chat\[1\].name=1"),
    ({**USER, "thinking": 1}, TypeError, r"chat\[1\].thinking=1: not a text"),
    ({**USER, "reasoning": "a", "thinking": "b"}, ValueError, r"chat\[1\].thinking: is not the"),
    ({"role": "user", "content": 1}, TypeError, r"chat\[1\].content=1: not a text, None or a list"),
    ({"role": "user", "content": b"x"}, TypeError, r"chat\[1\].content=b'x'"),
    ({"role": "user", "content": []}, ValueError, r"chat\[1\].content: an empty list"),
    ({"role": "user", "content": "\ud800"}, ValueError, r"chat\[1\].content="),
]
PARTS = [
    (1, TypeError, "=1: not a dict"),
    ("text", TypeError, "='text': not a dict"),
    ({"text": "x"}, ValueError, ".type: None is none of text, image_url"),
    ({"type": "video"}, ValueError, ".type: 'video' is none"),
    ({"type": ["text"]}, ValueError, ".type: "),
    ({"type": "text"}, TypeError, ".text=None: not a text"),
    ({"type": "text", "text": "x", "cache": 1}, ValueError, ".cache: unknown field"),
    ({"type": "image_url"}, TypeError, ".image_url=None"),
    ({"type": "image_url", "image_url": {}}, TypeError, ".image_url.url=None"),
    (
        {"type": "image_url", "image_url": {"url": "u", "detail": "high"}},
        ValueError,
        ".image_url.detail: is not supported",
    ),
    ({"type": "input_audio", "input_audio": {"data": "A"}}, TypeError, ".input_audio.format="),
]
CALLS = [
    (1, TypeError, "=1: not a ToolCall or a dict"),
    ({"type": "custom"}, ValueError, ".type: 'custom' is not supported"),
    ({"function": 1}, TypeError, ".function=1: not a dict"),
    ({"function": FUNCTION, "extra": 1}, ValueError, ".extra: unknown field"),
    ({"function": {**FUNCTION, "extra": 1}}, ValueError, ".function.extra: unknown field"),
    ({"function": {"name": "f", "arguments": [1]}}, TypeError, r".function.arguments=\[1\]"),
    ({"name": "f", "arguments": 1}, TypeError, ".arguments=1"),
]


@pytest.mark.parametrize(
    ("given", "fault", "says"),
    [
        *REFUSED,
        *(
            ({"role": "user", "content": [{"type": "text", "text": ""}, part]}, fault, says)
            for part, fault, text in PARTS
            for says in [rf"chat\[1\].content\[1\]{text}"]
        ),
        *(
            ({"role": "assistant", "tool_calls": [FUNCTION, call]}, fault, says)
            for call, fault, text in CALLS
            for says in [rf"chat\[1\].tool_calls\[1\]{text}"]
        ),
        ({"role": "assistant", "tool_calls": FUNCTION}, TypeError, r"chat\[1\].tool_calls="),
    ],
)
def test_a_message_that_cannot_be_carried_is_refused_by_its_path(given, fault, says):
    with pytest.raises(fault, match=f"^{says}"):
        chat(USER, given)


@pytest.mark.parametrize(
    ("options", "fault", "says"),
    [
        ({"tools": {"name": "f"}}, TypeError, "tools={'name': 'f'}: not a list"),
        ({"tools": ["f"]}, TypeError, r"tools\[0\]='f': not a dict"),
        ({"tools": [{"type": "web_search"}]}, ValueError, r"tools\[0\].type: 'web_search' is not"),
        ({"tools": [{"name": "f", "args": {}}]}, ValueError, r"tools\[0\].args: unknown field"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "args": {}}}]},
            ValueError,
            r"tools\[0\].function.args: unknown field",
        ),
        ({"tools": [{"name": "f", "strict": "yes"}]}, TypeError, r"tools\[0\].strict='yes'"),
        ({"tools": [{"name": "f", "parameters": 1}]}, TypeError, r"tools\[0\].parameters=1"),
        ({"documents": [{"body": "x"}]}, ValueError, r"documents\[0\].body: unknown field"),
        ({"tool_choice": "f"}, ValueError, "tool_choice: 'f' is none of auto, none, required"),
        ({"tool_choice": 1}, TypeError, "tool_choice=1: not a dict"),
        ({"tool_choice": {"type": "custom"}}, ValueError, "tool_choice.type: 'custom'"),
        ({"tool_choice": {"function": {}}}, TypeError, "tool_choice.function.name=None"),
        ({"parallel_tool_calls": "no"}, TypeError, "parallel_tool_calls='no'"),
        ({"escape_control_tokens": "no"}, TypeError, "escape_control_tokens='no'"),
    ],
)
def test_options_of_a_chat_are_refused_by_their_path(options, fault, says):
    with pytest.raises(fault, match=f"^{says}"):
        chat(USER, **options)
