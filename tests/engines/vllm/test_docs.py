"""The page about the vLLM engine: every setting is on it, and its examples are accepted."""

import re
import shlex

from tokenwire_service.settings import parse
from tokenwire_worker.engines.vllm.settings import VllmSettings
from tokenwire_worker.settings import WorkerSettings

from tests.engines.vllm.stand_in import installed
from tests.services.processes import ROOT

PAGE = (ROOT / "docs/engines/vllm.md").read_text()


def commands():
    for command in re.findall(r"tokenwire-worker (?:.*\\\n)*.*", PAGE):
        if command.startswith("tokenwire-worker --engine vllm --model"):
            yield shlex.split(command.replace("\\\n", " "))[1:]


def test_every_setting_is_in_a_table_and_nothing_else_is():
    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(name.replace("_", "-") for name in VllmSettings.model_fields)


def test_every_launch_is_accepted_with_its_arguments():
    found = list(commands())
    assert len(found) >= 6
    with installed():
        from tokenwire_worker.engines.vllm.arguments import engine_arguments

        for command in found:
            settings = parse(WorkerSettings, "test", command)
            assert settings.engine == "vllm"
            assert engine_arguments(settings, "ipc:///tmp/x").model == settings.model


def test_every_further_example_is_accepted():
    examples = re.findall(r"^--vllm\..*", PAGE, re.MULTILINE)
    assert len(examples) >= 5
    with installed():
        from tokenwire_worker.engines.vllm.arguments import engine_arguments

        for example in examples:
            settings = parse(WorkerSettings, "test", ["--model", "/m", *shlex.split(example)])
            engine_arguments(settings, "ipc:///tmp/x")
