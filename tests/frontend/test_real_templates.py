"""Templates and conversations render as transformers renders them, wherever it does.

The folder is that of TOKENWIRE_TEST_TEMPLATES, or the project's own; its README tells its form.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenwire_frontend.core.chat_variables import chat_variables
from tokenwire_frontend.core.request import ChatPrompt
from tokenwire_frontend.models import chat_template
from tokenwire_frontend.models.chat_template import ChatTemplate, ChatTemplateError
from tokenwire_frontend.models.tokenizer_pool import SHORT_RENDERING

FOLDER = Path(
    os.environ.get("TOKENWIRE_TEST_TEMPLATES") or Path(__file__).parent / "chat_templates"
)
SCENARIOS: dict[str, Any] = json.loads((FOLDER / "scenarios.json").read_text())
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
SPECIAL_TOKENS = {
    "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
}  # fmt: skip


class Clock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Clock:
        return cls(2026, 11, 29, 12, tzinfo=tz)


def as_text(function: dict[str, Any], key: str) -> dict[str, Any]:
    """Returns a tool, or a call of one, with the JSON at `key` as text, as callers send it."""
    inner = function["function"]
    texts = {key: json.dumps(inner[key])} if key in inner else {}
    return {**function, "function": {**inner, **texts}}


def message(given: dict[str, Any], form: str) -> dict[str, Any]:
    """Returns a message; the empty content of an assistant's turn is of this form."""
    changed = dict(given)
    if "tool_calls" in given:
        changed["tool_calls"] = [as_text(call, "arguments") for call in given["tool_calls"]]
    if given["role"] == "assistant" and given.get("content") == "":
        if form == "none":
            changed["content"] = None
        elif form == "absent":
            del changed["content"]
    return changed


def rendered(template: ChatTemplate, scenario: dict[str, Any], form: str = "empty") -> str | None:
    chat = ChatPrompt(
        [message(each, form) for each in scenario["messages"]],
        [as_text(tool, "parameters") for tool in scenario.get("tools", [])],
        scenario.get("documents", []),
        scenario["add_generation_prompt"],
        scenario["continue_final_message"],
        json.dumps(scenario["template_arguments"]),
    )
    try:
        return template.render(
            chat_variables(chat, "chat"),
            SHORT_RENDERING,
            continues_final=chat.continue_final_message,
        )
    except ChatTemplateError:
        return None


@pytest.mark.parametrize("name", EXPECTED)
def test_each_conversation_is_rendered_or_refused_as_by_transformers(name, monkeypatch):
    monkeypatch.setattr(chat_template, "datetime", Clock)
    template = ChatTemplate((FOLDER / "templates" / name).read_text(), SPECIAL_TOKENS)
    texts = {
        scenario: {form: rendered(template, SCENARIOS[scenario], form) for form in expected}
        if isinstance(expected, dict)
        else rendered(template, SCENARIOS[scenario])
        for scenario, expected in EXPECTED[name].items()
    }
    assert texts == EXPECTED[name]
