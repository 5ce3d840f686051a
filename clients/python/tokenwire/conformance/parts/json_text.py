"""JSON: what reaches the chat template, and what is refused."""

from __future__ import annotations

from functools import partial

from tokenwire.conformance.deployment import Deployment
from tokenwire.conformance.refusal import refused
from tokenwire.conformance.rule import Rule, Skipped, expect
from tokenwire.frontend.v1 import prompt_pb2

_DIGITS = "12345678901234567890"
"""More than a double has."""
_PARAMETERS = (
    '{"type": "object", "properties": {"zeta": {"type": "integer", "maximum": '
    + _DIGITS
    + '}, "alpha": {"type": "string"}}}'
)
_INVALID = ('{"a": ', '{"a": NaN}', '{"a": Infinity}', '{"a": 1, "a": 2}')


def _chat(parameters: str = "", template_arguments: str = "") -> prompt_pb2.Chat:
    tools = [prompt_pb2.Tool(name="lookup", parameters=parameters)] if parameters else []
    return prompt_pb2.Chat(
        messages=[prompt_pb2.ChatMessage(role=prompt_pb2.ROLE_USER, content="Hello")],
        tools=tools,
        template_arguments=template_arguments,
    )


def _as_written(deployment: Deployment) -> None:
    deployment.need_chat_template()
    text = deployment.render(_chat(_PARAMETERS)).text
    if "zeta" not in text:
        raise Skipped(f"the chat template of {deployment.model.name} shows no tools")
    expect(text.find("zeta") < text.find("alpha"), "the template got keys in another order")
    if "maximum" in text:
        expect(_DIGITS in text, f"the template got other digits than {_DIGITS}")


def _invalid(deployment: Deployment) -> None:
    deployment.need_chat_template()
    for text in _INVALID:
        refusal = refused(partial(deployment.render, _chat(text)))
        refusal.expect_field("chat.tools[0].parameters")
        refusal = refused(partial(deployment.render, _chat("", text)))
        refusal.expect_field("chat.template_arguments")


RULES = (
    Rule("J1", "keys and digits as written", _as_written),
    Rule("J2", "invalid JSON is refused", _invalid),
)
