"""Chat templates render as Hugging Face transformers renders them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenwire_frontend.core.chat_variables import chat_variables
from tokenwire_frontend.core.request import ChatPrompt
from tokenwire_frontend.models.chat_template import ChatTemplate, ChatTemplateError
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


def test_the_last_message_can_be_left_open():
    variables = chat(("user", "Hi"), ("assistant", "Hello, "), opens=False)
    text = ChatTemplate(CHATML, {}).render(variables, SHORT_RENDERING, final="Hello, ")
    assert text.endswith("<|assistant|>Hello,")


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


def test_training_marks_are_transparent():
    source = "{% generation %}{{ messages[0].content }}{% endgeneration %}"
    assert render(source, chat(("user", "Hi"))) == "Hi"


def test_tojson_takes_the_options_of_transformers():
    source = "{{ messages | tojson(ensure_ascii=true, indent=1, separators=(',', ':')) }}"
    assert json.loads(render(source, chat(("user", "é")))) == [{"role": "user", "content": "é"}]
    assert "\\u00e9" in render(source, chat(("user", "é")))


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
    with pytest.raises(ChatTemplateError, match="no Jinja template"):
        ChatTemplate(source, {})
