"""Chat templates render as Hugging Face transformers renders them."""

from __future__ import annotations

from typing import Any

import pytest
from tokenwire_frontend.core.chat_variables import chat_variables
from tokenwire_frontend.core.request import ChatPrompt
from tokenwire_frontend.models.chat_template import ChatTemplate, ChatTemplateError, ChatTemplates
from tokenwire_frontend.models.tokenizer_pool import SHORT_RENDERING

CHATML = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chat(*messages: tuple[str, str], opens: bool = True, **rest: Any) -> dict[str, Any]:
    turns = [{"role": role, "content": content} for role, content in messages]
    parts = {"tools": [], "documents": [], "template_arguments": "", **rest}
    prompt = ChatPrompt(turns, add_generation_prompt=opens, continue_final_message=False, **parts)
    return chat_variables(prompt, "chat")


def render(source: str, variables: dict[str, Any], **special_tokens: str) -> str:
    return ChatTemplate(source, special_tokens).render(variables, SHORT_RENDERING)


def test_turns_and_the_opening_of_the_answer():
    text = render(CHATML, chat(("system", "Be short."), ("user", "Hi")))
    assert text == "<|system|>Be short.<|end|>\n<|user|>Hi<|end|>\n<|assistant|>"


def continued(source: str, *parts: Any, **final: Any) -> str:
    """Renders a chat whose last message is left open."""
    variables = chat(("user", "The end, e"), opens=False)
    variables["messages"].append({"role": "assistant", "content": list(parts), **final})
    return ChatTemplate(source, {}).render(variables, SHORT_RENDERING, continues_final=True)


@pytest.mark.parametrize("said", ["end", "The end", "e", "<|end|>", "Hello, \n ", "", " "])
def test_the_last_message_can_be_left_open_whatever_it_says(said):
    assert continued(CHATML, content=said) == f"<|user|>The end, e<|end|>\n<|assistant|>{said}"


def test_a_message_that_the_template_trims_is_continued_without_its_last_space():
    source = "{% for m in messages %}{{ m.content | trim }}|{% endfor %}"
    assert continued(source, content=" so far, ") == "The end, e|so far,"
    assert continued(source, content="") == "The end, e|"


def test_the_last_text_of_a_message_in_parts_is_left_open():
    source = (
        "{% for m in messages if m.content is not string %}"
        "{% for part in m.content %}({{ part.text }}){% endfor %}{% endfor %}"
    )
    text, other = {"type": "text", "text": "a "}, {"type": "other"}
    assert continued(source, text, {**text, "text": "b "}, other) == "(a )(b "


@pytest.mark.parametrize(
    ("source", "final", "reason"),
    [
        (CHATML, {"content": None}, "no text to continue"),
        (CHATML, {"content": []}, "no text to continue"),
        (
            "{% for m in messages %}{{ m.content | title }}{% endfor %}",
            {"content": "a"},
            "as it is",
        ),
        ("{{ messages[0].content }}", {"content": "a"}, "as it is"),
        ("{{ messages | tojson }}", {"content": "a"}, "does not read `content`"),
    ],
)
def test_what_cannot_be_continued_is_refused(source, final, reason):
    with pytest.raises(ChatTemplateError, match=reason):
        continued(source, **final)


@pytest.mark.parametrize(
    ("names", "tools", "text"),
    [
        (["default", "tool_use", "rag"], [], "default"),
        (["default", "tool_use"], ["f"], "tool_use"),
        (["default"], ["f"], "default"),
        (["tool_use"], ["f"], "tool_use"),
    ],
)
def test_the_template_named_tool_use_is_that_of_chats_with_tools(names, tools, text):
    templates = ChatTemplates(ChatTemplate, {name: name for name in names}, {})
    variables = {"messages": [], "tools": tools or None}
    assert templates.choose(variables).render(variables, SHORT_RENDERING) == text


def test_a_chat_that_no_template_is_for_is_refused():
    templates = ChatTemplates(ChatTemplate, {"tool_use": "x"}, {})
    assert templates
    with pytest.raises(ChatTemplateError, match="none named `default`"):
        templates.choose({"tools": None})
    assert not ChatTemplates(ChatTemplate, {"rag": "x"}, {})


def test_special_tokens_arguments_tools_and_documents_reach_the_template():
    source = "{{ bos_token }}{{ mood }}{{ tools | tojson }}{{ documents[0].title }}"
    parameters = '{"zeta": 9007199254740993, "a": "<b>"}'
    variables = chat(
        ("user", "Hi"),
        tools=[{"type": "function", "function": {"name": "a<b", "parameters": parameters}}],
        documents=[{"title": "T"}],
        template_arguments='{"mood": "calm"}',
    )
    tool = f'{{"type": "function", "function": {{"name": "a<b", "parameters": {parameters}}}}}'
    assert render(source, variables, bos_token="<s>") == f"<s>calm[{tool}]T"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('turns must alternate') }}", "turns must alternate"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages[0].content / 2 }}", "unsupported operand"),
        ("{{ messages[7].content }}", "no element 7"),
        ("{{ messages[0].content.nothing.at_all }}", "no attribute 'nothing'"),
        ("{{ messages[0].content() }}", "not callable"),
        ("{% for a, b in [1] %}{% endfor %}", "cannot unpack"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "calls itself without end"),
        ("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "calls itself without end"),
        ("{% include 'x' %}", "no loader"),
        ("{{ namespace(_a=1) }}", "begins with `_`"),
        ("{% set ns = namespace() %}{% set ns._a = 1 %}", "begins with `_`"),
        ("{{ dict.update({}, a=1) }}", "no attribute 'update'"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ("{{ messages | tojson(ascii=true) }}", "unexpected keyword argument"),
        ("{{ raise_exception('x' * 100000) }}", r"x{500}\.\.\."),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused(source, reason):
    with pytest.raises(ChatTemplateError, match=reason):
        render(source, chat(("user", "Hi")))


@pytest.mark.parametrize(
    "source",
    ["{% if %}", "{{ " + "(" * 10_000, "{% for %}" * 3, "{{ x | nothing }}", "{% nothing %}"],
)
def test_what_is_no_template_is_refused_when_it_is_read(source):
    with pytest.raises(ChatTemplateError, match="not a Jinja template"):
        ChatTemplate(source, {})
