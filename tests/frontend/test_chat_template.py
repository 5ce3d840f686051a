"""Chat templates render as Hugging Face transformers renders them."""

from __future__ import annotations

import json

import pytest
from tokenwire_frontend.core.request import ChatPrompt
from tokenwire_frontend.models.chat_template import ChatTemplate, ChatTemplateError
from tokenwire_frontend.models.tokenizer import Tokenizer

from tests.frontend.tokenizer_kinds import byte_level

CHATML = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chat(*messages: tuple[str, str], opens: bool = True, goes_on: bool = False, **rest):
    turns = [{"role": role, "content": content} for role, content in messages]
    parts = {"tools": [], "documents": [], "template_arguments": {}, **rest}
    return ChatPrompt(turns, add_generation_prompt=opens, continue_final_message=goes_on, **parts)


def test_turns_and_the_opening_of_the_answer():
    text = ChatTemplate(CHATML, {}).render(chat(("system", "Be short."), ("user", "Hi")))
    assert text == "<|system|>Be short.<|end|>\n<|user|>Hi<|end|>\n<|assistant|>"


def test_the_last_message_can_be_left_open():
    prompt = chat(("user", "Hi"), ("assistant", "Hello, "), opens=False, goes_on=True)
    assert ChatTemplate(CHATML, {}).render(prompt).endswith("<|assistant|>Hello,")


def test_special_tokens_arguments_tools_and_documents_reach_the_template():
    source = "{{ bos_token }}{{ mood }}{{ tools | tojson }}{{ documents[0].title }}"
    prompt = chat(
        ("user", "Hi"),
        tools=[{"name": "a<b"}],
        documents=[{"title": "T"}],
        template_arguments={"mood": "calm"},
    )
    text = ChatTemplate(source, {"bos_token": "<s>"}).render(prompt)
    assert text == '<s>calm[{"name": "a<b"}]T'


def test_training_marks_are_transparent():
    source = "{% generation %}{{ messages[0].content }}{% endgeneration %}"
    assert ChatTemplate(source, {}).render(chat(("user", "Hi"))) == "Hi"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('turns must alternate') }}", "turns must alternate"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages[0].content / 2 }}", "unsupported operand"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused(source, reason):
    with pytest.raises(ChatTemplateError, match=reason):
        ChatTemplate(source, {}).render(chat(("user", "Hi")))


def test_what_is_no_template_is_refused_when_it_is_read():
    with pytest.raises(ChatTemplateError, match="no Jinja template"):
        ChatTemplate("{% if %}", {})


@pytest.mark.parametrize(
    "config",
    [
        {"chat_template": "A"},
        {
            "chat_template": [
                {"name": "tool_use", "template": "B"},
                {"name": "default", "template": "A"},
            ]
        },
    ],
)
def test_the_template_is_found_in_the_config_in_both_of_its_forms(config):
    files = {
        "tokenizer.json": byte_level().to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
    }
    template = Tokenizer(files).chat_template
    assert template is not None
    assert template.render(chat(("user", "Hi"))) == "A"
    files["chat_template.jinja"] = b"C"
    template = Tokenizer(files).chat_template
    assert template is not None
    assert template.render(chat(("user", "Hi"))) == "C"
