"""The page about this engine: every setting is on it, and its examples are accepted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from tokenwire_service.settings import parse
from tokenwire_worker.engines.tensorrt_llm import arguments
from tokenwire_worker.engines.tensorrt_llm.settings import TensorRtLlmSettings
from tokenwire_worker.settings import WorkerSettings

from tests.services.processes import ROOT

PAGE = (ROOT / "docs/engines/tensorrt_llm.md").read_text()
COMMANDS = [
    shlex.split(command.partition("--engine")[2].replace("\\\n", " "))
    for command in re.findall(r"tokenwire-worker (?:.*\\\n)*.*", PAGE)
    if "--model" in command and "-f deploy" not in command and "docker" not in command
]


def names(model: type[BaseModel], group: str = "") -> Iterator[tuple[str, str]]:
    """Yields each setting as a flag spells it, with the group that it is in."""
    for name, field in model.model_fields.items():
        flag = name.replace("_", "-")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from names(field.annotation, flag)
        else:
            yield group, flag


def test_every_setting_is_on_the_page():
    text = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    code = text.split("`")[1::2]
    words = {re.sub(r"^--(no-)?tensorrt-llm\.", "", each.split()[0]) for each in code}
    missing = [
        f"{group}.{name}".strip(".")
        for group, name in names(TensorRtLlmSettings)
        if not {name, f"{group}.{name}"} & words
    ]
    assert missing == []


def test_the_page_names_no_setting_that_is_not_there():
    known = {f"{group}.{name}".strip(".") for group, name in names(TensorRtLlmSettings)}
    shown = set(re.findall(r"--(?:no-)?tensorrt-llm\.([a-z0-9.-]+)", PAGE))
    assert len(shown) > 10
    assert shown <= known


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[2])
def test_its_commands_are_accepted(command):
    settings = parse(WorkerSettings, "test", ["--engine", *command])
    own = settings.tensorrt_llm
    arguments.constructor_arguments(own, settings.model, context_tokens=4096)
    arguments.speculative_arguments(own.speculative_config)


def test_its_further_arguments_are_accepted():
    given = shlex.split(" ".join(re.findall(r"^--tensorrt-llm\.arg .*", PAGE, re.MULTILINE)))
    assert len(given) == 6
    settings = parse(WorkerSettings, "test", ["--model", "x", *given])
    arguments.constructor_arguments(settings.tensorrt_llm, "x", context_tokens=4096)


def test_there_are_commands():
    assert len(COMMANDS) == 6
